"""The whole data plane beside its slow twin: a few peers, their flows, and whatever comes."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import packets
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from firezone import commands
from firezone.commands import Action, Direction
from firezone.dataplane import SingleThreaded
from firezone.durations import MILLISECOND, MINUTE, SECOND
from firezone.model import Endpoint
from tests.reference import ip as slow_ip
from tests.reference.demux import mac1
from tests.reference.pipeline import Dataplane, flow_key

SLOTS = 3
PUBLIC_KEY = bytes(range(32))
HERE = Endpoint.of("192.0.2.1", 52625)
RELAY = Endpoint.of("192.0.2.9", 3478)
RELAY6 = Endpoint.of("2001:db8::9", 3478)
PEER = Endpoint.of("198.51.100.7", 51820)
CHANNELS = [0x4000, 0x4001]

A, B, A6, B6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"
INNER = [
    packets.udp(A, B, 1, 2, b"data"),
    packets.udp(B, A, 2, 1, b"an answer"),
    packets.tcp(A6, B6, 5, 443, flags=0x12, data=b"x" * 90),
    packets.ping(A, B, 7),
    packets.ping(B6, A6, 7),
    packets.ip(A, B, 47, b"gre"),
    packets.udp(A, B, 1, 2, b"padded") + bytes(5),
    packets.udp(A, B, 3, 4, bytes(1280 - 28)),
]
BAD = [
    b"",
    b"\x45",
    bytes(40),
    INNER[0][:-1],
    INNER[0][:6] + b"\x20\0" + INNER[0][8:],
    INNER[7] + b"\0",
    bytes(1500),
]
REWRITES = [
    commands.Rewrite(source=ip_address("10.9.9.9"), source_port=999),
    commands.Rewrite(destination=ip_address("fd00::99")),
    commands.Rewrite(destination_port=53),
]
STUN = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12)
INITIATION = b"\1\0\0\0" + bytes(112)
HANDSHAKES = [
    STUN,
    INITIATION + mac1(PUBLIC_KEY, INITIATION) + bytes(16),
    INITIATION + bytes(32),
    b"\3\0\0\0" + bytes(60),
    b"\4\0\0\0" + bytes(27),
    b"\4\0\0\0" + bytes(28),
    b"unknown",
    b"",
]

slots = st.integers(1, SLOTS)
inners = st.sampled_from(INNER)
any_packets = st.sampled_from(INNER * 3 + BAD + [b""] * 2)
lifetimes = st.sampled_from([MINUTE * 60, MINUTE * 60, SECOND, 0])
ends = st.sampled_from([PEER, RELAY, RELAY6])
ways = st.sampled_from(
    [(PEER, None)] * 4 + [(RELAY, CHANNELS[0])] * 2 + [(RELAY6, CHANNELS[1]), (PEER, CHANNELS[0])]
)
repeats = st.sampled_from([1] * 8 + [10, 60])


class Twins(RuleBasedStateMachine):
    """Both are given the same, and must send, deliver, hand up and count the same."""

    @initialize(count=st.integers(2, SLOTS), initiator=st.booleans())
    def start(self, count: int, initiator: bool) -> None:
        """Peers that can be reached, and flows of all of them."""
        self.now = 1000 * SECOND
        self.kernel = SingleThreaded(own_public_key=PUBLIC_KEY, entropy=bytes, slots=SLOTS)
        self.twin = Dataplane(PUBLIC_KEY, SLOTS)
        self.keypairs: dict[int, commands.InstallKeypair] = {}
        self.counters: Counter[int] = Counter()
        self.tunnel_id = 0
        self.apply(commands.OpenChannel(RELAY, CHANNELS[0]))
        for slot in range(1, count + 1):
            self.add_peer(slot)
            self.install_keypair(slot, slot, initiator, 0, MINUTE * 60, MINUTE * 60)
            self.set_path(slot, PEER, CHANNELS[0] if slot == 1 else None, False)
            for packet in INNER[:6]:
                self.install_flow(packet, Direction.DOWN, slot, Action.FORWARD, slot)
        for i, packet in enumerate(INNER[:6]):
            slot = 1 + i % count
            self.install_flow(packet, Direction.UP, 0, Action.FORWARD, slot)

    # Peers.

    @rule(slot=slots)
    def add_peer(self, slot: int) -> None:
        if slot not in self.twin.sessions.peers:
            self.tunnel_id += 1
            self.apply(commands.AddPeer(slot, self.tunnel_id))
            self.install_keypair(slot, 8, True, 0, MINUTE * 60, MINUTE * 60)

    @precondition(lambda self: len(self.twin.sessions.peers) > 1)
    @rule(slot=slots)
    def remove_peer(self, slot: int) -> None:
        if slot in self.twin.sessions.peers:
            self.apply(commands.RemovePeer(slot))

    @rule(slot=slots, packet=inners, is_pathless=st.booleans())
    def replace_peer(self, slot: int, packet: bytes, is_pathless: bool) -> None:
        """While something of the one before is on its way to Python."""
        if slot in self.twin.sessions.peers:
            self.bump(slot)
            self.down_from(self.newest(slot), packet, 1, -1, (PEER, None))
            if is_pathless:
                self.clear_path(slot)
            self.seal(slot, packet)
            self.apply(commands.RemovePeer(slot))
        self.add_peer(slot)
        self.seal(slot, packet)

    @rule(
        slot=slots,
        place=st.integers(0, 9),
        initiator=st.booleans(),
        age=st.sampled_from([0, 0, SECOND]),
        send=lifetimes,
        receive=lifetimes,
    )
    def install_keypair(
        self, slot: int, place: int, initiator: bool, age: int, send: int, receive: int
    ) -> None:
        peer = self.twin.sessions.peers.get(slot)
        if peer is None:
            return
        index = peer.tunnel_id << 8 | place
        key = bytes([slot, place, len(self.keypairs)]) + bytes(29)
        command = commands.InstallKeypair(
            *(slot, index, 77, b"s" + key[1:], b"r" + key[1:], initiator),
            *(self.now - age, self.now + send, self.now + receive),
        )
        self.keypairs.pop(index, None)
        self.keypairs[index] = command
        self.counters[index] = 0
        self.apply(command)

    @rule(slot=slots, place=st.integers(0, 9))
    def remove_keypair(self, slot: int, place: int) -> None:
        peer = self.twin.sessions.peers.get(slot)
        if peer is not None:
            self.apply(commands.RemoveKeypair(slot, peer.tunnel_id << 8 | place))

    @rule(slot=slots, to=ends, channel=st.none() | st.sampled_from(CHANNELS), sourced=st.booleans())
    def set_path(self, slot: int, to: Endpoint, channel: int | None, sourced: bool) -> None:
        source = HERE if sourced and to.family == 4 else None
        self.apply(commands.SetPath(slot, commands.Path(to, source, channel)))

    @rule(slot=slots)
    def clear_path(self, slot: int) -> None:
        self.apply(commands.SetPath(slot, None))

    @rule(relay=ends, number=st.sampled_from(CHANNELS), opens=st.booleans())
    def channel(self, relay: Endpoint, number: int, opens: bool) -> None:
        command = commands.OpenChannel if opens else commands.CloseChannel
        self.apply(command(relay, number))

    # Flows.

    @rule(
        packet=inners,
        direction=st.sampled_from(Direction),
        origin=slots,
        action=st.sampled_from([Action.FORWARD] * 4 + [Action.DROP, Action.SLOW]),
        slot=st.integers(0, SLOTS),
        expires=st.sampled_from([0, 0, 1, SECOND]),
        idle=st.sampled_from([0, 0, SECOND, MINUTE]),
        rewrite=st.none() | st.sampled_from(REWRITES),
        delay=st.sampled_from([0, 0, SECOND - 1, SECOND]),
    )
    def decide_and_use(
        self,
        packet: bytes,
        direction: Direction,
        origin: int,
        action: Action,
        slot: int,
        expires: int,
        idle: int,
        rewrite: commands.Rewrite | None,
        delay: int,
    ) -> None:
        self.install_flow(packet, direction, origin, action, slot, expires, idle, rewrite)
        self.now += delay
        if direction is Direction.UP:
            self.up([packet], 1)
        elif origin in self.twin.sessions.peers:
            self.down_from(self.newest(origin), packet, 1, -1, (PEER, None))

    def install_flow(
        self,
        packet: bytes,
        direction: Direction,
        origin: int,
        action: Action,
        slot: int,
        expires: int = 0,
        idle: int = 0,
        rewrite: commands.Rewrite | None = None,
    ) -> None:
        key = key_of(packet, direction, origin)
        changed = rewrite and (rewrite.source or rewrite.destination)
        if changed and changed.version != key.source.version:
            rewrite = None
        until = self.now + expires if expires else 0
        self.apply(commands.InstallFlow(key, action, slot, slot, until, idle, rewrite))

    @rule(group=st.integers(0, SLOTS))
    def bump(self, group: int) -> None:
        self.apply(commands.BumpGeneration(group))

    @rule()
    def sweep(self) -> None:
        ended = {flow_key(flow.key) for flow in self.kernel.sweep(self.now)}
        self.twin.sweep(ended, self.now)

    # Packets.

    @rule(some=st.lists(any_packets, min_size=1, max_size=6), times=repeats)
    def up(self, some: list[bytes], times: int) -> None:
        for packet in some * times:
            self.kernel.feed_up(packet, self.now)
            self.twin.feed_up(packet, self.now)

    @rule(
        slot=slots,
        some=st.lists(any_packets, min_size=1, max_size=6),
        step=st.sampled_from([1] * 6 + [0, -1, 50]),
        flip=st.sampled_from([-1] * 8 + [0, 3, 4, 5, 8, 20, 34]),
        way=ways,
        times=repeats,
    )
    def down(
        self,
        slot: int,
        some: list[bytes],
        step: int,
        flip: int,
        way: tuple[Endpoint, int | None],
        times: int,
    ) -> None:
        if slot in self.twin.sessions.peers:
            for packet in some * times:
                self.down_from(self.newest(slot), packet, step, flip, way)

    @rule(slot=slots, is_polled=st.booleans())
    def many_misses(self, slot: int, is_polled: bool) -> None:
        """More than may wait, or than may come at one moment."""
        for _ in range(9):
            self.up([INNER[6]], 30)
            self.down(slot, [INNER[6]], 1, -1, (PEER, None), 30)
            if is_polled:
                self.poll()

    @precondition(lambda self: self.keypairs)
    @rule(data=st.data(), packet=inners, way=ways)
    def down_by_any_keypair(
        self, data: st.DataObject, packet: bytes, way: tuple[Endpoint, int | None]
    ) -> None:
        """Also by those that were removed, replaced or never used."""
        index = data.draw(st.sampled_from(sorted(self.keypairs)))
        self.down_from(self.keypairs[index], packet, 1, -1, way)

    @rule(
        message=st.sampled_from(HANDSHAKES) | st.binary(max_size=50),
        way=ways,
    )
    def other_datagram(self, message: bytes, way: tuple[Endpoint, int | None]) -> None:
        self.both_down(wrapped(message, way[1]), way[0])

    @rule(direction=st.sampled_from(Direction), slot=slots, packet=any_packets)
    def reinject(self, direction: Direction, slot: int, packet: bytes) -> None:
        origin = slot if direction is Direction.DOWN else commands.NOBODY
        self.apply(commands.Reinject(direction, origin, packet))

    @rule(slot=slots, packet=any_packets)
    def seal(self, slot: int, packet: bytes) -> None:
        self.apply(commands.SealPacket(slot, packet))

    @rule(slot=slots)
    def keepalive(self, slot: int) -> None:
        self.apply(commands.SendKeepalive(slot))

    @rule(packet=any_packets)
    def deliver(self, packet: bytes) -> None:
        self.apply(commands.DeliverPacket(packet))

    @rule(mtu=st.sampled_from([0, 100, 1280]))
    def pad(self, mtu: int) -> None:
        self.kernel.pad_packets(mtu)
        self.twin.pad_below = mtu

    @rule(delta=st.sampled_from([1, MILLISECOND, SECOND, SECOND, 10 * SECOND, MINUTE, 60 * MINUTE]))
    def pass_time(self, delta: int) -> None:
        self.now += delta

    @rule()
    def poll(self) -> None:
        """All of them: in which order the two directions come is nobody's promise."""
        events = list(iter(self.kernel.poll_event, None))
        up = [event for event in events if is_up(event)]
        down = [event for event in events if not is_up(event)]
        assert up == self.twin.up.poll_all()
        assert down == self.twin.down.poll_all()

    def teardown(self) -> None:
        if hasattr(self, "kernel"):
            self.poll()

    # What both must agree on.

    @invariant()
    def sends_and_delivers(self) -> None:
        assert list(iter(self.kernel.take_udp, None)) == self.twin.udp
        assert list(iter(self.kernel.take_tun, None)) == self.twin.tun
        self.twin.udp.clear()
        self.twin.tun.clear()

    @invariant()
    def counts(self) -> None:
        counted = {name: value for name, value in self.kernel.counters().items() if value}
        assert counted == +self.twin.counters

    @invariant()
    def knows_its_peers(self) -> None:
        for slot in self.twin.sessions.peers:
            assert self.kernel.activity(slot) == self.twin.sessions.activity(slot)
            assert self.kernel.traffic(slot) == self.twin.traffic[slot]
        for (relay, number), at in self.twin.channels.items():
            assert self.kernel.channel_received_at(relay, number) == at

    @invariant()
    def knows_its_flows(self) -> None:
        held = {
            flow_key(f.key): (f.action, f.packets, f.bytes, f.last_seen, f.tcp_flags, f.rewrite)
            for f in self.kernel.flows()
        }
        assert held == {
            key: (e.action, e.packets, e.bytes, e.last_seen, e.tcp_flags, self.twin.rewrites[key])
            for key, e in self.twin.flows.entries.items()
        }

    def apply(self, command: commands.Command) -> None:
        self.kernel.apply(command, self.now)
        self.twin.apply(command, self.now)

    def newest(self, slot: int) -> commands.InstallKeypair:
        return [keypair for keypair in self.keypairs.values() if keypair.slot == slot][-1]

    def down_from(
        self,
        keypair: commands.InstallKeypair,
        packet: bytes,
        step: int,
        flip: int,
        way: tuple[Endpoint, int | None],
    ) -> None:
        index = keypair.local_index
        counter = self.counters[index] = max(0, self.counters[index] + step)
        message = flipped(sealed(keypair, counter, packet), flip)
        self.both_down(wrapped(message, way[1]), way[0])

    def both_down(self, datagram: bytes, source: Endpoint) -> None:
        self.kernel.feed_down(datagram, HERE, source, self.now)
        self.twin.feed_down(datagram, HERE, source, self.now)


def key_of(packet: bytes, direction: Direction, origin: int) -> commands.FlowKey:
    parsed = slow_ip.parse(packet)
    return commands.FlowKey(
        direction,
        origin if direction is Direction.DOWN else commands.NOBODY,
        parsed.protocol,
        ip_address(parsed.source),
        ip_address(parsed.destination),
        parsed.source_port,
        parsed.destination_port,
    )


def sealed(keypair: commands.InstallKeypair, counter: int, packet: bytes) -> bytes:
    """As the peer at the other end seals it."""
    number = counter.to_bytes(8, "little")
    text = ChaCha20Poly1305(keypair.receive_key).encrypt(bytes(4) + number, packet, None)
    return b"\4\0\0\0" + keypair.local_index.to_bytes(4, "little") + number + text


def flipped(message: bytes, at: int) -> bytes:
    if at < 0 or at >= len(message):
        return message
    return message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]


def wrapped(message: bytes, number: int | None) -> bytes:
    if number is None:
        return message
    return number.to_bytes(2, "big") + len(message).to_bytes(2, "big") + message


def is_up(event: commands.DataplaneEvent) -> bool:
    match event:
        case commands.FlowMissed(direction):
            return direction is Direction.UP
        case _:
            return isinstance(event, commands.PacketUnroutable)


TestDataplanes = Twins.TestCase
TestDataplanes.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
