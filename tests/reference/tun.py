"""The slow twin of the TUN kernel: what is read and written, as packets without any offload."""

from __future__ import annotations

from firezone._ext.batch import Verdict
from tests.reference import ip as slow
from tests.reference import offload

LIMIT = 2048 - 96
"""Bytes that a slot of the usual batch has room for."""

Read = tuple[Verdict, bytes | None]
"""Without the bytes where nothing is promised about them."""


class Tun:
    def __init__(self, mtu: int, has_header: bool) -> None:
        self.mtu = mtu
        self.has_header = has_header

    def read(self, frame: bytes) -> list[Read]:
        """The slots that one read of the device makes."""
        if not self.has_header:
            return [self._packet(frame)]
        if len(frame) < offload.HEADER.size:
            return [(Verdict.MALFORMED, None)]
        vnet, packet = offload.decode(frame)
        if vnet.type == offload.PLAIN:
            return [self._finished(vnet, packet)]
        if not is_known(vnet):
            return [(Verdict.MALFORMED, None)]
        packets = offload.split(frame)
        if len(packets[0]) > min(self.mtu, LIMIT):
            return [(Verdict.TOO_LONG, None)]
        return [(Verdict.PASS, packet) for packet in packets]

    def write(self, slots: list[tuple[Verdict, bytes]]) -> list[bytes]:
        """The packets that leave; the kernel may merge neighbours of a flow."""
        return [packet for verdict, packet in slots if verdict is Verdict.PASS]

    def written(self, frame: bytes) -> list[bytes]:
        """The packets of one write to the device. AssertionError for what no host would take."""
        return offload.split(frame) if self.has_header else [frame]

    def _packet(self, packet: bytes) -> Read:
        # What fills a slot may have been cut off; with a header the rest is read, too.
        longest = min(self.mtu, LIMIT if self.has_header else LIMIT - 1)
        if len(packet) > longest:
            return Verdict.TOO_LONG, None
        return Verdict.PASS, packet

    def _finished(self, vnet: offload.Vnet, packet: bytes) -> Read:
        """With the checksum that the host left to the hardware."""
        verdict, _ = self._packet(packet)
        if verdict is not Verdict.PASS or not vnet.flags & offload.NEEDS_CHECKSUM:
            return self._packet(packet)
        field = vnet.start + vnet.offset
        if vnet.start >= len(packet) or field + 2 > len(packet):
            return Verdict.MALFORMED, None
        filled = bytearray(packet)
        slow.put(filled, field, slow.checksum(packet[vnet.start :]) or 0xFFFF)
        return Verdict.PASS, bytes(filled)


def is_known(vnet: offload.Vnet) -> bool:
    kinds = (offload.TCP4, offload.TCP6, offload.UDP)
    return vnet.type & ~offload.ECN in kinds and bool(vnet.flags & offload.NEEDS_CHECKSUM)
