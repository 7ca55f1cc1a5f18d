"""Sealing and opening whole transport data messages: AEAD, nonce, replay window, look-up."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import KEY, by_batch, by_size, fill, main, measure
from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.session import Sessions

FOREVER = 1 << 62


def table() -> Sessions:
    sessions = Sessions()
    sessions.add_peer(1, 0x123456)
    index = 0x12345601
    sessions.install_keypair(1, index, index, KEY, KEY, True, 1, FOREVER, FOREVER)
    return sessions


@by_size
@by_batch
def test_seal(benchmark: BenchmarkFixture, size: int, batch_size: int) -> None:
    sessions, batch, packets = table(), PacketBatch(batch_size), [bytes(size)] * batch_size
    measure(
        benchmark,
        lambda: fill(batch, packets, peer=1),
        lambda: sessions.seal(batch, 1),
        batch_size,
        f"seal {size}",
    )
    assert batch.verdict(0) == Verdict.PASS


@by_size
@by_batch
def test_open(benchmark: BenchmarkFixture, size: int, batch_size: int) -> None:
    sessions, batch = table(), PacketBatch(batch_size)
    messages = sealed(table(), size, batch_size)
    measure(
        benchmark,
        lambda: fill(batch, next(messages)),
        lambda: sessions.open(batch, 1),
        batch_size,
        f"open {size}",
    )
    assert batch.verdict(0) == Verdict.PASS


def sealed(sessions: Sessions, size: int, batch_size: int) -> Iterator[list[bytes]]:
    """Batches of fresh messages."""
    batch = PacketBatch(batch_size)
    while True:
        fill(batch, [bytes(size)] * batch_size, peer=1)
        sessions.seal(batch, 1)
        yield batch.packets()


if __name__ == "__main__":
    raise SystemExit(main(__file__))
