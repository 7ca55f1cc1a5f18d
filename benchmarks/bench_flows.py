"""The flow table: look-ups and installs, by how many flows there are, up to a million."""

from __future__ import annotations

import functools
import random

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import by_batch, fill, main, measure, udp_packet
from firezone._ext import ip
from firezone._ext.batch import PacketBatch
from firezone._ext.flows import Flows

SOURCE, DESTINATION = bytes([100, 64, 0, 1]), bytes([192, 0, 2, 1])
UP, FORWARD, UDP = 0, 1, 17
MILLION = 1_000_000

by_count = pytest.mark.parametrize("installed", [1000, 49000, MILLION])


@functools.cache
def flows_of(count: int) -> Flows:
    flows = Flows(bytes(range(16)), per_group=1 << 21)
    for number in range(count):
        assert flows.install(key(number), FORWARD, 1, 1, 0, 0, None, 0)
    return flows


def key(number: int) -> tuple[int, int, int, bytes, bytes, int, int]:
    return (UP, 0, UDP, (0x0A000000 + number).to_bytes(4, "big"), DESTINATION, 1, 2)


@by_batch
@by_count
@pytest.mark.parametrize("found", [True, False])
def test_lookup(benchmark: BenchmarkFixture, installed: int, batch_size: int, found: bool) -> None:
    """Every packet of the same flow."""
    flows = flows_of(installed)
    one = (UP, 0, UDP, SOURCE, DESTINATION, 40000, 53)
    if found:
        flows.install(one, FORWARD, 1, 2, 0, 0, None, 0)
    else:
        flows.remove(one)
    batch = PacketBatch(batch_size)

    def prepare() -> None:
        fill(batch, [udp_packet(64)] * batch_size)
        ip.parse(batch)

    measure(benchmark, prepare, lambda: flows.lookup(batch, UP, 1), batch_size, "lookup")


@by_batch
@by_count
def test_lookup_of_many_flows(benchmark: BenchmarkFixture, installed: int, batch_size: int) -> None:
    """Every packet of another flow, so that nothing is in the cache."""
    flows, batch, choose = flows_of(installed), PacketBatch(batch_size), random.Random(1)

    def prepare() -> None:
        batch.clear()
        for _ in range(batch_size):
            packet = bytearray(udp_packet(64))
            packet[12:16] = (0x0A000000 + choose.randrange(installed)).to_bytes(4, "big")
            packet[20:24] = b"\0\1\0\2"
            batch.append(packet)
        ip.parse(batch)

    measure(benchmark, prepare, lambda: flows.lookup(batch, UP, 1), batch_size, "lookup of many")


@by_count
def test_install_and_remove(benchmark: BenchmarkFixture, installed: int) -> None:
    flows = flows_of(installed)
    one = (UP, 0, UDP, SOURCE, DESTINATION, 40000, 53)

    def work() -> None:
        flows.install(one, FORWARD, 1, 1, 0, 0, None, 0)
        flows.remove(one)

    measure(benchmark, lambda: None, work, 1, "install")


@by_count
def test_sweep(benchmark: BenchmarkFixture, installed: int) -> None:
    """A second passes in which a thousand flows end."""
    flows, seconds = flows_of(installed), iter(range(1, 1 << 30))
    now = 0

    def prepare() -> None:
        nonlocal now
        now = next(seconds) * 1_000_000_000
        for number in range(1000):
            mine = (UP, 0, UDP, SOURCE, DESTINATION, number, 54)
            flows.install(mine, FORWARD, 1, 3, now, 0, None, now)

    measure(benchmark, prepare, lambda: flows.sweep(now), 1000, "sweep, by ended flow")


if __name__ == "__main__":
    raise SystemExit(main(__file__))
