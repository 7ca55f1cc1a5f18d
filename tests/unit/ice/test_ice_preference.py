"""Among direct pairs of one kind the faster one is used, and nothing flaps."""

from __future__ import annotations

import pytest
from ice_wire import Wire, host, relay

from firezone.durations import MILLISECOND
from firezone.ice import Candidate, Tally
from firezone.ice.pair import Pair
from firezone.ice.preference import DWELL, MIN_ANSWERS, is_faster, prefer
from firezone.model import Endpoint

FIRST, SECOND_ONE, RIGHT = "10.0.0.1:1", "10.0.1.1:1", "10.0.0.2:2"
RELAY = "5.5.5.5:50001"


def two_interfaces(first_delay: int, second_delay: int) -> Wire:
    """The second one has the lower priority. Delays are each way, in milliseconds."""
    wire = Wire()
    wire.delay(FIRST, RIGHT, first_delay * MILLISECOND)
    wire.delay(SECOND_ONE, RIGHT, second_delay * MILLISECOND)
    wire.add(wire.left, host(FIRST), host(SECOND_ONE))
    wire.add(wire.right, host(RIGHT))
    return wire


def test_the_faster_of_two_direct_pairs_is_used_after_a_while_by_both() -> None:
    wire = two_interfaces(40, 0)
    wire.run(5)
    assert wire.path(wire.left) == (FIRST, RIGHT)
    wire.run(25)
    assert wire.path(wire.left) == (SECOND_ONE, RIGHT)
    assert wire.path(wire.right) == (RIGHT, SECOND_ONE)
    moves = len(wire.nominations[wire.left])
    wire.run(120)
    assert len(wire.nominations[wire.left]) == moves


def test_a_little_faster_is_not_enough() -> None:
    wire = two_interfaces(4, 0)
    wire.run(60)
    assert wire.path(wire.left) == (FIRST, RIGHT)


def test_the_priority_counts_again_when_the_advantage_is_gone() -> None:
    wire = two_interfaces(40, 0)
    wire.run(30)
    assert wire.path(wire.left) == (SECOND_ONE, RIGHT)
    wire.delay(FIRST, RIGHT, 0)
    wire.run(60)
    assert wire.path(wire.left) == (FIRST, RIGHT)
    assert wire.path(wire.right) == (RIGHT, FIRST)


def test_a_round_trip_that_swings_about_the_margin_moves_little() -> None:
    wire = two_interfaces(6, 0)
    for n in range(60):
        wire.delay(FIRST, RIGHT, (2 + 6 * (n % 2)) * MILLISECOND)
        wire.run(5)
    assert len(wire.nominations[wire.left]) <= 4


def test_a_fast_relay_displaces_no_direct_pair() -> None:
    wire = Wire()
    wire.delay(FIRST, RIGHT, 200 * MILLISECOND)
    wire.add(wire.left, host(FIRST), relay(RELAY, FIRST))
    wire.add(wire.right, host(RIGHT))
    wire.run(60)
    assert wire.path(wire.left) == (FIRST, RIGHT)


# The rule alone.


def pair(
    n: int, round_trip: int | None, *, answered: int = MIN_ANSWERS, relayed: bool = False
) -> Pair:
    address = Endpoint.parse(f"10.0.0.{n}:1")
    local = Candidate.relayed(address) if relayed else Candidate.host(address)
    made = Pair(local, host(RIGHT), True, 0)
    made.priority = n
    made.round_trip = None if round_trip is None else round_trip * MILLISECOND
    made.tally = Tally(answered=answered)
    return made


@pytest.mark.parametrize(
    ("fast", "slow", "expected"),
    [(0, 10, True), (1, 10, False), (80, 100, True), (81, 100, False), (400, 480, False)],
)
def test_the_margin_is_ten_milliseconds_or_a_fifth(fast: int, slow: int, expected: bool) -> None:
    assert is_faster(pair(1, fast), pair(2, slow)) is expected


def test_few_answers_prove_no_speed() -> None:
    assert not is_faster(pair(1, 1, answered=MIN_ANSWERS - 1), pair(2, 99))
    assert not is_faster(pair(1, 1), pair(2, 99, answered=MIN_ANSWERS - 1))
    assert not is_faster(pair(1, None), pair(2, 99))


def test_speed_alone_moves_nothing_before_its_time() -> None:
    fast, slow = pair(1, 1), pair(2, 99)
    assert prefer([fast, slow], slow, 0, DWELL - 1) is slow
    assert prefer([fast, slow], slow, 0, DWELL) is fast


def test_a_higher_priority_waits_until_half_of_the_margin_is_gone() -> None:
    fast = pair(1, 30)
    assert prefer([fast, pair(2, 36)], fast, 0, 10 * DWELL) is fast
    higher = pair(2, 34)
    assert prefer([fast, higher], fast, 0, 10 * DWELL) is higher


@pytest.mark.parametrize("trip", [1, 99])
def test_kinds_are_not_compared(trip: int) -> None:
    relayed, direct = pair(1, trip, relayed=True), pair(2, 50)
    assert prefer([relayed, direct], direct, 0, 10 * DWELL) is direct
    two = [pair(1, 1, relayed=True), pair(2, 99, relayed=True)]
    assert prefer(two, two[1], 0, 10 * DWELL) is two[1]


def test_distrust_weighs_more_than_speed() -> None:
    fast, slow = pair(2, 1), pair(1, 99)
    fast.is_distrusted = True
    assert prefer([fast, slow], slow, 0, 10 * DWELL) is slow


def test_nothing_works_nothing_is_preferred() -> None:
    assert prefer([], None, 0, 0) is None
