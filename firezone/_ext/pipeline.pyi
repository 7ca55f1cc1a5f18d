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
WORKERS: int
"""As many as there can be."""

@final
class Pipeline:
    """The order of the stages, for the data threads and for single-threaded callers.

    `wake_fd` is an eventfd that is written when events wait, or -1. `misses_per_peer` and `misses`
    bound the packets that wait for Python's decision in each lane, which is a direction of a
    worker. In the long run a peer may bring `misses_per_second`, the host itself
    `own_misses_per_second`, after `burst` at once. What is beyond is dropped and counted as
    `over_budget`.

    There are as many workers as `demuxes`, whose rates are each worker's own; `worker` is the
    number of one, from 0.

    Fragments only pass where no policy looks at ports.
    """

    def __new__(
        cls,
        sessions: Sessions,
        flows: Flows,
        paths: Paths,
        *demuxes: Demux,
        mtu: int = 1280,
        wake_fd: int = -1,
        misses_per_peer: int = 32,
        misses: int = 256,
        misses_per_second: int = 2000,
        own_misses_per_second: int = 8000,
        burst: int = 256,
        pass_fragments: bool = False,
    ) -> Self: ...
    @property
    def workers(self) -> int: ...
    def outbound(self, batch: PacketBatch, now: int, worker: int = 0) -> None:
        """IP packets in, sealed datagrams with `remote` set out as the PASS slots."""

    def inbound(self, batch: PacketBatch, now: int, worker: int = 0) -> None:
        """Datagrams with `remote` and `local` set in, IP packets out as the PASS slots.

        Transport data of other workers' peers becomes HANDED_OVER.
        """

    def injected_up(self, batch: PacketBatch, now: int, worker: int = 0) -> bool:
        """Fill and run a batch of what was injected; False when nothing waits."""

    def injected_down(self, batch: PacketBatch, now: int, worker: int = 0) -> bool:
        """The same for what goes to the TUN device."""

    def taken_over(self, batch: PacketBatch, now: int, worker: int = 0) -> bool:
        """The same for what other workers have handed over."""

    def attach(
        self, tun: Tun, udp: UdpSockets, wake_up_fd: int, wake_down_fd: int, worker: int = 0
    ) -> None:
        """The descriptors of a worker's threads; only while none runs."""

    def stop(self) -> None:
        """Tell all loops to return."""

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

    def counters_of(self, worker: int) -> dict[str, int]:
        """The same of one worker."""

def worker_of(packet: bytes, workers: int) -> int:
    """The worker whose flow an IP packet from the TUN device is of: the kernel's filter agrees."""
