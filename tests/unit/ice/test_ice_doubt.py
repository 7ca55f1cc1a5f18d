"""What two agents do when the layer above hears nothing over the pair that they use."""

from __future__ import annotations

import pytest
from ice_wire import Wire, host, relay

from firezone.durations import MILLISECOND, MINUTE, SECOND
from firezone.ice import Agent, PathInDoubt, PathSilent
from firezone.ice.doubt import (
    DISTRUST,
    MAX_DISTRUST,
    PROBES,
    Doubt,
    distrust,
    reconsider,
)
from firezone.ice.pair import Pair

LEFT, RIGHT, LEFT_RELAY = "10.0.0.1:1", "10.0.0.2:2", "5.5.5.5:50001"
DIRECT, RELAYED = (LEFT, RIGHT), (LEFT_RELAY, RIGHT)


def wire_with_two_paths() -> Wire:
    wire = Wire()
    wire.add(wire.left, host(LEFT), relay(LEFT_RELAY))
    wire.add(wire.right, host(RIGHT))
    wire.run(10)
    assert wire.path(wire.left) == DIRECT
    return wire


def pair_in_use(agent: Agent) -> Pair:
    pair = agent._choice.pair
    assert pair is not None
    return pair


def test_silence_on_a_path_that_works_costs_one_check() -> None:
    wire = wire_with_two_paths()
    wire.run(1.4)
    before = len(wire.sent)
    wire.left.handle_silence(wire.now)
    wire.run(0.1)
    assert len(wire.sent) - before <= 2 * 2
    wire.run(5)
    assert wire.path(wire.left) == DIRECT


def test_a_path_that_is_dead_is_left_by_both_agents() -> None:
    wire = wire_with_two_paths()
    wire.block(LEFT, RIGHT)
    wire.run(1)
    wire.left.handle_silence(wire.now)
    wire.run(1.5)
    assert wire.path(wire.left) == RELAYED
    assert wire.path(wire.right) == (RIGHT, LEFT_RELAY)
    assert wire.left.counters["nominated pair distrusted"] == 1


def test_the_peer_follows_at_once_if_it_hears_nothing_either() -> None:
    """Though the last check on the dead path, which nominated it, may be but a second old."""
    moved = []
    for hears in (True, False):
        wire = wire_with_two_paths()
        checked_before = pair_in_use(wire.right).requested_at
        while pair_in_use(wire.right).requested_at == checked_before:
            wire.run(0.01)
        wire.run(0.25)
        wire.block(LEFT, RIGHT)
        wire.left.handle_silence(wire.now)
        if not hears:
            wire.right.handle_silence(wire.now)
        wire.run(0.8)
        assert wire.path(wire.left) == RELAYED
        moved.append(wire.path(wire.right) == (RIGHT, LEFT_RELAY))
    assert moved == [False, True]


def test_a_peer_that_hears_nothing_moves_nowhere_by_itself() -> None:
    wire = wire_with_two_paths()
    wire.right.handle_silence(wire.now)
    wire.run(20)
    assert wire.path(wire.right) == (RIGHT, LEFT)


def test_it_is_not_left_without_anything_better() -> None:
    wire = Wire()
    wire.add(wire.left, host(LEFT))
    wire.add(wire.right, host(RIGHT))
    wire.run(10)
    wire.block(LEFT, RIGHT)
    wire.run(1)
    wire.left.handle_silence(wire.now)
    told = []
    for _ in range(30):
        while (timeout := wire.left.poll_timeout()) is not None and timeout.deadline <= wire.now:
            wire.left.handle_timeout(wire.now)
            while wire.left.poll_transmit() is not None:
                pass
            while (event := wire.left.poll_event()) is not None:
                told.append(type(event))
        wire.now += SECOND // 10
    assert told == [PathInDoubt, PathSilent]
    assert wire.path(wire.left) == DIRECT


@pytest.mark.parametrize("state", ["new", "just answered", "in doubt already"])
def test_when_silence_means_nothing_new(state: str) -> None:
    wire = Wire() if state == "new" else wire_with_two_paths()
    if state == "just answered":
        wire.run(0.1)
    if state == "in doubt already":
        wire.run(1.4)
        wire.left.handle_silence(wire.now)
    before = len(wire.sent)
    doubt = wire.left._suspicion.doubt
    wire.left.handle_silence(wire.now)
    assert len(wire.sent) == before
    assert wire.left._suspicion.doubt is doubt or state == "just answered"


def test_a_distrusted_path_is_used_again_when_its_time_is_up_and_it_works() -> None:
    wire = wire_with_two_paths()
    wire.block(LEFT, RIGHT)
    wire.run(1)
    wire.left.handle_silence(wire.now)
    wire.run(3)
    wire.blocked.clear()
    wire.run(5)
    assert wire.path(wire.left) == RELAYED
    wire.run(6)
    assert wire.path(wire.left) == DIRECT
    assert wire.path(wire.right) == (RIGHT, LEFT)


def pair() -> Pair:
    return Pair(host(LEFT), host(RIGHT), True, 0)


def test_distrust_doubles_and_is_forgiven() -> None:
    one, now, terms = pair(), MINUTE, []
    for _ in range(8):
        distrust(one, now)
        terms.append(one.distrusted_until - now)
        now = one.distrusted_until + SECOND
        reconsider(one, now)
        assert not one.is_distrusted
    assert terms[:3] == [DISTRUST, 2 * DISTRUST, 4 * DISTRUST]
    assert max(terms) == terms[-1] == MAX_DISTRUST
    distrust(one, now + 11 * MINUTE)
    assert one.distrusted_until == now + 11 * MINUTE + DISTRUST


def test_distrust_lasts_as_long_as_checks_are_lost() -> None:
    one = pair()
    distrust(one, MINUTE)
    one.tally.unanswered = 2
    reconsider(one, one.distrusted_until)
    assert one.is_distrusted
    one.tally.unanswered = 0
    reconsider(one, one.distrusted_until - 1)
    assert one.is_distrusted
    reconsider(one, one.distrusted_until)
    assert not one.is_distrusted


def test_the_verdict_waits_for_two_round_trips() -> None:
    doubt = Doubt(pair(), 0)
    assert doubt.verdict_at is None
    doubt.probes, doubt.probed_at = PROBES, SECOND
    assert doubt.verdict_at == SECOND + 300_000_000
    doubt.pair.round_trip = SECOND // 2
    assert doubt.verdict_at == 2 * SECOND


def test_a_long_way_is_checked_no_oftener_than_four_times_in_a_round_trip() -> None:
    doubt = Doubt(pair(), 0)
    doubt.handle_probed(0)
    assert doubt.probe_at == 30 * MILLISECOND
    doubt.pair.round_trip = SECOND
    assert doubt.probe_at == SECOND // 4


def test_without_an_answer_from_anybody_the_next_that_comes_decides() -> None:
    doubt = Doubt(pair(), 0, probes=PROBES, probed_at=SECOND, is_hopeless=True)
    assert doubt.verdict_at is not None and doubt.verdict_at > SECOND + 300_000_000
    doubt.look_again(2 * SECOND)
    assert not doubt.is_hopeless and doubt.verdict_at is None
    assert doubt.probe_at == 2 * SECOND and doubt.probes < PROBES


def test_checks_under_way_do_not_stop_the_search_for_a_direct_path() -> None:
    """One that is doubted while its answers take their time has many of them."""
    wire = Wire()
    wire.add(wire.left, host(LEFT), relay(LEFT_RELAY))
    wire.block(LEFT, RIGHT)
    wire.delay(LEFT_RELAY, RIGHT, 150 * MILLISECOND)
    wire.add(wire.right, host(RIGHT))
    wire.run(31.2)
    assert wire.path(wire.left) == RELAYED
    while not wire.left._suspicion.doubt:
        wire.run(0.1)
        wire.left.handle_silence(wire.now)
    wire.run(0.25)
    assert pair_in_use(wire.left).tally.unanswered > 1
    assert wire.left.retry_direct(wire.now)


def test_a_path_that_answers_no_more_stops_the_search_for_a_direct_one() -> None:
    wire = Wire()
    wire.add(wire.left, host(LEFT), relay(LEFT_RELAY))
    wire.block(LEFT, RIGHT)
    wire.add(wire.right, host(RIGHT))
    wire.run(30)
    wire.block(LEFT_RELAY, RIGHT)
    wire.run(4)
    assert not wire.left.retry_direct(wire.now)
