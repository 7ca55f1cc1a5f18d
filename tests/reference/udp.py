"""The slow twin of the UDP kernel: one datagram after the other, through a host that merges none.

What offloads do on the way must not show: neither in the datagrams nor in the verdicts.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from firezone._ext.batch import Verdict
from tests.reference.batch import Address, Slot

LONGEST = {4: 65535 - 20 - 8, 6: 65535 - 8}


class Datagram(NamedTuple):
    source: Address
    destination: Address
    ecn: int
    payload: bytes


class UdpSockets:
    """`sockets`: the address that each family's socket sends from, if no other is asked for.

    `own`: the packed addresses that the host may send from.
    """

    def __init__(self, sockets: dict[int, Address], own: Collection[bytes]) -> None:
        self.sockets = sockets
        self.own = own

    def send(self, slots: list[Slot]) -> list[Datagram]:
        """What leaves, in the order of the slots; what cannot becomes SEND_FAILED."""
        sent = []
        for slot in slots:
            if slot.verdict is not Verdict.PASS:
                continue
            if self._can_send(slot):
                sent.append(Datagram(self._source(slot), slot.remote, slot.ecn, slot.packet))
            else:
                slot.verdict = Verdict.SEND_FAILED
        return sent

    def _can_send(self, slot: Slot) -> bool:
        family, _, port = slot.remote
        if family not in self.sockets or port == 0 or len(slot.packet) > LONGEST[family]:
            return False
        return slot.local[0] == 0 or slot.local[1] in self.own

    def _source(self, slot: Slot) -> Address:
        """The port is always the socket's."""
        family, packed, port = self.sockets[slot.remote[0]]
        return family, slot.local[1] or packed, port


def receive(datagram: Datagram, room: int) -> Slot:
    """Its slot in a batch that has so much room in each."""
    verdict = Verdict.TOO_LONG if len(datagram.payload) > room else Verdict.PASS
    ends = {"local": datagram.destination, "remote": datagram.source}
    return Slot(datagram.payload[:room], 0, 0, datagram.ecn, verdict, 0, **ends)
