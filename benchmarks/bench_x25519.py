"""X25519: one product, and as many as a step of a handshake wants, by each backend.

On its own: `python -m benchmarks.bench_x25519`.
"""

from __future__ import annotations

import os

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import main, measure
from firezone._ext import x25519


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("backend", x25519.backends())
def test_multiply(benchmark: BenchmarkFixture, backend: str, count: int) -> None:
    scalars = [os.urandom(32) for _ in range(count)]
    points = [x25519.multiply_one(os.urandom(32), x25519.BASE) for _ in range(count)]
    x25519.use_backend(backend)
    try:
        measure(
            benchmark,
            lambda: None,
            lambda: x25519.multiply(scalars, points),
            count,
            "X25519 product",
        )
    finally:
        x25519.use_backend("auto")


if __name__ == "__main__":
    raise SystemExit(main(__file__))
