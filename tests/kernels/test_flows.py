from ipaddress import ip_address

import packets
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from firezone._ext import ip
from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.flows import Flows
from tests.reference import flows as twin

UP, DOWN = 0, 1
DROP, FORWARD, SLOW = 0, 1, 2
SECRET = bytes(range(16))
TCP, UDP = 6, 17
A, B, PROXY = "10.0.0.1", "10.0.0.2", "100.96.0.1"
A6, B6 = "fd00::1", "fd00::2"

Key = tuple[int, int, int, bytes, bytes, int, int]


def key(
    direction: int = UP,
    slot: int = 0,
    protocol: int = UDP,
    source: str = A,
    destination: str = B,
    source_port: int = 1,
    destination_port: int = 2,
) -> Key:
    pair = ip_address(source).packed, ip_address(destination).packed
    return (direction, slot, protocol, *pair, source_port, destination_port)


def table(**options: int) -> Flows:
    return Flows(SECRET, **{"capacity": 64, "slots": 8, "tick": 1, **options})


def install(flows: Flows, k: Key, action: int = FORWARD, slot: int = 1, **options: object) -> bool:
    values = {"group": slot, "expires_at": 0, "idle_timeout": 0, "rewrite": None, "now": 0}
    return flows.install(k, action, slot, **{**values, **options})  # type: ignore[arg-type]


def look_up(
    flows: Flows, packet: bytes, direction: int = UP, peer: int = 0, now: int = 0
) -> tuple[Verdict, int, bytes]:
    batch = PacketBatch(1)
    batch.append(packet, peer)
    ip.parse(batch)
    flows.lookup(batch, direction, now)
    flows.rewrite(batch)
    return batch.verdict(0), batch.peer(0), batch.packet(0)


UDP_PACKET = packets.udp(A, B, 1, 2, b"data")


def test_actions() -> None:
    flows = table()
    assert look_up(flows, UDP_PACKET)[0] == Verdict.SLOW
    for action, verdict, peer in (
        (FORWARD, Verdict.PASS, 3),
        (DROP, Verdict.REFUSED, 0),
        (SLOW, Verdict.SLOW, 0),
    ):
        assert install(flows, key(), action, slot=3)
        assert look_up(flows, UDP_PACKET) == (verdict, peer, UDP_PACKET)
    assert len(flows) == 1


@pytest.mark.parametrize(
    "packet",
    [
        packets.udp(A, B, 1, 3),
        packets.udp(A, B, 2, 2),
        packets.udp(B, A, 1, 2),
        packets.tcp(A, B, 1, 2),
        packets.udp(A6, B6, 1, 2),
    ],
)
def test_every_part_of_the_tuple_counts(packet: bytes) -> None:
    flows = table()
    install(flows, key())
    assert look_up(flows, packet)[0] == Verdict.SLOW


def test_on_the_way_down_the_peer_counts_and_stays() -> None:
    flows = table()
    install(flows, key(DOWN, slot=2), slot=5)
    assert look_up(flows, UDP_PACKET, DOWN, peer=2)[:2] == (Verdict.PASS, 2)
    assert look_up(flows, UDP_PACKET, DOWN, peer=3)[0] == Verdict.SLOW
    assert look_up(flows, UDP_PACKET, UP)[0] == Verdict.SLOW


def test_tcp_flags_are_gathered_and_do_not_tell_flows_apart() -> None:
    flows = table()
    install(flows, key(protocol=TCP))
    for flags in (0x02, 0x10, 0x11):
        assert look_up(flows, packets.tcp(A, B, 1, 2, flags))[0] == Verdict.PASS
    entry = flows.entry(key(protocol=TCP))
    assert entry is not None and entry[-1] == (3, 120, 0, 0x13)


def test_icmp_echo_is_keyed_by_its_identifier() -> None:
    flows = table()
    install(flows, key(protocol=1, source_port=9, destination_port=9))
    assert look_up(flows, packets.ping(A, B, 9))[0] == Verdict.PASS
    assert look_up(flows, packets.ping(A, B, 8))[0] == Verdict.SLOW


def test_expiry_and_idleness() -> None:
    flows = table()
    install(flows, key(), expires_at=100)
    assert look_up(flows, UDP_PACKET, now=99)[0] == Verdict.PASS
    assert look_up(flows, UDP_PACKET, now=100)[0] == Verdict.SLOW
    install(flows, key(), idle_timeout=10, now=100)
    for now in (109, 118, 127):
        assert look_up(flows, UDP_PACKET, now=now)[0] == Verdict.PASS
    assert look_up(flows, UDP_PACKET, now=137)[0] == Verdict.SLOW


def test_revocation_bites_on_the_next_packet() -> None:
    flows = table()
    install(flows, key(), slot=1, group=2)
    flows.bump(1)
    assert look_up(flows, UDP_PACKET)[0] == Verdict.PASS
    flows.bump(2)
    assert look_up(flows, UDP_PACKET)[0] == Verdict.SLOW
    install(flows, key(), slot=1, group=2)
    assert look_up(flows, UDP_PACKET)[0] == Verdict.PASS


@pytest.mark.parametrize("k", [key(), key(DOWN, slot=1)])
def test_a_closed_slot_takes_its_flows_with_it_whatever_their_group(k: Key) -> None:
    flows = table()
    install(flows, k, slot=1, group=0)
    flows.close_slot(2)
    assert look_up(flows, UDP_PACKET, k[0], k[1])[0] == Verdict.PASS
    flows.close_slot(1)
    assert look_up(flows, UDP_PACKET, k[0], k[1])[0] == Verdict.SLOW
    with pytest.raises(ValueError):
        flows.close_slot(0)


def test_a_replaced_entry_hands_its_counters_on() -> None:
    flows = table()
    install(flows, key())
    look_up(flows, UDP_PACKET, now=7)
    install(flows, key(), DROP, now=8)
    look_up(flows, UDP_PACKET, now=9)
    assert flows.remove(key()) == (2, 2 * len(UDP_PACKET), 9, 0)
    assert flows.remove(key()) is None and len(flows) == 0


def test_rewrites_both_families() -> None:
    flows = table()
    destination = ip_address(B).packed
    install(flows, key(destination=PROXY), rewrite=(None, destination, 1000, None))
    packet = packets.udp(A, PROXY, 1, 2, b"data")
    assert look_up(flows, packet)[2] == packets.udp(A, B, 1000, 2, b"data")
    install(flows, key(DOWN, 4, TCP, A6, B6), rewrite=(None, None, None, 443))
    packet = packets.tcp(A6, B6, 1, 2)
    assert look_up(flows, packet, DOWN, 4)[2] == packets.tcp(A6, B6, 1, 443)


def test_a_rewrite_that_does_not_fit_its_packet_drops_it() -> None:
    flows = table()
    install(
        flows, key(protocol=47, source_port=0, destination_port=0), rewrite=(None, None, 5, None)
    )
    assert look_up(flows, packets.ip(A, B, 47, b"gre"))[0] == Verdict.MALFORMED


def test_entries_are_described_as_they_were_installed() -> None:
    flows = table()
    k, rewrite = key(DOWN, 3, TCP, A6, B6, 5, 6), (None, ip_address(A6).packed, None, 7)
    install(flows, k, SLOW, slot=2, group=4, expires_at=50, idle_timeout=60, rewrite=rewrite, now=9)
    assert list(flows.entries()) == [(k, SLOW, 2, 4, 50, 60, rewrite, (0, 0, 9, 0))]
    assert flows.entry(k) == next(flows.entries())


def test_one_group_cannot_fill_the_table() -> None:
    flows = table(per_group=5)
    assert [install(flows, key(source_port=p), slot=1) for p in range(7)] == [True] * 5 + [
        False
    ] * 2
    assert install(flows, key(source_port=0), slot=1), "one that is there can be replaced"
    assert install(flows, key(source_port=9), slot=2)
    flows.remove(key(source_port=0))
    assert install(flows, key(source_port=6), slot=1)


def test_a_full_table_refuses_and_recovers() -> None:
    flows = table()
    installed = [install(flows, key(source_port=p), expires_at=10) for p in range(80)]
    assert installed == [True] * 64 + [False] * 16
    assert len(flows.sweep(9)) == 0
    assert len(flows.sweep(10)) == 64
    assert len(flows) == 0
    assert all(install(flows, key(source_port=p)) for p in range(100, 164))


def test_places_of_removed_entries_are_used_again_without_end() -> None:
    flows = table()
    for port in range(2000):
        assert install(flows, key(source_port=port))
        assert flows.remove(key(source_port=port)) is not None
    assert flows.places == 256


def test_it_tells_when_to_sweep() -> None:
    flows = table(tick=10)
    assert flows.next_sweep() is None
    install(flows, key(source_port=1), expires_at=105)
    assert flows.next_sweep() == 110
    install(flows, key(source_port=2), idle_timeout=42)
    assert flows.next_sweep() == 50
    assert len(flows.sweep(49)) == 0 and flows.next_sweep() == 50
    assert len(flows.sweep(50)) == 1 and flows.next_sweep() == 110
    flows.bump(1)
    assert flows.next_sweep() == 0
    assert len(flows.sweep(50)) == 1 and flows.next_sweep() is None


def test_the_same_decision_renews_an_entry_and_another_replaces_it() -> None:
    flows = table()
    for action, group, expires in ((FORWARD, 1, 5), (FORWARD, 1, 50), (DROP, 1, 60), (DROP, 2, 70)):
        assert install(flows, key(), action, slot=1, group=group, expires_at=expires, now=1)
        entry = flows.entry(key())
        assert entry is not None and entry[1:5] == (action, 1, group, expires)
        assert list(flows.entries()) == [entry] and len(flows) == 1
    assert flows.sweep(69) == [] and len(flows.sweep(70)) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"k": key(2)},
        {"k": key(slot=9)},
        {"k": (UP, 0, UDP, bytes(4), bytes(16), 1, 2)},
        {"k": (UP, 0, UDP, bytes(5), bytes(5), 1, 2)},
        {"action": 3},
        {"slot": 9},
        {"group": 9},
        {"rewrite": (bytes(16), None, None, None)},
    ],
)
def test_values_out_of_range(values: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        install(table(), **{"k": key(), **values})  # type: ignore[arg-type]


KEYS = st.builds(
    key,
    direction=st.just(UP),
    protocol=st.sampled_from([TCP, UDP]),
    source_port=st.integers(1, 6),
) | st.builds(
    key,
    direction=st.just(DOWN),
    slot=st.integers(1, 3),
    source=st.just(A6),
    destination=st.just(B6),
    source_port=st.integers(1, 3),
)


class AgreesWithItsTwin(RuleBasedStateMachine):
    """Any order of installing, revoking, looking up and sweeping."""

    def __init__(self) -> None:
        super().__init__()
        self.flows = table(capacity=12, per_group=6)
        self.twin = twin.Table(per_group=6, capacity=12)
        self.now = 0

    @rule(
        k=KEYS,
        action=st.integers(0, 2),
        slot=st.integers(0, 3),
        group=st.integers(0, 3),
        expires=st.sampled_from([0, 5, 50]),
        idle=st.sampled_from([0, 3, 30]),
    )
    def install(self, k: Key, action: int, slot: int, group: int, expires: int, idle: int) -> None:
        until = self.now + expires if expires else 0
        entry = twin.Entry(action, slot, group, until, idle, self.now)
        done = self.flows.install(k, action, slot, group, until, idle, None, self.now)
        assert done == self.twin.install(k, entry)

    @rule(k=KEYS, flags=st.sampled_from([0x02, 0x10]))
    def look_up(self, k: Key, flags: int) -> None:
        direction, slot, protocol, source, destination, source_port, port = k
        pair = str(ip_address(source)), str(ip_address(destination))
        if protocol == TCP:
            packet = packets.tcp(*pair, source_port, port, flags)
        else:
            packet, flags = packets.udp(*pair, source_port, port), 0
        verdict, peer, _ = look_up(self.flows, packet, direction, slot, self.now)
        expected, out = self.twin.lookup(k, len(packet), flags, self.now)
        assert (verdict.name, peer) == (expected, slot if direction == DOWN else out)

    @rule(k=KEYS)
    def remove(self, k: Key) -> None:
        entry = self.twin.entries.pop(k, None)
        assert (self.flows.remove(k) is None) == (entry is None)

    @rule(group=st.integers(0, 3))
    def bump(self, group: int) -> None:
        self.flows.bump(group)
        self.twin.bump(group)

    @rule(slot=st.integers(1, 3))
    def close_slot(self, slot: int) -> None:
        self.flows.close_slot(slot)
        self.twin.close_slot(slot)

    @rule(delta=st.integers(0, 20))
    def pass_time(self, delta: int) -> None:
        self.now += delta

    @rule()
    def sweep(self) -> None:
        """What ended by time or with its group goes at once, what names a closed peer in time."""
        ended = {entry[0] for entry in self.flows.sweep(self.now)}
        over = self.twin.over(self.now)
        assert ended <= over
        for k in ended:
            del self.twin.entries[k]
        assert all(self.twin.entries[k].names_closed_peer for k in over - ended)

    @invariant()
    def same_entries(self) -> None:
        expected = {
            k: (e.action, e.slot, (e.packets, e.bytes, e.last_seen, e.tcp_flags))
            for k, e in self.twin.entries.items()
        }
        assert {e[0]: (e[1], e[2], e[7]) for e in self.flows.entries()} == expected
        assert len(self.flows) == len(expected)

    @invariant()
    def tells_when_to_sweep(self) -> None:
        """In time for the first end, if nothing is used until then; never without entries."""
        due = self.flows.next_sweep()
        assert (due is None) == (not self.twin.entries)
        ends = [end for e in self.twin.entries.values() if (end := e.end()) is not None]
        if ends and due is not None:
            assert due <= max(min(ends), self.now + 1)


TestAgreesWithItsTwin = AgreesWithItsTwin.TestCase
TestAgreesWithItsTwin.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
