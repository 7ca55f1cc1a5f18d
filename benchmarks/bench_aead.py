"""ChaCha20-Poly1305: our batch beside one call a packet of ours, PyNaCl's and `cryptography`'s."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import count

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305 as OpenSSL
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt as pynacl_encrypt
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import BATCHES, KEY, by_batch, by_size, fill, main, measure
from firezone._ext import aead
from firezone._ext.batch import PacketBatch
from firezone.aead import ChaCha20Poly1305

Seal = Callable[[bytes, bytes], bytes]

OURS, OPENSSL = ChaCha20Poly1305(KEY), OpenSSL(KEY)
ONE_BY_ONE: dict[str, Seal] = {
    "firezone.aead": lambda nonce, data: OURS.encrypt(nonce, data, None),
    "cryptography": lambda nonce, data: OPENSSL.encrypt(nonce, data, None),
    "PyNaCl": lambda nonce, data: pynacl_encrypt(data, None, nonce, KEY),
}


@by_size
@by_batch
def test_seal_batch(benchmark: BenchmarkFixture, size: int, batch_size: int) -> None:
    batch, packets = PacketBatch(batch_size), [bytes(size)] * batch_size
    counters = array("Q", range(batch_size))
    measure(
        benchmark,
        lambda: fill(batch, packets),
        lambda: aead.seal_batch(batch, KEY, counters),
        batch_size,
        f"seal {size}",
    )


@by_size
@by_batch
def test_open_batch(benchmark: BenchmarkFixture, size: int, batch_size: int) -> None:
    batch = PacketBatch(batch_size)
    counters = array("Q", range(batch_size))
    fill(batch, [bytes(size)] * batch_size)
    aead.seal_batch(batch, KEY, counters)
    sealed = batch.packets()
    measure(
        benchmark,
        lambda: fill(batch, sealed),
        lambda: aead.open_batch(batch, KEY, counters),
        batch_size,
        f"open {size}",
    )


@by_size
@pytest.mark.parametrize("library", ONE_BY_ONE)
def test_seal_one_by_one(benchmark: BenchmarkFixture, size: int, library: str) -> None:
    seal, data, numbers = ONE_BY_ONE[library], bytes(size), count()
    nonces: list[bytes] = []

    def prepare() -> None:
        nonces[:] = [next(numbers).to_bytes(12, "little") for _ in range(BATCHES[-1])]

    def work() -> None:
        for nonce in nonces:
            seal(nonce, data)

    measure(benchmark, prepare, work, BATCHES[-1], f"seal {size}")


if __name__ == "__main__":
    raise SystemExit(main(__file__))
