"""Two agents on a hostile network end up on the best path that works."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from ice_wire import Wire, endpoint, host, make_agent, relay

from firezone.ice import CheckState, IceState
from firezone.model import Endpoint

LEFT = ["10.0.0.1:1", "[2001:db8::1]:1", "5.5.5.5:50001"]
RIGHT = ["10.0.0.2:2", "[2001:db8::2]:2", "6.6.6.6:50002"]

Path = tuple[Endpoint, Endpoint]
directed_paths = st.sets(
    st.tuples(st.sampled_from(LEFT), st.sampled_from(RIGHT), st.booleans()), max_size=18
)


@settings(max_examples=20, deadline=None)
@given(
    blocked=directed_paths,
    later=directed_paths,
    loss=st.floats(0, 0.6),
    seed=st.integers(0, 2**32),
)
def test_converges_on_the_best_path_that_works(
    blocked: set[tuple[str, str, bool]],
    later: set[tuple[str, str, bool]],
    loss: float,
    seed: int,
) -> None:
    wire = make_wire(seed)
    chance = random.Random(seed)
    wire.lost = lambda: chance.random() < loss
    block(wire, blocked)
    wire.run(5)
    wire.lost = lambda: False
    wire.run(40)
    assert_on_the_best_path(wire)

    block(wire, later)
    wire.run(50)
    assert_on_the_best_path(wire)

    wire.blocked.clear()
    wire.signal(wire.right, wire.left.local_candidates())
    wire.signal(wire.left, wire.right.local_candidates())
    wire.run(10)
    assert_on_the_best_path(wire)
    assert wire.left.nominated is not None


@settings(max_examples=15, deadline=None)
@given(delays=st.lists(st.floats(0, 8), min_size=6, max_size=6), seed=st.integers(0, 2**32))
def test_converges_in_whatever_order_candidates_trickle(delays: list[float], seed: int) -> None:
    wire = Wire(make_agent(True, seed), make_agent(False, seed))
    pending = sorted(zip(delays, range(6), strict=True))
    for delay, index in pending:
        wire.run(max(0, delay - wire.now / 1e9))
        side, text = (wire.left, LEFT[index]) if index < 3 else (wire.right, RIGHT[index - 3])
        wire.add(side, relay(text) if index % 3 == 2 else host(text))
    wire.run(20)
    assert_on_the_best_path(wire)
    assert wire.path(wire.left) == (LEFT[1], RIGHT[1])


def make_wire(seed: int) -> Wire:
    wire = Wire(make_agent(True, seed), make_agent(False, seed))
    wire.add(wire.left, host(LEFT[0]), host(LEFT[1]), relay(LEFT[2], LEFT[0]))
    wire.add(wire.right, host(RIGHT[0]), host(RIGHT[1]), relay(RIGHT[2], RIGHT[0]))
    return wire


def block(wire: Wire, paths: set[tuple[str, str, bool]]) -> None:
    """Block one direction of each path: to the right, or to the left."""
    for left, right, rightwards in paths:
        path = (endpoint(left), endpoint(right))
        wire.blocked.add(path if rightwards else path[::-1])


def assert_on_the_best_path(wire: Wire) -> None:
    """Of the paths that pass both ways and that neither agent had given up."""
    working = {
        (pair.priority, pair.local.base, pair.remote.address)
        for pair in wire.left.pairs()
        if pair.state is not CheckState.FAILED
        and passes(wire, pair.local.base, pair.remote.address)
    }
    if not working:
        assert wire.left.nominated is wire.right.nominated is None
        assert wire.left.state is wire.right.state is IceState.DISCONNECTED
        return
    _, base, address = max(working, key=lambda entry: entry[0])
    assert wire.path(wire.left) == (str(base), str(address))
    assert wire.path(wire.right) == (str(address), str(base))


def passes(wire: Wire, left: Endpoint, right: Endpoint) -> bool:
    return not wire.blocked & {(left, right), (right, left)}
