from __future__ import annotations

import pytest
from ice_wire import Wire, host, make_agent

from firezone.durations import MILLISECOND, SECOND
from firezone.ice import CheckState, IceState, StunTiming


@pytest.mark.parametrize(
    ("timing", "seconds"),
    [
        (StunTiming.DEFAULT, 16.5),
        (StunTiming.IDLE, 100),
        (StunTiming.GATEWAY, 615.5),
        (StunTiming.GATEWAY_IDLE, 1000),
    ],
)
def test_timeout_of_a_working_pair(timing: StunTiming, seconds: float) -> None:
    assert timing.timeout() / SECOND == seconds


def test_delays_double_up_to_the_maximum() -> None:
    delays = [StunTiming.DEFAULT.delay(n) // MILLISECOND for n in range(6)]
    assert delays == [0, 250, 500, 1000, 1500, 1500]
    assert StunTiming.GATEWAY.delay(10**9) == 15 * SECOND


def test_a_pair_that_never_answers_fails_on_schedule() -> None:
    wire = silent_wire(StunTiming.DEFAULT)
    wire.run(15.249)
    assert wire.left.state is IceState.CHECKING
    wire.run(0.001)
    assert wire.left.state is IceState.DISCONNECTED
    sent = [at / SECOND for at, agent, *_ in wire.sent if agent is wire.left]
    assert sent == [0, 0.25, 0.75, *(1.75 + 1.5 * n for n in range(9))]
    assert wire.left.poll_timeout() is None


@pytest.mark.parametrize("timing", [StunTiming.DEFAULT, StunTiming.IDLE, StunTiming.GATEWAY])
def test_a_working_pair_fails_a_timeout_after_its_first_unanswered_check(
    timing: StunTiming,
) -> None:
    wire = Wire(make_agent(True, timing=timing), make_agent(False, timing=timing))
    wire.add(wire.left, host("1.1.1.1:1"))
    wire.add(wire.right, host("2.2.2.2:2"))
    wire.run(1200)
    assert wire.left.state is IceState.COMPLETED
    wire.lost = lambda: True
    already_sent = len(wire.sent)
    wire.run(1200)
    assert wire.left.state is IceState.DISCONNECTED and wire.left.nominated is None
    sent = [at for at, agent, *_ in wire.sent[already_sent:] if agent is wire.left]
    # The last one would have been due where the pair failed.
    assert sent[-1] + timing.delay(timing.tries) - sent[0] == timing.timeout()
    assert len(sent) == timing.tries


def test_a_working_pair_is_checked_every_maximum() -> None:
    wire = Wire()
    wire.add(wire.left, host("1.1.1.1:1"))
    wire.add(wire.right, host("2.2.2.2:2"))
    wire.run(60)
    already_sent = len(wire.sent)
    wire.run(15)
    assert len(wire.sent) - already_sent == 2 * 10 * 2


def test_a_changed_timing_holds_at_once() -> None:
    wire = Wire()
    wire.add(wire.left, host("1.1.1.1:1"))
    wire.add(wire.right, host("2.2.2.2:2"))
    wire.run(30)
    before = wire.left.poll_timeout()
    wire.left.set_timing(StunTiming.IDLE, wire.now)
    after = wire.left.poll_timeout()
    assert before and after and after.deadline - before.deadline == 23_500 * MILLISECOND
    wire.left.set_timing(StunTiming.DEFAULT, wire.now)
    assert wire.left.poll_timeout() == before


def test_idle_agents_notice_an_outage_soon_after_they_wake() -> None:
    wire = Wire()
    wire.add(wire.left, host("1.1.1.1:1"))
    wire.add(wire.right, host("2.2.2.2:2"))
    wire.run(30)
    wire.left.set_timing(StunTiming.IDLE, wire.now)
    wire.run(200)
    wire.lost = lambda: True
    wire.left.set_timing(StunTiming.DEFAULT, wire.now)
    wire.run(1.5 + 16.5)
    assert wire.left.state is IceState.DISCONNECTED


def test_round_trips_are_measured() -> None:
    wire = Wire()
    wire.add(wire.left, host("1.1.1.1:1"))
    wire.add(wire.right, host("2.2.2.2:2"))
    wire.run(10)
    (pair,) = wire.left.pairs()
    assert pair.round_trip == 20 * MILLISECOND
    assert pair.state is CheckState.SUCCEEDED and pair.nominated


def silent_wire(timing: StunTiming) -> Wire:
    wire = Wire(make_agent(True, timing=timing), make_agent(False, timing=timing))
    wire.add(wire.left, host("1.1.1.1:1"))
    wire.left.add_remote_candidate(host("3.3.3.3:3"), 0)
    return wire


def test_beside_a_pair_in_use_the_gateway_gives_a_dead_end_twelve_checks() -> None:
    wire = Wire(right=make_agent(False, timing=StunTiming.GATEWAY))
    wire.add(wire.left, host("1.1.1.1:1"), host("1.1.2.1:1"))
    wire.add(wire.right, host("2.2.2.2:2"))
    wire.block("1.1.2.1:1", "2.2.2.2:2")
    wire.run(1200)
    used, dead = wire.right.pairs()
    assert used.nominated and used.state is CheckState.SUCCEEDED
    assert dead.state is CheckState.FAILED and dead.tally.sent == 12
    assert dead.tally.failed_at == 105_750 * MILLISECOND
    wire.right.add_remote_candidate(host("1.1.2.1:1"), wire.now)
    wire.blocked.clear()
    wire.run(1)
    assert {pair.state for pair in wire.right.pairs()} == {CheckState.SUCCEEDED}


def test_without_a_pair_in_use_it_goes_on_for_ten_minutes() -> None:
    wire = silent_wire(StunTiming.GATEWAY)
    wire.run(600)
    assert wire.left.state is IceState.CHECKING
    wire.run(1)
    assert wire.left.state is IceState.DISCONNECTED
    assert sum(agent is wire.left for _, agent, *_ in wire.sent) == 45


def test_a_pair_that_worked_keeps_its_long_trial_beside_another() -> None:
    wire = Wire(right=make_agent(False, timing=StunTiming.GATEWAY))
    wire.add(wire.left, host("1.1.1.1:1"), host("1.1.2.1:1"))
    wire.add(wire.right, host("2.2.2.2:2"))
    wire.run(30)
    wire.block("1.1.2.1:1", "2.2.2.2:2")
    wire.run(300)
    assert {pair.state for pair in wire.right.pairs()} == {CheckState.SUCCEEDED}
