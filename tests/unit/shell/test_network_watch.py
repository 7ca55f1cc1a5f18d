"""When a host has moved, when it only got or lost an address, and when it looks."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest
from fake_loop import FakeLoop

from firezone.shell import network_watch
from firezone.shell.network_watch import NetworkWatch, Sources, has_moved

WIFI, CABLE = 2, 3
HOME, OTHER = ip_address("192.168.1.2"), ip_address("192.168.1.3")
OLD6, NEW6 = ip_address("2001:db8:1::a"), ip_address("2001:db8:1::b")
AT_HOME: Sources = {4: (WIFI, HOME)}
BOTH: Sources = {4: (WIFI, HOME), 6: (WIFI, OLD6)}


@pytest.mark.parametrize(
    ("before", "after", "gone", "moved"),
    [
        (AT_HOME, AT_HOME, set(), False),
        (AT_HOME, {4: (WIFI, OTHER)}, {HOME}, True),
        (AT_HOME, {4: (CABLE, OTHER)}, set(), True),
        (AT_HOME, BOTH, set(), False),
        (BOTH, AT_HOME, {OLD6}, False),
        (BOTH, {4: (WIFI, OTHER)}, {HOME, OLD6}, True),
        (BOTH, {4: (CABLE, OTHER)}, {OLD6}, True),
        (AT_HOME, {6: (WIFI, NEW6)}, {HOME}, True),
        (BOTH, {4: (WIFI, HOME), 6: (WIFI, NEW6)}, set(), False),
        (BOTH, {4: (WIFI, HOME), 6: (WIFI, NEW6)}, {OLD6}, True),
        ({}, AT_HOME, set(), True),
    ],
)
def test_moves(before: Sources, after: Sources, gone: set[object], moved: bool) -> None:
    owners = {address: index for each in (before, after) for index, address in each.values()}
    left = {address: index for address, index in owners.items() if address not in gone}
    assert has_moved(before, after, left) is moved


class Bench:
    """A watch of a host whose network the test decides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = FakeLoop()
        self.sources: Sources | OSError = AT_HOME
        self.moves: list[float] = []
        self.losses: list[float] = []
        self.changes: list[float] = []
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self.loop)
        monkeypatch.setattr(network_watch, "outward_sources", self._look)
        self.families: list[list[int]] = []
        self.watch = NetworkWatch(
            lambda: self.moves.append(self.loop.now),
            lambda: self.losses.append(self.loop.now),
            lambda families: self.families.append(sorted(families)),
            lambda: self.changes.append(self.loop.now),
        )
        monkeypatch.setattr(self.watch._netlink, "owners", self._owners)

    def news(self) -> None:
        self.watch._handle_news()

    def _look(self, _owners: object) -> Sources:
        if isinstance(self.sources, OSError):
            raise self.sources
        return self.sources

    def _owners(self) -> dict[object, int]:
        if isinstance(self.sources, OSError):
            return {}
        return {address: index for index, address in self.sources.values()}


@pytest.fixture
def bench(monkeypatch):
    bench = Bench(monkeypatch)
    yield bench
    bench.watch.close()


def test_it_looks_once_it_has_been_quiet(bench):
    bench.sources = {4: (WIFI, OTHER)}
    bench.news()
    bench.loop.run_until(0.05)
    bench.news()
    bench.loop.run_until(5)
    assert bench.moves == [pytest.approx(0.15)]


def test_routes_that_never_stop_changing_do_not_postpone_it(bench):
    bench.sources = {4: (WIFI, OTHER)}
    for n in range(40):
        bench.loop.run_until(n * 0.05)
        bench.news()
    assert bench.moves == [pytest.approx(1.0)]


def test_a_look_that_fails_is_repeated(bench):
    bench.sources = OSError(24, "Too many open files")
    bench.news()
    bench.loop.run_until(3)
    assert bench.moves == []
    bench.sources = {4: (WIFI, OTHER)}
    bench.loop.run_until(5)
    assert len(bench.moves) == 1


def test_a_family_that_goes_away_is_no_move(bench):
    bench.sources = BOTH
    bench.news()
    bench.loop.run_until(1)
    bench.sources = AT_HOME
    bench.news()
    bench.loop.run_until(2)
    assert (bench.moves, bench.losses) == ([], [pytest.approx(1.1)])


def test_it_tells_the_families_at_first_and_when_they_or_the_network_change(bench):
    def families_after(sources):
        bench.families.clear()
        bench.sources = sources
        bench.news()
        bench.loop.run_until(bench.loop.now + 2)
        return bench.families

    assert bench.families == [[4]]
    assert families_after(AT_HOME) == []
    assert families_after(BOTH) == [[4, 6]]
    assert families_after({6: BOTH[6]}) == [[6]]
    assert families_after({6: (CABLE, NEW6)}) == [[6]]
    assert len(bench.moves) == len(bench.losses) == 1


def test_every_change_is_told_even_of_a_host_without_a_way_to_the_internet(bench):
    bench.news()
    bench.loop.run_until(1)
    bench.sources = {}
    bench.news()
    bench.loop.run_until(2)
    bench.sources = {4: (WIFI, OTHER)}
    bench.news()
    bench.loop.run_until(3)
    assert bench.changes == [pytest.approx(when) for when in (0.1, 1.1, 2.1)]
    assert bench.moves == [pytest.approx(2.1)]


def test_what_cannot_be_seen_is_no_change(bench):
    bench.sources = OSError(24, "Too many open files")
    bench.news()
    bench.loop.run_until(3)
    assert bench.changes == []
