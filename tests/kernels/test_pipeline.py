"""The order of the stages: a client's and a gateway's pipeline, single-threaded."""

import packets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone._ext import pipeline as kernel
from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.demux import Channels, Demux
from firezone._ext.flows import Flows
from firezone._ext.paths import Paths
from firezone._ext.pipeline import Pipeline
from firezone._ext.session import Sessions

UP, DOWN, FORWARD, UDP = 0, 1, 1, 17
SLOT, SLOTS, CHANNEL = 1, 4, 0x4007
RELAY = (4, b"\xc0\0\2\1", 3478)
HERE = (4, b"\xc0\0\2\2", 52625)
FOREVER = 1 << 62
PACKET = packets.udp("10.0.0.1", "10.0.0.2", 1, 2, b"data")
KEY = (UDP, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), 1, 2)


class Node:
    """All tables of one end, with a session to the other one."""

    def __init__(self, initiator: bool, channel: int | None = None) -> None:
        self.sessions = Sessions(SLOTS)
        self.flows = Flows(bytes(16), self.sessions, 64, SLOTS)
        self.paths = Paths(self.sessions, SLOTS)
        self.channels = Channels(bytes(8), self.sessions, 16)
        demux = Demux(bytes(32), self.channels)
        self.pipeline = Pipeline(self.sessions, self.flows, self.paths, demux)
        self.add_peer(7)
        self.install_keypair(0x701, initiator)
        self.paths.set(SLOT, RELAY, None, channel)

    def add_peer(self, tunnel_id: int) -> None:
        self.sessions.add_peer(SLOT, tunnel_id)

    def install_keypair(self, index: int, initiator: bool) -> None:
        keys = (b"\1" * 32, b"\2" * 32)
        send, receive = keys if initiator else keys[::-1]
        self.sessions.install_keypair(
            SLOT, index, index, send, receive, initiator, 1, FOREVER, FOREVER
        )

    def allow(self, direction: int) -> None:
        key = (direction, SLOT if direction == DOWN else 0, *KEY)
        assert self.flows.install(key, FORWARD, SLOT, SLOT, 0, 0, None, 0)

    def up(self, packet: bytes = PACKET, ecn: int = 0) -> PacketBatch:
        batch = PacketBatch()
        batch.append(packet, ecn=ecn)
        self.pipeline.outbound(batch, 1)
        return batch

    def down(self, datagram: bytes, ecn: int = 0) -> PacketBatch:
        batch = PacketBatch()
        batch.append(datagram, ecn=ecn)
        batch.set_remote(0, *RELAY)
        batch.set_local(0, *HERE)
        self.pipeline.inbound(batch, 1)
        return batch

    def sealed(self, packet: bytes = PACKET) -> bytes:
        """As another one's program would send it, past any policy."""
        assert self.pipeline.seal(SLOT, packet)
        batch = PacketBatch()
        assert self.pipeline.injected_up(batch, 1)
        assert batch.verdict(0) == Verdict.PASS
        return batch.packet(0)

    def events(self) -> list[tuple[int, int, bytes]]:
        return [(e[0], e[1], e[3]) for e in iter(self.pipeline.poll_event, None)]


def test_relayed_both_ways() -> None:
    client, gateway = Node(True, CHANNEL), Node(False)
    client.allow(UP)
    gateway.allow(DOWN)
    sent = client.up()
    assert (sent.verdict(0), sent.remote(0)) == (Verdict.PASS, RELAY)
    datagram = sent.packet(0)
    assert len(datagram) == 4 + 32 + len(PACKET)
    assert gateway.down(datagram).verdict(0) == Verdict.UNKNOWN_CHANNEL
    gateway.channels.open(RELAY, CHANNEL)
    assert gateway.down(datagram).packets() == [PACKET]
    assert gateway.channels.received_at(RELAY, CHANNEL) == 1


def test_the_first_packet_confirms_before_it_is_a_miss() -> None:
    client, gateway = Node(True), Node(False)
    batch = gateway.down(client.sealed())
    assert batch.verdict(0) == Verdict.SLOW
    assert gateway.pipeline.poll_event() == (kernel.CONFIRMED, SLOT, 0x701, b"", None, None)
    assert gateway.events() == [(kernel.FLOW_MISSED_DOWN, SLOT, PACKET)]
    assert gateway.down(client.sealed()).verdict(0) == Verdict.SLOW
    assert gateway.events() == [(kernel.FLOW_MISSED_DOWN, SLOT, PACKET)]


def test_a_keepalive_confirms_too_and_goes_no_further() -> None:
    client, gateway = Node(True), Node(False)
    assert gateway.down(client.sealed(b"")).verdict(0) == Verdict.CONSUMED
    assert gateway.events() == [(kernel.CONFIRMED, SLOT, b"")]


@pytest.mark.parametrize(
    "inner, verdict",
    [
        (b"\0" * 40, Verdict.MALFORMED),
        (PACKET[:-1], Verdict.MALFORMED),
        (packets.udp("10.0.0.1", "10.0.0.2", 1, 2, bytes(1280 - 28)), Verdict.SLOW),
        (packets.ip("fd00::1", "fd00::2", 0xFF, b"control"), Verdict.SLOW),
    ],
)
def test_what_is_inside_is_checked(inner: bytes, verdict: Verdict) -> None:
    client, gateway = Node(True), Node(False)
    assert gateway.down(client.sealed(inner)).verdict(0) == verdict


def test_padding_of_other_implementations_is_cut_off() -> None:
    client, gateway = Node(True), Node(False)
    gateway.allow(DOWN)
    assert gateway.down(client.sealed(PACKET + bytes(12))).packets() == [PACKET]


def test_longer_than_the_mtu_does_not_come_in() -> None:
    client, gateway = Node(True), Node(False)
    batch = PacketBatch()
    batch.append(packets.udp("10.0.0.1", "10.0.0.2", 1, 2, bytes(1281 - 28)), SLOT)
    client.sessions.seal(batch, 1)
    assert gateway.down(batch.packet(0)).verdict(0) == Verdict.TOO_LONG
    assert not client.pipeline.seal(SLOT, bytes(1281))
    assert not client.pipeline.deliver(bytes(1281))


def test_ecn_goes_out_and_congestion_comes_in() -> None:
    def with_ecn(bits: int) -> bytes:
        changed = PACKET[:1] + bytes([bits]) + PACKET[2:10] + b"\0\0" + PACKET[12:20]
        total = packets.checksum(changed).to_bytes(2, "big")
        return changed[:10] + total + changed[12:] + PACKET[20:]

    client, gateway = Node(True), Node(False)
    client.allow(UP)
    gateway.allow(DOWN)
    for inner, outer, expected in ((0, 3, 0), (1, 3, 3), (2, 3, 3), (2, 0, 2), (3, 0, 3)):
        sent = client.up(with_ecn(inner))
        assert sent.ecn(0) == inner
        assert gateway.down(sent.packet(0), outer).packets() == [with_ecn(expected)]


def test_no_nonce_is_spent_on_what_cannot_be_sent() -> None:
    client = Node(True)
    client.allow(UP)
    client.paths.clear(SLOT)
    assert client.up().verdict(0) == Verdict.UNROUTABLE
    assert client.events() == [(kernel.UNROUTABLE_PACKET, SLOT, PACKET)]
    client.paths.set(SLOT, RELAY)
    client.up()
    assert client.sessions.activity(SLOT)[-1] == 1


def test_an_unroutable_keepalive_is_nobodys_loss() -> None:
    client = Node(True)
    client.paths.clear(SLOT)
    client.pipeline.seal(SLOT, b"")
    assert client.pipeline.injected_up(PacketBatch(), 1)
    assert client.events() == []


def test_misses_have_a_budget_that_polling_gives_back() -> None:
    client, gateway = Node(True), Node(False)
    verdicts = [gateway.down(client.sealed()).verdict(0) for _ in range(40)]
    assert verdicts == [Verdict.SLOW] * 32 + [Verdict.OVER_BUDGET] * 8
    assert len(gateway.events()) == 1 + 32
    assert gateway.down(client.sealed()).verdict(0) == Verdict.SLOW
    verdicts = [client.up().verdict(0) for _ in range(300)]
    assert verdicts.count(Verdict.SLOW) == 256


def test_a_full_ring_still_takes_confirmations() -> None:
    client, gateway = Node(True), Node(False)
    stun = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12)
    batch = PacketBatch(1)
    verdicts = []
    for now in range(2000):
        batch.clear()
        batch.append(stun)
        gateway.pipeline.inbound(batch, now * 10**9)
        verdicts.append(batch.verdict(0))
    assert verdicts.count(Verdict.RING_FULL) == 2000 - (1024 - 64)
    assert gateway.down(client.sealed()).verdict(0) == Verdict.RING_FULL
    assert gateway.events()[-1] == (kernel.CONFIRMED, SLOT, b"")
    assert gateway.down(client.sealed()).verdict(0) == Verdict.SLOW, "the charge was given back"


def test_what_waits_for_a_closed_slot_never_reaches_its_next_peer() -> None:
    client, gateway = Node(True), Node(False)
    gateway.down(client.sealed())
    gateway.pipeline.seal(SLOT, PACKET)
    gateway.pipeline.reinject(DOWN, SLOT, PACKET)
    gateway.pipeline.close_slot(SLOT)
    gateway.sessions.remove_peer(SLOT)
    gateway.add_peer(8)
    gateway.install_keypair(0x801, True)
    assert gateway.events() == []
    batch = PacketBatch()
    assert gateway.pipeline.injected_up(batch, 1) and batch.verdict(0) == Verdict.NO_PEER
    assert gateway.pipeline.injected_down(batch, 1) and batch.verdict(0) == Verdict.NO_PEER
    gateway.pipeline.seal(SLOT, PACKET)
    assert gateway.pipeline.injected_up(batch, 1) and batch.verdict(0) == Verdict.PASS


def test_injected_items_run_in_order_and_by_kind() -> None:
    gateway = Node(True)
    gateway.allow(DOWN)
    for packet in (b"one", b"two"):
        gateway.pipeline.deliver(packet)
    gateway.pipeline.reinject(DOWN, SLOT, PACKET)
    gateway.pipeline.deliver(b"three")
    batch, got = PacketBatch(), list[list[bytes]]()
    while gateway.pipeline.injected_down(batch, 1):
        got.append(batch.packets())
    assert got == [[b"one", b"two"], [PACKET], [b"three"]]


def test_what_was_decided_does_not_come_up_as_a_miss_again() -> None:
    client = Node(True)
    client.pipeline.reinject(UP, 0, PACKET)
    client.pipeline.reinject(DOWN, SLOT, PACKET)
    batch = PacketBatch()
    assert client.pipeline.injected_up(batch, 1) and batch.verdict(0) == Verdict.OVER_BUDGET
    assert client.pipeline.injected_down(batch, 1) and batch.verdict(0) == Verdict.OVER_BUDGET
    assert client.events() == []


def test_counters_name_what_became_of_packets() -> None:
    client, gateway = Node(True), Node(False)
    client.allow(UP)
    gateway.allow(DOWN)
    datagram = client.up().packet(0)
    for _ in range(2):
        gateway.down(datagram)
    gateway.down(b"")
    up, down = client.pipeline.counters(), gateway.pipeline.counters()
    assert (up["tun_read_bytes"], up["udp_sent_bytes"]) == (len(PACKET), len(PACKET) + 32)
    assert (down["udp_received_packets"], down["tun_written_packets"]) == (3, 1)
    assert (down["replayed"], down["unknown_format"], down["tun_written_bytes"]) == (1, 1, 32)


@given(st.binary(max_size=200), st.integers(0), st.integers(0, 255))
def test_hostile_bytes_end_as_drops(data: bytes, at: int, flip: int) -> None:
    client, gateway = Node(True, CHANNEL), Node(False)
    client.allow(UP)
    gateway.allow(DOWN)
    gateway.channels.open(RELAY, CHANNEL)
    assert gateway.down(data).packets() == []
    assert gateway.down(b"\4\0\0\0" + data).packets() == []
    datagram = bytearray(client.up().packet(0))
    datagram[at % len(datagram)] ^= flip
    assert gateway.down(bytes(datagram)).packets() in ([], [PACKET])
    assert (flip == 0) == (gateway.pipeline.counters()["tun_written_packets"] == 1)
    client.up(data)


def test_tables_of_different_sizes_are_refused() -> None:
    sessions, channels = Sessions(SLOTS), Channels(bytes(8))
    flows = Flows(bytes(16), sessions, 64, SLOTS + 1)
    with pytest.raises(ValueError):
        Pipeline(sessions, flows, Paths(sessions, SLOTS), Demux(bytes(32), channels))
