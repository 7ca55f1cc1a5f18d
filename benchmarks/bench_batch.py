"""Packets in and out of a PacketBatch: what tests and the simulator pay, not the data threads."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import by_batch, by_size, fill, main, measure, udp_packet
from firezone._ext.batch import PacketBatch


@by_batch
@by_size
def test_append(benchmark: BenchmarkFixture, size: int, batch_size: int) -> None:
    batch = PacketBatch(batch_size)
    packets = [udp_packet(size)] * batch_size
    measure(benchmark, batch.clear, lambda: fill(batch, packets), batch_size, "batch append")


@pytest.mark.parametrize("batch_size", [64])
@by_size
def test_packets(benchmark: BenchmarkFixture, size: int, batch_size: int) -> None:
    batch = PacketBatch(batch_size)
    fill(batch, [udp_packet(size)] * batch_size)
    measure(benchmark, lambda: None, batch.packets, batch_size, "batch packets")


if __name__ == "__main__":
    raise SystemExit(main(__file__))
