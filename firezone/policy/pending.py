"""Flows that wait for the portal's answer, and the packets that wait with them.

An intent is repeated by traffic, at most every two seconds: the portal answers it or not, and
nobody asks for a resource that nobody uses any more. Only what a break interrupted is asked for
without traffic (`resumption`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from firezone.durations import SECOND
from firezone.model import ResourceId

INTENT_INTERVAL = 2 * SECOND
BUFFERED_PACKETS = 128

_TCP = 6
_SYN_WITHOUT_ACK = 0x02
_FLAGS_OF_INTEREST = 0x12


class UniquePackets:
    """A ring of packets that holds a retransmission only once; a full one loses its oldest.

    TCP sends its SYN again with a new timestamp, so a SYN of the same connection and sequence
    number replaces the one that waits.
    """

    def __init__(self, capacity: int = BUFFERED_PACKETS) -> None:
        self._packets: deque[bytes] = deque(maxlen=capacity)

    def push(self, packet: bytes) -> None:
        syn = _syn_identity(packet)
        for i, waiting in enumerate(self._packets):
            if waiting == packet:
                return
            if syn is not None and _syn_identity(waiting) == syn:
                self._packets[i] = packet
                return
        self._packets.append(packet)

    def drain(self) -> Iterator[bytes]:
        while self._packets:
            yield self._packets.popleft()

    def __len__(self) -> int:
        return len(self._packets)


@dataclass(slots=True)
class PendingFlow:
    """One resource that we asked the portal for."""

    resource: ResourceId
    last_intent: int
    packets: UniquePackets = field(default_factory=UniquePackets, repr=False)


class PendingFlows:
    """At most one pending flow per resource."""

    def __init__(self) -> None:
        self._flows: dict[ResourceId, PendingFlow] = {}

    def wait(self, resource: ResourceId, packet: bytes, now: int) -> bool:
        """Buffer a packet. True if the portal is to be asked now."""
        flow = self._flows.get(resource)
        if flow is None:
            flow = self._flows[resource] = PendingFlow(resource, last_intent=now)
            flow.packets.push(packet)
            return True
        flow.packets.push(packet)
        if now - flow.last_intent < INTENT_INTERVAL:
            return False
        flow.last_intent = now
        return True

    def expect(self, resource: ResourceId, now: int) -> None:
        """Wait without a packet, or go on waiting: the portal is asked now."""
        self._flows.setdefault(resource, PendingFlow(resource, last_intent=now)).last_intent = now

    def take(self, resource: ResourceId) -> PendingFlow | None:
        """End the wait, for better or worse."""
        return self._flows.pop(resource, None)

    def waiting(self, resource: ResourceId) -> Iterator[bytes]:
        """Take the packets out and go on waiting."""
        flow = self._flows.get(resource)
        return flow.packets.drain() if flow is not None else iter(())

    def asked_at(self, resource: ResourceId) -> int | None:
        """When the portal was last asked for it, None if nobody waits."""
        flow = self._flows.get(resource)
        return flow.last_intent if flow is not None else None

    def __contains__(self, resource: object) -> bool:
        return resource in self._flows


def _syn_identity(packet: bytes) -> tuple[bytes, bytes] | None:
    """Addresses, ports and sequence number of a TCP SYN; None for anything else."""
    if not packet:
        return None
    match packet[0] >> 4:
        case 4 if len(packet) >= 20 and packet[9] == _TCP:
            start, addresses = (packet[0] & 0x0F) * 4, packet[12:20]
        case 6 if len(packet) >= 40 and packet[6] == _TCP:
            start, addresses = 40, packet[8:40]
        case _:
            return None
    header = packet[start : start + 14]
    if len(header) < 14 or header[13] & _FLAGS_OF_INTEREST != _SYN_WITHOUT_ACK:
        return None
    return addresses, header[:8]
