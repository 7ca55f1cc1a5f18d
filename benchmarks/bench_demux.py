"""Telling datagrams apart: transport data bare and relayed, and a handshake with its mac1."""

from __future__ import annotations

import hashlib

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import KEY, by_batch, main, measure
from firezone._ext.batch import PacketBatch
from firezone._ext.demux import Channels, Demux
from tests.reference import demux as slow

RELAY = (4, bytes([192, 0, 2, 1]), 3478)
CHANNEL = 0x4001
DATA = b"\4\0\0\0" + bytes(508)
RELAYED = CHANNEL.to_bytes(2, "big") + len(DATA).to_bytes(2, "big") + DATA
INITIATION = b"\1\0\0\0" + bytes(112)
INITIATION += slow.mac1(KEY, INITIATION) + bytes(16)
FORGED = INITIATION[:116] + bytes(32)
DATAGRAMS = {"data": DATA, "relayed": RELAYED, "initiation": INITIATION, "forged": FORGED}


@by_batch
@pytest.mark.parametrize("kind", DATAGRAMS)
def test_classify(benchmark: BenchmarkFixture, kind: str, batch_size: int) -> None:
    channels = Channels(bytes(8))
    channels.open(RELAY, CHANNEL)
    demux = Demux(KEY, channels)
    batch = PacketBatch(batch_size)

    def prepare() -> None:
        batch.clear()
        for _ in range(batch_size):
            batch.set_remote(batch.append(DATAGRAMS[kind]), *RELAY)

    measure(benchmark, prepare, lambda: demux.classify(batch, 0), batch_size, "classify")


@pytest.mark.parametrize("kind", DATAGRAMS)
def test_classify_in_python(benchmark: BenchmarkFixture, kind: str) -> None:
    datagram = DATAGRAMS[kind]
    measure(
        benchmark,
        lambda: None,
        lambda: slow.classify(datagram, KEY, lambda number: number == CHANNEL),
        1,
        "classify",
    )


def test_mac1_by_hashlib(benchmark: BenchmarkFixture) -> None:
    message = INITIATION[:116]
    work = hashlib.blake2s
    measure(benchmark, lambda: None, lambda: work(message, key=KEY, digest_size=16), 1, "classify")


if __name__ == "__main__":
    raise SystemExit(main(__file__))
