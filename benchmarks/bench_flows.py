"""One lookup in the flow table, by how full it is and whether the flow is there."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import by_batch, fill, main, measure, udp_packet
from firezone._ext import ip
from firezone._ext.batch import PacketBatch
from firezone._ext.flows import Flows

SOURCE, DESTINATION = bytes([100, 64, 0, 1]), bytes([192, 0, 2, 1])
UP, FORWARD, UDP = 0, 1, 17


def flows_of(count: int) -> Flows:
    flows = Flows(bytes(range(16)), per_group=1 << 20)
    for number in range(count):
        source = (0x0A000000 + number).to_bytes(4, "big")
        key = (UP, 0, UDP, source, DESTINATION, 1, 2)
        assert flows.install(key, FORWARD, 1, 1, 0, 0, None, 0)
    return flows


@by_batch
@pytest.mark.parametrize("installed", [0, 1000, 49000])
@pytest.mark.parametrize("found", [True, False])
def test_lookup(benchmark: BenchmarkFixture, installed: int, batch_size: int, found: bool) -> None:
    flows = flows_of(installed)
    if found:
        flows.install((UP, 0, UDP, SOURCE, DESTINATION, 40000, 53), FORWARD, 1, 2, 0, 0, None, 0)
    batch = PacketBatch(batch_size)

    def prepare() -> None:
        fill(batch, [udp_packet(64)] * batch_size)
        ip.parse(batch)

    measure(benchmark, prepare, lambda: flows.lookup(batch, UP, 1), batch_size, "lookup")


@by_batch
@pytest.mark.parametrize("installed", [1000, 49000])
def test_lookup_of_many_flows(benchmark: BenchmarkFixture, installed: int, batch_size: int) -> None:
    """Every packet of another flow, so that nothing is in the cache."""
    flows, batch, turn = flows_of(installed), PacketBatch(batch_size), iter(range(1 << 30))

    def prepare() -> None:
        batch.clear()
        for _ in range(batch_size):
            number = next(turn) * 7919 % installed
            packet = bytearray(udp_packet(64))
            packet[12:16] = (0x0A000000 + number).to_bytes(4, "big")
            packet[20:24] = b"\0\1\0\2"
            batch.append(packet)
        ip.parse(batch)

    measure(benchmark, prepare, lambda: flows.lookup(batch, UP, 1), batch_size, "lookup")


def test_install_and_remove(benchmark: BenchmarkFixture) -> None:
    flows = flows_of(1000)
    key = (UP, 0, UDP, SOURCE, DESTINATION, 40000, 53)

    def work() -> None:
        flows.install(key, FORWARD, 1, 1, 0, 0, None, 0)
        flows.remove(key)

    measure(benchmark, lambda: None, work, 1, "install")


if __name__ == "__main__":
    raise SystemExit(main(__file__))
