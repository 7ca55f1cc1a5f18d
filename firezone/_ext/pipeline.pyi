from typing import Self, final

from firezone._ext.batch import PacketBatch
from firezone._ext.demux import Demux
from firezone._ext.flows import Flows
from firezone._ext.paths import Paths
from firezone._ext.session import Sessions
from firezone._ext.tun import Tun
from firezone._ext.udp import UdpSockets

_Address = tuple[int, bytes, int]
_Event = tuple[int, int, int, bytes, _Address | None, _Address | None]
"""(kind, peer, argument, payload, local, remote); what they mean depends on the kind."""

DATAGRAM: int
FLOW_MISSED_UP: int
FLOW_MISSED_DOWN: int
UNROUTABLE_PACKET: int
CONFIRMED: int

@final
class Pipeline:
    """The order of the stages, for the two data threads and for single-threaded callers.

    `wake_fd` is an eventfd that is written when events wait, or -1. `misses_per_peer` and `misses`
    bound the packets that wait for Python's decision in each direction. In the long run a peer may
    bring `misses_per_second`, the host itself `own_misses_per_second`, after `burst` at once. What
    is beyond is dropped and counted as `over_budget`.
    """

    def __new__(
        cls,
        sessions: Sessions,
        flows: Flows,
        paths: Paths,
        demux: Demux,
        *,
        mtu: int = 1280,
        wake_fd: int = -1,
        misses_per_peer: int = 32,
        misses: int = 256,
        misses_per_second: int = 2000,
        own_misses_per_second: int = 8000,
        burst: int = 256,
    ) -> Self: ...
    def outbound(self, batch: PacketBatch, now: int) -> None:
        """IP packets in, sealed datagrams with `remote` set out as the PASS slots."""

    def inbound(self, batch: PacketBatch, now: int) -> None:
        """Datagrams with `remote` and `local` set in, IP packets out as the PASS slots."""

    def injected_up(self, batch: PacketBatch, now: int) -> bool:
        """Fill and run a batch of what was injected; False when nothing waits."""

    def injected_down(self, batch: PacketBatch, now: int) -> bool:
        """The same for what goes to the TUN device."""

    def attach(self, tun: Tun, udp: UdpSockets, wake_up_fd: int, wake_down_fd: int) -> None:
        """The descriptors of the threads; only while none runs."""

    def run_up(self) -> int:
        """Run the loop TUN to UDP until `stop()`; 0, or the errno that ended it. Needs no GIL."""

    def run_down(self) -> int:
        """Run the loop UDP to TUN until `stop()`; 0, or the errno that ended it. Needs no GIL."""

    def stop(self) -> None:
        """Tell both loops to return."""

    def seal(self, slot: int, packet: bytes) -> bool:
        """Inject a packet to seal past the flow table; empty = keepalive. False when full."""

    def deliver(self, packet: bytes) -> bool:
        """Inject a packet to write to the TUN past the flow table. False when full."""

    def reinject(self, direction: int, slot: int, packet: bytes) -> bool:
        """Inject a packet in front of the flow table. False when full."""

    def close_slot(self, slot: int) -> None:
        """Drop what is on its way in the rings for or from this peer."""

    def poll_event(self) -> _Event | None: ...
    def counters(self) -> dict[str, int]:
        """Packets and bytes each way, calls they took, and drops by verdict name in lower case."""
