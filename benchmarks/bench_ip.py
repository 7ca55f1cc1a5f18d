"""Parsing and rewriting IP packets, beside the plain Python of the tests."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import by_batch, by_size, fill, main, measure, udp_packet
from firezone._ext import ip
from firezone._ext.batch import PacketBatch
from tests.reference import ip as slow


@by_batch
@by_size
@pytest.mark.parametrize("family", [4, 6])
def test_parse(benchmark: BenchmarkFixture, size: int, batch_size: int, family: int) -> None:
    batch = PacketBatch(batch_size)
    fill(batch, [udp_packet(size, family)] * batch_size)
    measure(benchmark, lambda: None, lambda: ip.parse(batch), batch_size, "parse")


@by_batch
@by_size
@pytest.mark.parametrize("family", [4, 6])
def test_rewrite(benchmark: BenchmarkFixture, size: int, batch_size: int, family: int) -> None:
    batch = PacketBatch(batch_size)
    fill(batch, [udp_packet(size, family)] * batch_size)
    address = bytes(range(4 if family == 4 else 16))
    measure(
        benchmark,
        lambda: None,
        lambda: ip.rewrite_batch(batch, address, None, 5000, None),
        batch_size,
        "rewrite",
    )


@pytest.mark.parametrize("family", [4, 6])
def test_parse_in_python(benchmark: BenchmarkFixture, family: int) -> None:
    packet = udp_packet(512, family)
    measure(benchmark, lambda: None, lambda: slow.parse(packet), 1, "parse")


if __name__ == "__main__":
    raise SystemExit(main(__file__))
