"""ChaCha20-Poly1305: our backends beside libsodium, OpenSSL and Intel's libipsec-mb, in batches.

`python -m benchmarks.bench_aead` prints a table of nanoseconds a packet and of ratios. All
contenders take turns within each repeat, so that whatever else the machine does hits them alike; a
figure is the median. They work on the same items, from one buffer into another, called from C: see
bench_aead.c. Libraries use whatever instructions they like.
libipsec-mb takes part where its headers are installed (Debian: libipsec-mb-dev).

Under pytest it measures the batch calls of Python.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import report
from benchmarks.common import KEY, by_batch, by_size, fill, measure
from benchmarks.compiled import capsule, shared_library
from benchmarks.report import Samples
from firezone._ext import aead
from firezone._ext.batch import PacketBatch

SIZES = (64, 128, 256, 576, 1280, 1420)
MIXED = (64, 1420, 128, 64, 576, 1420, 96, 1280, 64, 300)
BATCHES = (1, 8, 16, 32, 64)
KEYS = 64
SLOT = 2048
WARM_UP, SAMPLE = 1_000_000, 100_000
"""Nanoseconds."""

LIBRARIES = {"libsodium": "sodium", "OpenSSL": "openssl", "ipsec-mb": "ipsec_mb"}
"""Their functions' prefixes in bench_aead.c."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The median, in nanoseconds a packet."""

    nanoseconds: float


class Item(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_void_p),
        ("src", ctypes.c_void_p),
        ("dst", ctypes.c_void_p),
        ("counter", ctypes.c_uint64),
        ("length", ctypes.c_uint32),
        ("ok", ctypes.c_uint32),
    )


class Bench:
    """The contenders, by name, and their common memory."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._measure = library.measure
        self._measure.restype = ctypes.c_double
        self._buffers = [ctypes.create_string_buffer(KEYS * SLOT + 64) for _ in range(3)]
        self._keys = ctypes.create_string_buffer(bytes(i * 7 % 256 for i in range(32 * KEYS)))
        self.contenders = [name for name in aead.backends() if name != "libsodium"]
        self.libraries = ["libsodium"]
        self._find_libsodium()
        if library.set_openssl(b"libcrypto.so.3", self._keys) == 0:
            self.libraries.append("OpenSSL")
        if library.set_ipsec_mb(b"libIPSec_MB.so.1") == 0:
            self.libraries.append("ipsec-mb")

    def _find_libsodium(self) -> None:
        from nacl._sodium import ffi, lib

        name = "crypto_aead_chacha20poly1305_ietf_"
        self._library.set_sodium(
            *(
                ctypes.c_void_p(int(ffi.cast("uintptr_t", ffi.addressof(lib, name + what))))
                for what in ("encrypt", "decrypt")
            )
        )

    def run(self, lengths: list[int], keys: int, opening: bool, repeats: int) -> dict[str, float]:
        """The median of each contender, in nanoseconds a packet."""
        samples: dict[str, list[float]] = {}
        items = self._items(lengths, keys, opening)
        for repeat in range(-1, repeats):
            for name in (*self.contenders, *self.libraries):
                value = self._measure(
                    self._function(name, opening),
                    items,
                    ctypes.c_size_t(len(lengths)),
                    ctypes.c_int64(WARM_UP),
                    ctypes.c_int64(SAMPLE),
                )
                if not all(item.ok for item in items) and opening:
                    raise RuntimeError(f"{name} does not open what libsodium has sealed")
                if repeat >= 0:
                    samples.setdefault(name, []).append(value)
        return {name: statistics.median(values) for name, values in samples.items()}

    def _items(self, lengths: list[int], keys: int, opening: bool) -> ctypes.Array[Item]:
        plain, sealed, out = (ctypes.addressof(buffer) for buffer in self._buffers)
        key = ctypes.addressof(self._keys)
        items = (Item * len(lengths))(
            *(
                Item(
                    key + 32 * (i % keys),
                    plain + i * SLOT + 16,
                    sealed + i * SLOT + 16,
                    i,
                    length,
                    0,
                )
                for i, length in enumerate(lengths)
            )
        )
        self._library.sodium_seal(items, ctypes.c_size_t(len(items)))
        if opening:
            for i, item in enumerate(items):
                item.src, item.dst = item.dst, out + i * SLOT + 16
        return items

    def _function(self, name: str, opening: bool) -> ctypes.c_void_p:
        what = "open" if opening else "seal"
        if name in self.libraries:
            function = getattr(self._library, f"{LIBRARIES[name]}_{what}")
            return ctypes.cast(function, ctypes.c_void_p)
        aead.use_backend(name)
        return exported(f"aead_{what}_batch")


def exported(name: str) -> ctypes.c_void_p:
    """A C function of the kernel, as its .pxd declares it for others."""
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return ctypes.c_void_p(get_pointer(*capsule(aead, name)))


@contextmanager
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as directory:
        library = shared_library("bench_aead.c", Path(directory))
        before = aead.backend_name()
        try:
            yield Bench(library)
        finally:
            aead.use_backend(before.split()[0])


@click.command()
@click.option("--repeats", default=15, show_default=True, help="Samples of each figure.")
@click.option("--keys", default=1, show_default=True, help="How many keys packets have in turn.")
@click.option("--size", "sizes", type=int, multiple=True, help="Only this size; 0 = mixed.")
@click.option("--batch", "batches", type=int, multiple=True, help="Only this batch.")
@click.option("--json", "output", type=Path, help="Write it there, too, for benchmarks.plots.")
def table(
    repeats: int,
    keys: int,
    sizes: tuple[int, ...],
    batches: tuple[int, ...],
    output: Path | None,
) -> None:
    """Measure and print the table."""
    results = {"aead seal": Samples(), "aead open": Samples()}
    with bench() as b:
        chosen = aead.backend_name().split()[0]
        compared = [n for n in b.contenders if n in (chosen, "avx2")]
        ratios = [(ours, theirs) for ours in compared for theirs in reversed(b.libraries)]
        columns = "".join(f"{name:>10}" for name in (*b.contenders, *b.libraries))
        versus = "".join(f"{f'{ours}/{theirs}':>18}" for ours, theirs in ratios)
        click.echo(f"nanoseconds a packet; then how many times as fast; keys: {keys}")
        click.echo(f"{'':10}{'size':>6}{'batch':>6}{columns}{versus}")
        for size in sizes or (*SIZES, 0):
            for count in batches or BATCHES:
                lengths = [size or MIXED[i % len(MIXED)] for i in range(count)]
                for opening in (False, True):
                    ns = b.run(lengths, keys, opening, repeats)
                    times = "".join(f"{ns[name]:10.0f}" for name in ns)
                    times += "".join(f"{ns[theirs] / ns[ours]:18.2f}" for ours, theirs in ratios)
                    what = "open" if opening else "seal"
                    click.echo(f"{what:10}{size or 'mixed':>6}{count:>6}{times}")
                    for name, value in ns.items():
                        case = f"{size or 'mixed'} x {count}"
                        results[f"aead {what}"].add(case, name, Cost(value))
    if output:
        report.write(output, {"rounds": repeats, "seconds": SAMPLE / 1e9, "keys": keys}, results)


# Under pytest.

by_backend = pytest.mark.parametrize("backend", aead.backends())


@pytest.fixture(autouse=True)
def _own_backend() -> Iterator[None]:
    before = aead.backend_name()
    yield
    aead.use_backend(before.split()[0])


@by_size
@by_batch
@by_backend
def test_seal_batch(benchmark: BenchmarkFixture, size: int, batch_size: int, backend: str) -> None:
    batch, packets = PacketBatch(batch_size), [bytes(size)] * batch_size
    counters = array("Q", range(batch_size))
    aead.use_backend(backend)
    work: Callable[[], object] = lambda: aead.seal_batch(batch, KEY, counters)  # noqa: E731
    measure(benchmark, lambda: fill(batch, packets), work, batch_size, f"seal {size}")


@by_size
@by_batch
@by_backend
def test_open_batch(benchmark: BenchmarkFixture, size: int, batch_size: int, backend: str) -> None:
    batch = PacketBatch(batch_size)
    counters = array("Q", range(batch_size))
    aead.use_backend(backend)
    fill(batch, [bytes(size)] * batch_size)
    aead.seal_batch(batch, KEY, counters)
    sealed = batch.packets()
    work: Callable[[], object] = lambda: aead.open_batch(batch, KEY, counters)  # noqa: E731
    measure(benchmark, lambda: fill(batch, sealed), work, batch_size, f"open {size}")


if __name__ == "__main__":
    sys.exit(table())
