"""Agents that repeat USE-CANDIDATE on every pair that they have ever nominated, as str0m does."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from ice_wire import Wire, host, make_agent, relay

from firezone.ice import StunTiming
from firezone.ice.pair import Pair

LEFT, RIGHT, LEFT_RELAY = "10.0.0.1:1", "10.0.0.2:2", "5.5.5.5:50001"
DIRECT, RELAYED = (RIGHT, LEFT), (RIGHT, LEFT_RELAY)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """The controlling agent nominated the relayed pair first, then the direct one."""
    monkeypatch.setattr(Pair, "renounce", lambda self: None)
    wire = Wire(right=make_agent(False, timing=StunTiming.GATEWAY))
    wire.add(wire.left, relay(LEFT_RELAY))
    wire.add(wire.right, host(RIGHT))
    wire.run(3.3)
    assert wire.path(wire.right) == RELAYED
    wire.add(wire.left, host(LEFT))
    wire.run(5)
    assert wire.path(wire.right) == DIRECT
    return wire


def paths(
    wire: Wire, seconds: float, before_each: Callable[[], None] = lambda: None
) -> set[object]:
    """All that the controlled agent sends on in that time."""
    seen = set()
    for _ in range(round(seconds / 0.05)):
        before_each()
        wire.run(0.05)
        seen.add(wire.path(wire.right))
    return seen


def test_the_newest_counts_while_data_goes_one_way(wire: Wire) -> None:
    assert paths(wire, 30, lambda: wire.right.handle_silence(wire.now)) == {DIRECT}


def test_the_newest_counts_while_both_are_idle(wire: Wire) -> None:
    wire.left.set_timing(StunTiming.IDLE, wire.now)
    wire.right.set_timing(StunTiming.GATEWAY_IDLE, wire.now)
    assert paths(wire, 300) == {DIRECT}


@pytest.mark.parametrize("loss", [2, 5, 20])
def test_the_newest_counts_where_checks_get_lost(wire: Wire, loss: int) -> None:
    dice = random.Random(loss)
    wire.lost = lambda: dice.randrange(100) < loss
    assert paths(wire, 300) == {DIRECT}


def test_an_older_one_counts_again_when_nothing_comes_over_the_newer(wire: Wire) -> None:
    """The peer gives the direct pair up after 16.5 s, and says nothing new of the relayed one."""
    wire.block(LEFT, RIGHT)
    wire.run(16.5)
    assert wire.path(wire.right) == RELAYED
    assert wire.path(wire.left) in ((LEFT_RELAY, RIGHT), (LEFT, RIGHT))
    wire.run(1)
    assert wire.path(wire.left) == (LEFT_RELAY, RIGHT)


def test_one_that_is_nominated_anew_ends_the_other_at_once(wire: Wire) -> None:
    """As our own agents do, which stop repeating what they have left."""
    (relayed,) = [p for p in wire.left._checklist if p.local.address.address.exploded == "5.5.5.5"]
    relayed._clear_nominations()
    wire.run(3)
    wire.block(LEFT, RIGHT)
    wire.run(1)
    wire.left.handle_silence(wire.now)
    wire.run(3.5)
    assert wire.path(wire.left) == (LEFT_RELAY, RIGHT)
    assert wire.path(wire.right) == RELAYED
