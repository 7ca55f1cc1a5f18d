"""The ring between a data thread and Python: what one undecided packet costs on its way."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import by_batch, by_size, main, measure
from firezone._ext.ring import Ring

REMOTE = (4, bytes([192, 0, 2, 1]), 52625)


@by_batch
@by_size
def test_push_and_pop(benchmark: BenchmarkFixture, size: int, batch_size: int) -> None:
    ring = Ring(128)
    payload = bytes(size)

    def work() -> None:
        for _ in range(batch_size):
            ring.push(1, payload, 1, 0, REMOTE, REMOTE)
        while ring.pop() is not None:
            pass

    measure(benchmark, lambda: None, work, batch_size, "ring push and pop")


if __name__ == "__main__":
    raise SystemExit(main(__file__))
