"""Where a packet goes: look up the peer's path, fill the addresses, prepend the channel header."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import by_batch, fill, main, measure, udp_packet
from firezone._ext.batch import PacketBatch
from firezone._ext.paths import Paths

REMOTE = (4, bytes([192, 0, 2, 1]), 52625)
LOCAL = (4, bytes([192, 0, 2, 2]), 52625)


@by_batch
@pytest.mark.parametrize("channel", [None, 0x4000], ids=["direct", "relayed"])
def test_check_and_prepend(
    benchmark: BenchmarkFixture, channel: int | None, batch_size: int
) -> None:
    paths = Paths(slots=16)
    paths.set(1, REMOTE, None if channel else LOCAL, channel)
    batch = PacketBatch(batch_size)
    packets = [udp_packet(512)] * batch_size

    def work() -> None:
        paths.check(batch)
        paths.prepend(batch)

    measure(benchmark, lambda: fill(batch, packets, peer=1), work, batch_size, "paths")


if __name__ == "__main__":
    raise SystemExit(main(__file__))
