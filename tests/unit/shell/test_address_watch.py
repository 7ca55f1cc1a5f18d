"""When the addresses of this host are looked at again."""

from __future__ import annotations

import asyncio

import pytest
from fake_loop import FakeLoop

from firezone.shell.address_watch import AddressWatch


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = FakeLoop()
        self.looks: list[float] = []
        self.works = True
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self.loop)
        self.watch = AddressWatch(self._look)

    def news(self, at: float) -> None:
        self.loop.run_until(at)
        self.watch._handle_news()

    def _look(self) -> bool:
        self.looks.append(self.loop.now)
        return self.works


@pytest.fixture
def bench(monkeypatch):
    bench = Bench(monkeypatch)
    yield bench
    bench.watch.close()


def test_it_looks_at_once(bench):
    bench.news(0)
    assert bench.looks == [0]
    bench.news(5)
    assert bench.looks == [0, 5]
    bench.loop.run_until(100)
    assert bench.looks == [0, 5]


def test_many_changes_in_a_row_are_looked_at_together(bench):
    for n in range(100):
        bench.news(n / 100)
    bench.loop.run_until(2)
    assert len(bench.looks) == 11
    assert bench.looks[-1] == pytest.approx(1.0)


def test_a_look_that_fails_is_repeated(bench):
    bench.works = False
    bench.news(1)
    bench.loop.run_until(2.5)
    assert bench.looks == [1, 2]
    bench.works = True
    bench.loop.run_until(9)
    assert bench.looks == [1, 2, 3]


def test_nothing_happens_after_the_end(bench):
    bench.works = False
    bench.news(1)
    bench.watch.close()
    bench.loop.run_until(9)
    assert bench.looks == [1]
