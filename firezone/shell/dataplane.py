"""The data plane: the kernels, their two threads, and the commands of the control layer.

`up` runs from the TUN device to UDP, `down` from UDP to the TUN device; both loops hold no GIL from
`start()` to `stop()`. Python writes the shared tables (sessions, flows, paths, channels) in place:
the threads see each change at their next packet, and memory is freed after both have passed a
quiescent point. What the threads cannot decide comes up through rings, `poll_event()`, announced
by `events_fd`; packets that we made or decided go down through rings, too.

What a thread still had in hand when a peer was removed is dropped, so a slot may be used again at
once for another peer.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator

from firezone import commands
from firezone._ext import pipeline as kernel
from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.demux import Channels, Demux
from firezone._ext.flows import Flows
from firezone._ext.paths import Paths
from firezone._ext.session import Sessions
from firezone._ext.tun import Tun
from firezone._ext.udp import UdpSockets
from firezone.errors import LocalError
from firezone.model import Endpoint, Entropy, Transmit
from firezone.shell.clock import boottime_ns
from firezone.shell.dataplane_values import (
    Flow,
    address_tuple,
    endpoint_of,
    event_of,
    flow_of,
    key_tuple,
    rewrite_tuple,
)

__all__ = ["SLOTS", "Dataplane", "Flow", "SingleThreaded"]

SLOTS = 16_384
"""Peers that one data plane can hold, by default."""

_STOP_SECONDS = 1.0


class _Kernels:
    """The tables and the commands on them; how packets get in and out is the subclass's matter."""

    def __init__(
        self,
        *,
        own_public_key: bytes,
        flow_capacity: int,
        slots: int,
        mtu: int,
        entropy: Entropy,
        wake_fd: int,
    ) -> None:
        self._counters: Counter[str] = Counter()
        self._sessions = Sessions(slots)
        self._flows = Flows(entropy(16), self._sessions, flow_capacity, slots)
        self._paths = Paths(self._sessions, slots)
        self._channels = Channels(entropy(8), self._sessions)
        self._demux = Demux(own_public_key, self._channels)
        self._pipeline = kernel.Pipeline(
            self._sessions, self._flows, self._paths, self._demux, mtu=mtu, wake_fd=wake_fd
        )
        self._mtu = mtu

    def poll_event(self) -> commands.DataplaneEvent | None:
        """The next thing the control layer must know, None when there is nothing."""
        event = self._pipeline.poll_event()
        return None if event is None else event_of(event)

    def activity(self, slot: int) -> commands.Activity:
        """What was seen of a peer. All zero for a slot that is not open."""
        try:
            return commands.Activity(*self._sessions.activity(slot))
        except KeyError:
            return commands.Activity()

    def traffic(self, slot: int) -> commands.Traffic:
        """How much was exchanged with a peer. Zero for a slot that is not open."""
        try:
            return commands.Traffic(*self._sessions.traffic(slot))
        except KeyError:
            return commands.Traffic()

    def moved(self) -> list[commands.PeerMoved]:
        """The peers that have moved since the last call. Cheap while none has."""
        return [
            commands.PeerMoved(slot, endpoint_of(local), endpoint_of(remote))
            for slot, local, remote in self._sessions.moved()
        ]

    def pad_packets(self, mtu: int) -> None:
        """Pad what is sent to 16 bytes, though not beyond `mtu`, as WireGuard does; 0 = no more."""
        self._sessions.pad_below(mtu)

    def channel_received_at(self, relay: Endpoint, number: int) -> int:
        """When data last came through a channel, absolute ns; 0 = never or not open."""
        return self._channels.received_at(address_tuple(relay), number)

    @property
    def flow_count(self) -> int:
        """Entries in the flow table, stale ones too."""
        return len(self._flows)

    @property
    def flow_capacity(self) -> int:
        """How many it can hold in each direction."""
        return self._flows.capacity

    def counters(self) -> dict[str, int]:
        """Packets and bytes each way, drops by verdict, commands that could not be carried out."""
        total = Counter(self._pipeline.counters())
        total.update(self._counters)
        return total

    def sweep(self, now: int, limit: int = 4096) -> list[Flow]:
        """Do a bounded piece of housekeeping; the flows that ended. Call it some times a second."""
        self._sessions.reclaim()
        self._paths.reclaim()
        return [flow_of(entry) for entry in self._flows.sweep(now, limit)]

    def flow(self, key: commands.FlowKey) -> Flow | None:
        """The entry of a key, also a stale one."""
        entry = self._flows.entry(key_tuple(key))
        return None if entry is None else flow_of(entry)

    def flows(self) -> Iterator[Flow]:
        """Every entry of the flow table."""
        return map(flow_of, self._flows.entries())

    def _apply(self, command: commands.Command, now: int) -> None:
        try:
            self._carry_out(command, now)
        except KeyError as error:
            raise LocalError(f"{type(command).__name__}: no peer in slot {error}") from None
        except (ValueError, OverflowError) as error:
            raise LocalError(f"{type(command).__name__}: {error}") from None

    def _carry_out(self, command: commands.Command, now: int) -> None:
        match command:
            case commands.InstallFlow():
                self._install_flow(command, now)
            case commands.BumpGeneration(group):
                self._flows.bump(group)
            case commands.Reinject(direction, slot, packet):
                self._count_full(self._pipeline.reinject(direction, slot, packet))
            case commands.SealPacket(slot, packet):
                self._count_full(self._pipeline.seal(slot, packet))
            case commands.SendKeepalive(slot):
                self._count_full(self._pipeline.seal(slot, b""))
            case commands.DeliverPacket(packet):
                self._count_full(self._pipeline.deliver(packet))
            case commands.OpenChannel(relay, number):
                if not self._channels.open(address_tuple(relay), number):
                    self._counters["channel_table_full"] += 1
            case commands.CloseChannel(relay, number):
                self._channels.close(address_tuple(relay), number)
            case _:
                self._apply_to_peer(command)

    def _apply_to_peer(
        self,
        command: commands.AddPeer
        | commands.RemovePeer
        | commands.InstallKeypair
        | commands.RemoveKeypair
        | commands.SetPath,
    ) -> None:
        match command:
            case commands.AddPeer(slot, tunnel_id):
                self._sessions.add_peer(slot, tunnel_id)
            case commands.RemovePeer(slot):
                self._remove_peer(slot)
            case commands.InstallKeypair():
                self._install_keypair(command)
            case commands.RemoveKeypair(slot, local_index):
                self._sessions.remove_keypair(slot, local_index)
            case commands.SetPath(slot, None):
                self._paths.clear(slot)
            case commands.SetPath(slot, commands.Path(destination, source, channel)):
                origin = None if source is None else address_tuple(source)
                self._paths.set(slot, address_tuple(destination), origin, channel)

    def _remove_peer(self, slot: int) -> None:
        self._flows.close_slot(slot)
        self._pipeline.close_slot(slot)
        self._paths.clear(slot)
        self._sessions.remove_peer(slot)

    def _install_keypair(self, command: commands.InstallKeypair) -> None:
        self._sessions.install_keypair(
            command.slot,
            command.local_index,
            command.remote_index,
            command.send_key,
            command.receive_key,
            command.initiator,
            command.created_at,
            command.send_until,
            command.receive_until,
        )

    def _install_flow(self, command: commands.InstallFlow, now: int) -> None:
        installed = self._flows.install(
            key_tuple(command.key),
            command.action,
            command.slot,
            command.group,
            command.expires_at,
            command.idle_timeout,
            rewrite_tuple(command.rewrite),
            now,
        )
        if not installed:
            self._counters["flow_table_full"] += 1

    def _count_full(self, taken: bool) -> None:
        if not taken:
            self._counters["inject_ring_full"] += 1


class Dataplane(_Kernels):
    """The data plane of a program: two threads between a TUN device and UDP sockets.

    The descriptors stay the caller's; they are made non-blocking. `own_public_key` is what
    handshakes to us are checked against (mac1). `start()` and `stop()` may be repeated.
    """

    def __init__(
        self,
        *,
        tun_fd: int,
        udp4_fd: int | None,
        udp6_fd: int | None,
        own_public_key: bytes,
        flow_capacity: int = 65_536,
        slots: int = SLOTS,
        mtu: int = 1280,
        entropy: Entropy = os.urandom,
    ) -> None:
        self.events_fd = _eventfd()
        """Readable while events may wait. Watch it, then call `poll_event()` until None."""
        self._wake_up_fd, self._wake_down_fd = _eventfd(), _eventfd()
        self._tun_fd = tun_fd
        self._udp_fds = (udp4_fd, udp6_fd)
        self._threads: list[threading.Thread] = []
        self._failure: str | None = None
        self._closed = False
        super().__init__(
            own_public_key=own_public_key,
            flow_capacity=flow_capacity,
            slots=slots,
            mtu=mtu,
            entropy=entropy,
            wake_fd=self.events_fd,
        )

    def start(self) -> None:
        """Start the two threads. Does nothing while they run.

        Raises OSError for descriptors that are no datagram sockets or TUN device.
        """
        if self._threads:
            return
        if self._closed:
            raise LocalError("the data plane is closed")
        self._attach()
        self._failure = None
        for name, run in (("up", self._pipeline.run_up), ("down", self._pipeline.run_down)):
            thread = threading.Thread(
                target=self._run, args=(name, run), name=f"dataplane-{name}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        # The interpreter must not go away under them.
        atexit.register(self.stop)

    def stop(self) -> None:
        """End and join the threads, within a second. Does nothing when they do not run."""
        if not self._threads:
            return
        self._pipeline.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise RuntimeError(f"{thread.name} does not stop")
        self._threads.clear()
        atexit.unregister(self.stop)

    def close(self) -> None:
        """Stop, and close `events_fd`. The data plane is of no use afterwards."""
        self.stop()
        if self._closed:
            return
        self._closed = True
        for fd in (self.events_fd, self._wake_up_fd, self._wake_down_fd):
            os.close(fd)

    def apply(self, command: commands.Command, now: int | None = None) -> None:
        """Carry out a command. `now` is the boot-time clock unless given.

        Raises LocalError for a slot that is not open or a value that cannot be. A command that
        found no room is counted, not raised: its packets will come up again.
        """
        if self._closed:
            raise LocalError("the data plane is closed")
        self._apply(command, boottime_ns() if now is None else now)

    def failure(self) -> str | None:
        """Why a thread ended by itself, None while all is well. `events_fd` tells when to look."""
        return self._failure

    def set_udp(self, udp4_fd: int | None, udp6_fd: int | None) -> None:
        """Go on with other UDP sockets; the threads pause for it."""
        running = bool(self._threads)
        self.stop()
        self._udp_fds = (udp4_fd, udp6_fd)
        if running:
            self.start()

    def _attach(self) -> None:
        fds = [-1 if fd is None else fd for fd in self._udp_fds]
        for fd in (self._tun_fd, *fds):
            if fd >= 0:
                os.set_blocking(fd, False)
        self._pipeline.attach(
            Tun(self._tun_fd, self._mtu), UdpSockets(*fds), self._wake_up_fd, self._wake_down_fd
        )

    def _run(self, name: str, run: Callable[[], int]) -> None:
        code = run()
        if code:
            self._failure = self._failure or f"{name}: {os.strerror(code)}"
            os.eventfd_write(self.events_fd, 1)


class SingleThreaded(_Kernels):
    """The same kernels without descriptors and threads, for simulations and tests."""

    def __init__(
        self,
        *,
        own_public_key: bytes,
        entropy: Entropy,
        flow_capacity: int = 4096,
        slots: int = 256,
        mtu: int = 1280,
    ) -> None:
        self._batch = PacketBatch()
        self._udp: deque[Transmit] = deque()
        self._tun: deque[bytes] = deque()
        super().__init__(
            own_public_key=own_public_key,
            flow_capacity=flow_capacity,
            slots=slots,
            mtu=mtu,
            entropy=entropy,
            wake_fd=-1,
        )

    def apply(self, command: commands.Command, now: int) -> None:
        """Carry out a command, at once also what it sends. Raises like `Dataplane.apply`."""
        self._apply(command, now)
        while self._pipeline.injected_up(self._batch, now):
            self._collect_udp()
        while self._pipeline.injected_down(self._batch, now):
            self._tun.extend(self._batch.packets())

    def feed_up(self, packet: bytes, now: int) -> None:
        """One packet from the TUN device."""
        if self._load(packet, self._mtu):
            self._pipeline.outbound(self._batch, now)
            self._collect_udp()

    def feed_down(self, datagram: bytes, local: Endpoint, source: Endpoint, now: int) -> None:
        """One datagram from the network."""
        if self._load(datagram, self._batch.stride - _RESERVED):
            self._batch.set_local(0, *address_tuple(local))
            self._batch.set_remote(0, *address_tuple(source))
            self._pipeline.inbound(self._batch, now)
            self._tun.extend(self._batch.packets())

    def take_udp(self) -> Transmit | None:
        """The next datagram to send, None when there is none."""
        return self._udp.popleft() if self._udp else None

    def take_tun(self) -> bytes | None:
        """The next packet for the TUN device, None when there is none."""
        return self._tun.popleft() if self._tun else None

    def _load(self, packet: bytes, limit: int) -> bool:
        self._batch.clear()
        if len(packet) > limit:
            self._counters["too_long"] += 1
            return False
        self._batch.append(packet)
        return True

    def _collect_udp(self) -> None:
        for slot in range(len(self._batch)):
            if self._batch.verdict(slot) == Verdict.PASS:
                destination = endpoint_of(self._batch.remote(slot))
                local = self._batch.local(slot)
                source = endpoint_of(local) if local[0] else None
                self._udp.append(Transmit(self._batch.packet(slot), destination, source))


_RESERVED = 96
"""Bytes of a batch's slot that its packet may not have: headroom and tailroom."""


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
