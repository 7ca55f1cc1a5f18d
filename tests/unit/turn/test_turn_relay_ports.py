"""The free ports of a relay, against a plain set of them."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from firezone.turn.relay_ports import Ports, _Pool

KINDS = [(False, False), (True, False), (True, True)]


def eligible(free: set[int], even: bool, with_next: bool) -> set[int]:
    return {
        port
        for port in free
        if not (even and port % 2) and not (with_next and port + 1 not in free)
    }


@given(
    start=st.integers(1, 9),
    count=st.integers(1, 12),
    seed=st.integers(0, 2**32),
    excluded=st.frozensets(st.integers(1, 20), max_size=4),
)
def test_as_a_set_would(start: int, count: int, seed: int, excluded: frozenset[int]) -> None:
    chance = random.Random(seed)
    free = set(range(start, start + count))
    taken: set[int] = set()
    ports = Ports(range(start, start + count))
    for _ in range(60):
        for even, with_next in KINDS:
            drawn = ports.draw(chance.randbytes, excluded, even=even, with_next=with_next)
            possible = eligible(free, even, with_next) - excluded
            assert drawn in possible if possible else drawn is None
        if free and chance.random() < 0.5:
            port = chance.choice(sorted(free))
            ports.take(port)
            free.remove(port)
            taken.add(port)
        elif taken:
            port = chance.choice(sorted(taken))
            ports.give(port)
            taken.remove(port)
            free.add(port)


def test_every_free_port_is_as_likely() -> None:
    """With a scan from a random start, one behind many used ports would be drawn most often."""
    ports = Ports(range(100, 200))
    for port in range(100, 190):
        ports.take(port)
    chance = random.Random(1)
    drawn = [
        ports.draw(chance.randbytes, frozenset(), even=False, with_next=False) for _ in range(2000)
    ]
    assert set(drawn) == set(range(190, 200))
    assert all(120 < drawn.count(port) < 280 for port in range(190, 200))


def test_a_full_range_is_known_to_be_full_without_looking(monkeypatch) -> None:
    ports = Ports(range(49152, 65536))
    for port in range(49152, 65536):
        ports.take(port)
    looks = []
    look = _Pool._at
    monkeypatch.setattr(_Pool, "_at", lambda pool, place: looks.append(place) or look(pool, place))
    for even, with_next in KINDS:
        assert ports.draw(bytes, frozenset(), even=even, with_next=with_next) is None
    assert not looks
    ports.give(60000)
    assert ports.draw(bytes, frozenset(), even=True, with_next=False) == 60000
    assert ports.draw(bytes, frozenset(), even=True, with_next=True) is None
    assert ports.draw(bytes, frozenset({60000}), even=True, with_next=False) is None
    assert len(looks) < 10
