"""The slow twin of the pipeline: the other twins in a row, one packet at a time.

Its face is that of `firezone.dataplane.SingleThreaded`. Out of its reach are the rates of the
demultiplexer and the full ring: what waits is bounded by budgets long before.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import fields
from typing import NamedTuple

from firezone import commands
from firezone._ext.batch import Verdict
from firezone.commands import Direction
from firezone.durations import SECOND
from firezone.model import Endpoint, Transmit, unpack_address
from tests.reference import demux, flows, ip, paths, session

DATA_OVERHEAD = 32
PER_PEER, TOTAL, FIRST_FEW, MOST = 32, 256, 4, 768
BURST, INTERVAL, OWN_INTERVAL = 256, SECOND // 2000, SECOND // 8000

Event = commands.DataplaneEvent


class Dataplane:
    """Every method tells what it does to what is sent, delivered, handed up and counted."""

    def __init__(self, own_public_key: bytes, slots: int, mtu: int = 1280) -> None:
        self.own_public_key = own_public_key
        self.mtu = mtu
        self.pad_below = 0
        self.sessions = session.Sessions()
        self.paths = paths.Paths(slots)
        self.flows = flows.Table(per_group=1 << 16, capacity=1 << 16)
        self.rewrites: dict[flows.Key, commands.Rewrite | None] = {}
        self.channels: dict[tuple[Endpoint, int], int] = {}
        self.traffic: dict[int, commands.Traffic] = {}
        self.up, self.down = Lane(), Lane()
        self.udp: list[Transmit] = []
        self.tun: list[bytes] = []
        self.counters: Counter[str] = Counter()

    # What comes from outside.

    def feed_up(self, packet: bytes, now: int) -> None:
        if len(packet) > self.mtu:
            self.counters["too_long"] += 1
            return
        self._count("tun_read", packet)
        self._end(self._outbound(packet, False, now))

    def feed_down(self, datagram: bytes, local: Endpoint, source: Endpoint, now: int) -> None:
        self._count("udp_received", datagram)
        self._end(self._inbound(datagram, local, source, now))

    def _outbound(self, packet: bytes, decided: bool, now: int) -> Verdict:
        parsed = parse(packet)
        if isinstance(parsed, Verdict):
            return parsed
        packet = packet[: parsed.length]
        verdict, peer, changed = self._look_up(Direction.UP, 0, packet, parsed, now)
        if verdict is Verdict.SLOW:
            event = commands.FlowMissed(Direction.UP, commands.NOBODY, packet)
            return Verdict.OVER_BUDGET if decided else self.up.hand_up(event, 0, verdict, now)
        return self._seal(peer, changed, now) if verdict is Verdict.PASS else verdict

    def _seal(self, peer: int, packet: bytes, now: int) -> Verdict:
        verdict = self.paths.check(peer)
        if verdict is Verdict.PASS:
            result = self.sessions.seal(peer, self._padded(packet), now)
            verdict = result.verdict
        if verdict is Verdict.UNROUTABLE and packet and peer:
            return self.up.hand_up(commands.PacketUnroutable(peer, packet), peer, verdict, now)
        if verdict is Verdict.PASS:
            self._add_traffic(peer, sent=len(result.packet))
            self._send(peer, result.packet)
        return verdict

    def _inbound(self, datagram: bytes, local: Endpoint, source: Endpoint, now: int) -> Verdict:
        number = int.from_bytes(datagram[:2], "big")
        kind, message = demux.classify(
            datagram, self.own_public_key, lambda number: (source, number) in self.channels
        )
        good = kind in (demux.Class.DATA, demux.Class.SLOW)
        if good and (source, number) in self.channels:
            self.channels[source, number] = now
        if kind is demux.Class.SLOW:
            self.down.events.append(Handed(commands.DatagramReceived(local, source, datagram)))
            return Verdict.SLOW
        return self._open(message, now) if good else Verdict[kind.name]

    def _open(self, message: bytes, now: int) -> Verdict:
        result = self.sessions.open(message, now)
        if result.verdict in (Verdict.PASS, Verdict.CONSUMED):
            self._add_traffic(result.peer, received=len(message))
        if result.confirmed:
            index = int.from_bytes(message[4:8], "little")
            self.down.events.append(
                Handed(commands.SessionConfirmed(result.peer, index), result.peer)
            )
        if result.verdict is not Verdict.PASS:
            return result.verdict
        if len(result.packet) > self.mtu:
            return Verdict.TOO_LONG
        return self._opened(result.peer, result.packet, False, now)

    def _opened(self, peer: int, packet: bytes, decided: bool, now: int) -> Verdict:
        parsed = parse(packet)
        if isinstance(parsed, Verdict):
            return parsed
        packet = packet[: parsed.length]
        verdict, _, changed = self._look_up(Direction.DOWN, peer, packet, parsed, now)
        if verdict is Verdict.SLOW:
            event = commands.FlowMissed(Direction.DOWN, peer, packet)
            return Verdict.OVER_BUDGET if decided else self.down.hand_up(event, peer, verdict, now)
        return self._deliver(changed) if verdict is Verdict.PASS else verdict

    def _look_up(
        self, direction: Direction, peer: int, packet: bytes, parsed: ip.Parsed, now: int
    ) -> tuple[Verdict, int, bytes]:
        """Verdict, peer out and the packet as it goes on."""
        ends = parsed.source, parsed.destination, parsed.source_port, parsed.destination_port
        key = (int(direction), peer, parsed.protocol, *ends)
        name, out = self.flows.lookup(key, len(packet), parsed.tcp_flags, now)
        rewrite = self.rewrites.get(key) if name == "PASS" else None
        if rewrite is None:
            return Verdict[name], out, packet
        if parsed.protocol not in (1, 6, 17, 58) and has_ports(rewrite):
            return Verdict.MALFORMED, out, packet
        return Verdict[name], out, changed(packet, rewrite)

    def _padded(self, packet: bytes) -> bytes:
        size = min(len(packet) + -len(packet) % 16, max(self.pad_below, len(packet)))
        return packet.ljust(size, b"\0")

    def _send(self, peer: int, message: bytes) -> None:
        prepended = self.paths.prepend(peer, message)
        assert prepended is not None, "the path was checked"
        datagram, path = prepended
        source = None if path.source is None else endpoint(path.source)
        self.udp.append(Transmit(datagram, endpoint(path.destination), source))
        self._count("udp_sent", datagram)

    def _deliver(self, packet: bytes) -> Verdict:
        self.tun.append(packet)
        self._count("tun_written", packet)
        return Verdict.PASS

    # What Python wants.

    def apply(self, command: commands.Command, now: int) -> None:
        match command:
            case commands.InstallFlow():
                self._install_flow(command, now)
            case commands.BumpGeneration(group):
                self.flows.bump(group)
            case commands.OpenChannel(relay, number):
                self.channels.setdefault((relay, number), 0)
            case commands.CloseChannel(relay, number):
                self.channels.pop((relay, number), None)
            case commands.AddPeer() | commands.RemovePeer() | commands.SetPath():
                self._apply_to_peer(command)
            case commands.InstallKeypair():
                names = [field.name for field in fields(command) if field.name != "slot"]
                keypair = session.Keypair(**{name: getattr(command, name) for name in names})
                self.sessions.install_keypair(command.slot, keypair)
            case commands.RemoveKeypair(slot, local_index):
                self.sessions.remove_keypair(slot, local_index)
            case _:
                self._inject(command, now)

    def _apply_to_peer(
        self, command: commands.AddPeer | commands.RemovePeer | commands.SetPath
    ) -> None:
        match command:
            case commands.AddPeer(slot, tunnel_id):
                self.sessions.add_peer(slot, tunnel_id)
                self.traffic[slot] = commands.Traffic()
            case commands.RemovePeer(slot):
                self.flows.close_slot(slot)
                self.paths.clear(slot)
                self.sessions.remove_peer(slot)
                del self.traffic[slot]
                self.up.close_slot(slot)
                self.down.close_slot(slot)
            case commands.SetPath(slot, None):
                self.paths.clear(slot)
            case commands.SetPath(slot, commands.Path(destination, source, channel)):
                own = None if source is None else address(source)
                self.paths.set(slot, address(destination), own, channel)

    def _install_flow(self, command: commands.InstallFlow, now: int) -> None:
        key = flow_key(command.key)
        until, idle = command.expires_at, command.idle_timeout
        entry = flows.Entry(command.action, command.slot, command.group, until, idle, now)
        if self.flows.install(key, entry):
            self.rewrites[key] = command.rewrite
        else:
            self.counters["flow_table_full"] += 1

    def _inject(self, command: commands.Command, now: int) -> None:
        match command:
            case commands.SendKeepalive(slot):
                self._end(self._seal(slot, b"", now))
            case (
                commands.SealPacket(_, packet)
                | commands.Reinject(_, _, packet)
                | commands.DeliverPacket(packet)
            ) if len(packet) > self.mtu:
                self.counters["inject_ring_full"] += 1
            case commands.SealPacket(slot, packet):
                self._end(self._seal(slot, packet, now))
            case commands.DeliverPacket(packet):
                self._end(self._deliver(packet))
            case commands.Reinject(Direction.UP, _, packet):
                self._end(self._outbound(packet, True, now))
            case commands.Reinject(Direction.DOWN, slot, packet):
                self._end(self._opened(slot, packet, True, now))

    def sweep(self, ended: set[flows.Key], now: int) -> None:
        """Forget flows that the kernel says have ended."""
        assert ended <= self.flows.over(now)
        for key in ended:
            del self.flows.entries[key], self.rewrites[key]

    # What is counted.

    def _end(self, verdict: Verdict) -> None:
        if verdict is not Verdict.PASS:
            self.counters[verdict.name.lower()] += 1

    def _count(self, where: str, packet: bytes) -> None:
        self.counters[f"{where}_packets"] += 1
        self.counters[f"{where}_bytes"] += len(packet)

    def _add_traffic(self, peer: int, received: int = 0, sent: int = 0) -> None:
        old = self.traffic[peer]
        self.traffic[peer] = commands.Traffic(old.received + received, old.sent + sent)


class Handed(NamedTuple):
    """What Python has not taken yet; its event is None if the peer's slot was closed."""

    event: Event | None
    peer: int = 0
    charged: bool = False


class Lane:
    """One direction's events, and what they may cost."""

    def __init__(self) -> None:
        self.events: deque[Handed] = deque()
        self.due: dict[int, int] = {}

    def hand_up(self, event: Event, peer: int, verdict: Verdict, now: int) -> Verdict:
        """The verdict, or OVER_BUDGET."""
        if not self._allows(peer, now):
            return Verdict.OVER_BUDGET
        self.due[peer] = max(self.due.get(peer, 0), now) + interval(peer)
        self.events.append(Handed(event, peer, True))
        return verdict

    def close_slot(self, slot: int) -> None:
        """Nobody hears of this peer any more; its places are taken until they are polled."""
        self.events = deque(
            handed._replace(event=None) if handed.peer == slot else handed for handed in self.events
        )

    def poll_all(self) -> list[Event]:
        events = [handed.event for handed in self.events if handed.event is not None]
        self.events.clear()
        return events

    def _allows(self, peer: int, now: int) -> bool:
        waiting = [handed.peer for handed in self.events if handed.charged]
        mine = waiting.count(peer)
        if len(waiting) >= TOTAL and (mine >= FIRST_FEW or len(waiting) >= MOST):
            return False
        if peer and mine >= PER_PEER:
            return False
        return self.due.get(peer, 0) - now < BURST * interval(peer)


def interval(peer: int) -> int:
    return INTERVAL if peer else OWN_INTERVAL


def parse(packet: bytes) -> ip.Parsed | Verdict:
    try:
        return ip.parse(packet)
    except ip.MalformedError:
        return Verdict.MALFORMED
    except ip.FragmentError:
        return Verdict.FRAGMENT


def has_ports(rewrite: commands.Rewrite) -> bool:
    return rewrite.source_port is not None or rewrite.destination_port is not None


def changed(packet: bytes, rewrite: commands.Rewrite) -> bytes:
    ends = [None if end is None else end.packed for end in (rewrite.source, rewrite.destination)]
    return ip.rewrite(packet, ends[0], ends[1], rewrite.source_port, rewrite.destination_port)


def flow_key(key: commands.FlowKey) -> flows.Key:
    direction, slot, protocol, source, destination, *ports = key
    return (int(direction), slot, protocol, source.packed, destination.packed, *ports)


def address(end: Endpoint) -> tuple[int, bytes, int]:
    return end.family, end.address.packed, end.port


def endpoint(address: tuple[int, bytes, int]) -> Endpoint:
    return Endpoint(unpack_address(address[1]), address[2])
