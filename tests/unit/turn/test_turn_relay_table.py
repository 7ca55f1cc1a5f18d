"""The relay's heap of deadlines against a plain scan, and its choice of ports."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from firezone.turn.relay_table import Deadlines, RelayTable, Timed


@dataclass(slots=True, eq=False)
class Item(Timed):
    due: int | None = None

    @property
    def deadline(self) -> int | None:
        return self.due


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 7), st.integers(0, 50)),
        st.tuples(st.just("drop"), st.integers(0, 7), st.just(0)),
        st.tuples(st.just("pop"), st.just(0), st.integers(0, 50)),
    ),
    max_size=80,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_deadlines_agree_with_a_scan(steps: list[tuple[str, int, int]]) -> None:
    items = [Item() for _ in range(8)]
    deadlines = Deadlines()
    for verb, which, time in steps:
        match verb:
            case "set":
                items[which].due = time
                deadlines.schedule(items[which])
            case "drop":
                items[which].due = None
            case _:
                popped = deadlines.pop_due(time)
                due = [i.due for i in items if i.due is not None and i.due <= time]
                assert (popped is None) == (not due)
                if isinstance(popped, Item):
                    assert popped.due == min(due)
                    popped.due = None
        assert deadlines.earliest() == min(
            (i.due for i in items if i.due is not None), default=None
        )


def test_rescheduling_does_not_grow_the_heap() -> None:
    deadlines, item = Deadlines(), Item()
    for _ in range(1000):
        item.due = 3600
        deadlines.schedule(item)
        item.due = 1
        deadlines.schedule(item)
    assert len(deadlines) < 100
    assert deadlines.earliest() == 1


def test_items_that_are_gone_do_not_pile_up() -> None:
    deadlines = Deadlines()
    for _ in range(1000):
        item = Item(due=3600)
        deadlines.schedule(item)
        item.due = None
    assert len(deadlines) < 100
    assert deadlines.earliest() is None


def test_free_port_is_drawn_at_random_and_skips_excluded_ones() -> None:
    table = RelayTable(range(50000, 50010))
    entropy = random.Random(3).randbytes
    assert {table.free_port(entropy) for _ in range(300)} == set(range(50000, 50010))
    assert table.free_port(entropy, frozenset(range(50000, 50009))) == 50009
    assert table.free_port(entropy, frozenset(range(50000, 50010))) is None


def test_first_port_of_an_all_zero_generator() -> None:
    assert RelayTable(range(49152, 65536)).free_port(bytes) == 49152
