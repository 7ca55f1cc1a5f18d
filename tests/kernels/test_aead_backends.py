"""Every cipher backend that this CPU can run, through the C interface that the data path uses."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305 as OpenSSL
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt as libsodium_encrypt

from firezone._ext import aead

KEYS = [bytes((31 * k + i) % 256 for i in range(32)) for k in range(64)]


class Item(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_void_p),
        ("src", ctypes.c_void_p),
        ("dst", ctypes.c_void_p),
        ("counter", ctypes.c_uint64),
        ("length", ctypes.c_uint32),
        ("ok", ctypes.c_uint32),
    )


@dataclass
class Packet:
    data: bytes
    key: bytes = KEYS[0]
    counter: int = 0
    in_place: bool = True
    misaligned: int = 0
    result: bytes = field(default=b"", init=False)
    authentic: bool = field(default=False, init=False)


def function(name: str) -> object:
    """A C function of the kernel, as its .pxd declares it for others."""
    capsule = aead.__pyx_capi__[name]  # type: ignore[attr-defined]
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)
    return prototype(get_pointer(capsule, get_name(capsule)))


def call(name: str, packets: list[Packet], change: int) -> None:
    """Seals (change = 16) or opens (-16) and notes what stands at each destination then."""
    run = function(name)
    items = (Item * len(packets))()
    keys = {packet.key: ctypes.create_string_buffer(packet.key, 32) for packet in packets}
    buffers = []
    for item, packet in zip(items, packets, strict=True):
        size = len(packet.data) + max(change, 0)
        src = ctypes.create_string_buffer(size + 64)
        ctypes.memmove(ctypes.addressof(src) + packet.misaligned, packet.data, len(packet.data))
        dst = src
        if not packet.in_place:
            dst = ctypes.create_string_buffer(b"\xaa" * (size + 64), size + 64)
        buffers.append((src, dst))
        item.key = ctypes.addressof(keys[packet.key])
        item.src = ctypes.addressof(src) + packet.misaligned
        item.dst = ctypes.addressof(dst) + packet.misaligned
        item.counter, item.length = packet.counter, len(packet.data) + min(change, 0)
    run(items, len(packets))  # type: ignore[operator]
    for item, packet in zip(items, packets, strict=True):
        packet.result = ctypes.string_at(item.dst, len(packet.data) + change)
        packet.authentic = bool(item.ok)


def seal(packets: list[Packet]) -> list[bytes]:
    call("aead_seal_batch", packets, 16)
    return [packet.result for packet in packets]


def open_(packets: list[Packet]) -> list[bytes | None]:
    call("aead_open_batch", packets, -16)
    return [packet.result if packet.authentic else None for packet in packets]


def nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")


@pytest.fixture(params=aead.backends(), autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    before = aead.backend_name().split()[0]
    aead.use_backend(request.param)
    yield request.param
    aead.use_backend(before)


# https://www.rfc-editor.org/rfc/rfc8439#appendix-A.5 without its associated data: the ciphertext.
def test_text_of_the_standards_vector() -> None:
    key = bytes.fromhex("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0")
    expected = bytes.fromhex(
        "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e"
        "382d26b0bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd"
        "60f982b1ff37c8559797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c76"
        "7b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a"
        "0d072b04b3564eea1b422273f548271a0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a67276"
        "27097a1049e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b0270"
        "9b"
    )
    counter = int.from_bytes(bytes(range(1, 9)), "little")
    plain = OpenSSL(key).decrypt(
        nonce(counter),
        expected + bytes.fromhex("eead9d67890cbb22392336fea1851f38"),
        bytes.fromhex("f33388860000000000004e91"),
    )
    [sealed] = seal([Packet(plain, key, counter)])
    assert sealed[:-16] == expected


@pytest.mark.parametrize("first", range(0, 4097, 1024))
def test_every_length(first: int) -> None:
    data = random.Random(1).randbytes(first + 1024)
    for start in range(first, first + 1024, 64):
        packets = [
            Packet(data[:size], KEYS[size % 5], size, size % 2 == 0, size % 7)
            for size in range(start, start + 64)
        ]
        sealed = seal(packets)
        for packet, result in zip(packets, sealed, strict=True):
            arguments = nonce(packet.counter), packet.data, None
            assert result == OpenSSL(packet.key).encrypt(*arguments)
            assert result == libsodium_encrypt(packet.data, None, nonce(packet.counter), packet.key)
        again = [
            Packet(result, packet.key, packet.counter, not packet.in_place)
            for packet, result in zip(packets, sealed, strict=True)
        ]
        assert open_(again) == [packet.data for packet in packets]


@pytest.mark.parametrize("seed", range(30))
def test_batches_of_mixed_sizes_and_keys(seed: int) -> None:
    rng = random.Random(seed)
    keys = KEYS[: rng.choice([1, 2, 3, 64])]
    longest = rng.choice([70, 1500, 9000])
    packets = [
        Packet(
            rng.randbytes(rng.randrange(longest)),
            rng.choice(keys),
            rng.choice([rng.getrandbits(64), 2**32 - 1, 0]),
            rng.random() < 0.5,
            rng.randrange(64),
        )
        for _ in range(rng.randrange(1, 140))
    ]
    sealed = seal(packets)
    for packet, result in zip(packets, sealed, strict=True):
        assert result == OpenSSL(packet.key).encrypt(nonce(packet.counter), packet.data, None)
    again = [Packet(r, p.key, p.counter) for p, r in zip(packets, sealed, strict=True)]
    assert open_(again) == [packet.data for packet in packets]


@pytest.mark.parametrize("size", [0, 5, 64, 700])
@pytest.mark.parametrize("in_place", [True, False])
def test_wrong_tag_at_every_position(size: int, in_place: bool) -> None:
    plain = [bytes([i]) * (size + i % 2) for i in range(33)]
    sealed = seal([Packet(data, KEYS[i % 3], i) for i, data in enumerate(plain)])
    for wrong in range(33):
        packets = [Packet(data, KEYS[i % 3], i, in_place) for i, data in enumerate(sealed)]
        damaged = bytearray(sealed[wrong])
        damaged[-1 - wrong % 16] ^= 1 << wrong % 8
        packets[wrong].data = bytes(damaged)
        expected: list[bytes | None] = list(plain)
        expected[wrong] = None
        assert open_(packets) == expected
        untouched = bytes(damaged[:-16]) if in_place else b"\xaa" * (len(damaged) - 16)
        assert packets[wrong].result == untouched


def test_nothing_to_do() -> None:
    assert seal([]) == [] and open_([]) == []


def test_a_failed_packet_longer_than_any_buffer_stays_as_it_was() -> None:
    [sealed] = seal([Packet(bytes(60000))])
    damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    packet = Packet(damaged)
    assert open_([packet]) == [None]
    assert packet.result == damaged[:-16]


def test_names(backend: str) -> None:
    shown = aead.backend_name()
    assert shown == backend or shown.startswith(f"{backend} (")
    with pytest.raises(ValueError, match=r"'sse2'; there are auto, .*libsodium"):
        aead.use_backend("sse2")
    assert aead.backend_name() == shown
    aead.use_backend("auto")
    assert aead.backend_name().split()[0] == aead.backends()[0]


def start(value: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "FIREZONE_AEAD": value},
        capture_output=True,
        text=True,
    )


def test_environment_chooses(backend: str) -> None:
    code = "from firezone._ext import aead; print(aead.backend_name())"
    assert start(backend, "-c", code).stdout.split()[0] == backend
    assert f"ChaCha20-Poly1305: {backend}" in start(backend, "-m", "firezone", "--version").stdout


def test_environment_with_a_wrong_name() -> None:
    done = start("sse2", "-m", "firezone", "--version")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "firezone: FIREZONE_AEAD: not a cipher backend of this CPU: 'sse2'"
    )
    assert done.stderr.count("\n") == 1
