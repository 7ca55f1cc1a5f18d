"""What the benchmarks share: sizes, batches, packets as raw bytes, and the measuring itself.

Every file runs by hand (`python -m benchmarks.bench_aead`) and under pytest, which can also write
JSON (`--benchmark-json=FILE`; nanoseconds a packet are in its `extra_info`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from firezone._ext.batch import PacketBatch

SIZES = (64, 512, 1400)
BATCHES = (1, 16, 64)
KEY = bytes(range(32))

by_size = pytest.mark.parametrize("size", SIZES)
by_batch = pytest.mark.parametrize("batch_size", BATCHES)


def measure(
    benchmark: BenchmarkFixture,
    prepare: Callable[[], object],
    work: Callable[[], object],
    packets: int,
    group: str,
) -> None:
    """Time `work`, each time after an untimed `prepare`, and note the median per packet."""
    benchmark.group = group
    rounds = 4000 if packets == 1 else 1000
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        work, setup=prepare, rounds=rounds, warmup_rounds=50
    )
    assert benchmark.stats is not None
    median = benchmark.stats.stats.median
    benchmark.extra_info["ns_per_packet"] = round(median * 1e9 / packets, 1)


def fill(batch: PacketBatch, packets: list[bytes], peer: int = 0) -> None:
    batch.clear()
    for packet in packets:
        batch.append(packet, peer)


def udp_packet(size: int, family: int = 4) -> bytes:
    """An IP packet of that size with a UDP checksum of no meaning."""
    header = 20 if family == 4 else 40
    udp = struct.pack(">HHHH", 40000, 53, size - header, 0xABCD) + bytes(size - header - 8)
    if family == 4:
        fixed = struct.pack(">BBHHHBBH", 0x45, 0, size, 1, 0, 64, 17, 0x1234)
        return fixed + bytes([100, 64, 0, 1, 192, 0, 2, 1]) + udp
    fixed = struct.pack(">IHBB", 6 << 28, size - header, 17, 64)
    return fixed + bytes(range(32)) + udp


def main(path: str) -> int:
    return pytest.main([path, "-q", "-p", "no:cacheprovider", "--benchmark-disable-gc"])
