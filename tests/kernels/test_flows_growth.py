"""The flow table while it grows, shrinks and forgets."""

import random

import packets
import pytest

from firezone._ext import ip
from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.flows import Flows

UP, DOWN, FORWARD, DROP, UDP = 0, 1, 1, 0, 17
SECOND = 1_000_000_000
DESTINATION = bytes([192, 0, 2, 1])

Key = tuple[int, int, int, bytes, bytes, int, int]


def key(number: int) -> Key:
    return (UP, 0, UDP, (0x0A000000 + number).to_bytes(4, "big"), DESTINATION, 1, 2)


def packet(number: int) -> bytes:
    host = (0x0A000000 + number).to_bytes(4, "big")
    return packets.udp(".".join(map(str, host)), "192.0.2.1", 1, 2)


def table(**options: int) -> Flows:
    return Flows(bytes(16), **{"capacity": 1 << 20, "slots": 8, "per_group": 1 << 20, **options})


def install(flows: Flows, number: int, group: int = 1, **values: int) -> bool:
    v = {"action": FORWARD, "expires_at": 0, "idle_timeout": 0, "now": 0, **values}
    return flows.install(
        key(number), v["action"], 1, group, v["expires_at"], v["idle_timeout"], None, v["now"]
    )


def look_up(flows: Flows, numbers: list[int], now: int = 0) -> list[Verdict]:
    batch = PacketBatch(len(numbers))
    for number in numbers:
        batch.append(packet(number))
    ip.parse(batch)
    flows.lookup(batch, UP, now)
    return [batch.verdict(slot) for slot in range(len(batch))]


def test_a_table_grows_with_its_entries_and_shrinks_again() -> None:
    flows = table()
    assert flows.places == 256
    for number in range(20_000):
        assert install(flows, number, expires_at=SECOND)
        assert len(flows) == number + 1
        assert flows.places <= max(256, 4 * (number + 1)), "no more than doubles"
        assert look_up(flows, [number // 2, number, number + 1]) == [
            Verdict.PASS,
            Verdict.PASS,
            Verdict.SLOW,
        ]
    assert flows.places == 1 << 15
    assert len(flows.sweep(2 * SECOND, 1 << 20)) == 20_000
    for _ in range(20):
        assert flows.sweep(2 * SECOND) == []
    assert flows.places == 256 and len(flows) == 0


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_or_found_twice_in_any_order_of_changes(seed: int) -> None:
    """Much churn over sizes from tens to thousands, in the middle of moves of the index."""
    choose, flows = random.Random(seed), table(tick=1)
    there: dict[int, int] = {}
    counted: dict[int, int] = {}
    for target in (40, 3000, 300, 5000, 10, 1000):
        while abs(len(there) - target) > target // 10:
            number = choose.randrange(8000)
            if len(there) < target and choose.random() < 0.9:
                action = choose.choice((FORWARD, DROP))
                assert install(flows, number, group=number % 3, action=action)
                counted.setdefault(number, 0)
                there[number] = action
            elif there:
                number = choose.choice([number, next(iter(there))])
                gone = flows.remove(key(number))
                assert (gone is None) == (there.pop(number, None) is None)
                assert gone is None or gone[0] == counted.pop(number)
            if choose.random() < 0.1:
                flows.sweep(0, 50)
        some = choose.sample(range(8000), 300)
        for number, verdict in zip(some, look_up(flows, some), strict=True):
            expected = {FORWARD: Verdict.PASS, DROP: Verdict.REFUSED, None: Verdict.SLOW}
            assert verdict == expected[there.get(number)]
            if number in there:
                counted[number] += 1
        entries = list(flows.entries())
        assert {e[0]: (e[1], e[-1][0]) for e in entries} == {
            key(n): (action, counted[n]) for n, action in there.items()
        }
        assert len(entries) == len(flows) == len(there)


def test_a_sweep_looks_only_at_what_may_have_ended() -> None:
    flows = table()
    for number in range(5000):
        install(flows, number, idle_timeout=200 * SECOND)
    for number in range(5000, 5010):
        install(flows, number, expires_at=3 * SECOND)
    assert flows.sweep(2 * SECOND, limit=10) == []
    assert {e[0] for e in flows.sweep(4 * SECOND, limit=10)} == set(map(key, range(5000, 5010)))
    assert len(flows) == 5000


def test_what_is_used_stays_and_what_is_idle_goes_a_tick_late_at_most() -> None:
    flows = table()
    for number in range(10):
        install(flows, number, idle_timeout=100 * SECOND)
    for now in range(1, 500):
        assert set(look_up(flows, [3, 4], now * SECOND)) == {Verdict.PASS}
        ended = {e[0] for e in flows.sweep(now * SECOND)}
        assert ended == (set(map(key, (0, 1, 2, 5, 6, 7, 8, 9))) if now == 100 else set())


def test_ends_far_ahead_and_after_a_long_pause() -> None:
    flows = table()
    install(flows, 1, expires_at=10_000 * SECOND)
    install(flows, 2)
    for now in range(0, 10_000, 100):
        assert flows.sweep(now * SECOND) == []
    assert [e[0] for e in flows.sweep(10_000 * SECOND)] == [key(1)]
    assert [e[0] for e in flows.entries()] == [key(2)]
    assert flows.sweep(1_000_000_000 * SECOND) == []


def test_a_sweep_does_a_bounded_piece_of_work() -> None:
    flows = table(tick=1)
    for number in range(40):
        install(flows, number, group=number % 2, expires_at=1)
    flows.bump(1)
    pieces = [flows.sweep(1, limit=16) for _ in range(4)]
    assert [len(piece) for piece in pieces] == [16, 16, 8, 0]
    assert {e[3] for e in pieces[0]} == {1}, "revoked groups go first"


def test_closing_a_peer_frees_its_share_without_a_look_at_the_others() -> None:
    flows = table(per_group=1000)
    for group in (1, 2, 3):
        for number in range(1000):
            assert install(flows, group * 1000 + number, group=group)
    assert not install(flows, 0, group=2)
    flows.close_slot(2)
    for number in range(100):
        assert not install(flows, number, group=2), "its share is not free yet"
    assert len(flows.sweep(0, limit=600)) == 600
    for number in range(100):
        assert install(flows, number, group=2)
    assert {e[3] for e in flows.sweep(0, limit=1000)} == {2}
    assert len(flows) == 2000 + 100 and flows.sweep(0) == []


def test_memory_of_entries_is_used_again() -> None:
    flows = table(capacity=1000)
    for round_ in range(60):
        for number in range(1000):
            assert install(flows, round_ * 1000 + number)
        flows.bump(1)
        assert len(flows.sweep(0, 2000)) == 1000


def test_a_group_that_is_revoked_again_and_again() -> None:
    flows = table()
    for round_ in range(20):
        for number in range(100):
            install(flows, number + 50 * (round_ % 2))
        flows.bump(1)
        assert look_up(flows, [60]) == [Verdict.SLOW]
        flows.sweep(0, 30)
    flows.sweep(0)
    assert len(flows) == 0
