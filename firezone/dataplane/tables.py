"""The tables of the data plane, and how each command of the control layer changes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

from firezone import commands
from firezone._ext import pipeline as kernel
from firezone._ext.demux import Channels, Demux
from firezone._ext.flows import Flows
from firezone._ext.paths import Paths
from firezone._ext.session import Sessions
from firezone.dataplane.values import (
    Flow,
    address_tuple,
    endpoint_of,
    event_of,
    flow_of,
    key_tuple,
    rewrite_tuple,
)
from firezone.errors import LocalError
from firezone.model import Endpoint, Entropy

SLOTS = commands.SLOTS
"""Peers that one data plane can hold, by default."""

FLOW_CAPACITY = 1 << 21
"""Entries of the flow table, by default: a million flows both ways. It grows as they come."""

STUN_RATE = 5000
"""STUN messages a second that the control layer is bothered with, for each worker."""

_EVENTS_AT_ONCE = 64


class Tables:
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
        cookie_secret: commands.CookieSecret | None = None,
        pass_fragments: bool = False,
        takes_stun: bool = True,
        workers: int = 1,
    ) -> None:
        self._counters: Counter[str] = Counter()
        self._sessions = Sessions(slots)
        self._flows = Flows(entropy(16), self._sessions, flow_capacity, slots)
        self._paths = Paths(self._sessions, slots)
        self._channels = Channels(entropy(8), self._sessions)
        make_demux = partial(
            Demux,
            own_public_key,
            self._channels,
            cookie_secret=cookie_secret.secret if cookie_secret else None,
            cookies_since=cookie_secret.since if cookie_secret else 0,
            stun_rate=STUN_RATE if takes_stun else 0,
        )
        demuxes = [make_demux() for _ in range(workers)]
        self._pipeline = kernel.Pipeline(
            self._sessions,
            self._flows,
            self._paths,
            *demuxes,
            mtu=mtu,
            wake_fd=wake_fd,
            pass_fragments=pass_fragments,
        )
        self._mtu = mtu

    def poll_event(self) -> commands.DataplaneEvent | None:
        """The next thing the control layer must know, None when there is nothing."""
        event = self._pipeline.poll_event()
        return None if event is None else event_of(event)

    def poll_events(self) -> Iterator[commands.DataplaneEvent]:
        """Up to 64 of them, so that whoever else waits for the control layer gets a turn."""
        for _ in range(_EVENTS_AT_ONCE):
            event = self.poll_event()
            if event is None:
                return
            yield event

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
        """How many it can hold; a flow that passes both ways has two."""
        return self._flows.capacity

    def counters(self) -> dict[str, int]:
        """Packets and bytes each way, drops by verdict, commands that could not be carried out."""
        total = Counter(self._pipeline.counters())
        total.update(self._counters)
        return total

    def worker_counters(self) -> list[dict[str, int]]:
        """The packets, bytes and drops of each worker."""
        return [self._pipeline.counters_of(number) for number in range(self._pipeline.workers)]

    def worker_statuses(self) -> tuple[commands.WorkerStatus, ...]:
        """What they have done, in short."""
        return tuple(
            commands.WorkerStatus(
                counted["udp_sent_packets"], counted["tun_written_packets"], counted["handed_over"]
            )
            for counted in self.worker_counters()
        )

    def offloads(self) -> frozenset[str]:
        """What the kernel does in bulk, by name; without descriptors there is nothing to do."""
        return frozenset()

    def sweep(self, now: int, limit: int = 4096) -> Iterator[Flow]:
        """Look at up to `limit` flows that may have ended; those that have. Call it after each
        piece of events, and when `next_sweep` says."""
        self._sessions.reclaim()
        self._paths.reclaim()
        return map(flow_of, self._flows.sweep(now, limit))

    def next_sweep(self) -> int | None:
        """When a sweep will next find something; 0 is at once, None never. Flows that begin or end
        by a command may bring it nearer."""
        return self._flows.next_sweep()

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
        # The slot may be another peer's next. A thread that has looked a flow of this one up would
        # seal its packet for the other, so let it finish its batch first.
        if not self._sessions.settle():
            self._counters["unsettled_slots"] += 1

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
