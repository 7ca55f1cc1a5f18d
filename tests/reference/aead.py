"""ChaCha20-Poly1305 in plain Python, as RFC 8439 writes it down; slow, and not constant-time."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from firezone._ext.batch import Verdict

MASK = 0xFFFFFFFF
PRIME = (1 << 130) - 5
CLAMP = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
CONSTANT = struct.unpack("<4I", b"expand 32-byte k")
COLUMNS = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
DIAGONALS = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
TAG = 16


def seal(key: bytes, nonce: bytes, data: bytes, associated_data: bytes = b"") -> bytes:
    """RFC 8439 section 2.8: ciphertext and tag."""
    sealed = chacha20(key, 1, nonce, data)
    return sealed + tag(one_time_key(key, nonce), sealed, associated_data)


def open(key: bytes, nonce: bytes, data: bytes, associated_data: bytes = b"") -> bytes | None:
    """The plaintext, None if the tag is not right."""
    if len(data) < TAG:
        return None
    sealed, expected = data[:-TAG], tag(one_time_key(key, nonce), data[:-TAG], associated_data)
    return chacha20(key, 1, nonce, sealed) if data[-TAG:] == expected else None


def seal_slot(key: bytes, counter: int, packet: bytes, grown: int) -> tuple[Verdict, bytes]:
    """What `seal_batch` does to a slot where a packet of `grown` bytes is the longest."""
    if len(packet) + TAG > grown:
        return Verdict.TOO_LONG, packet
    return Verdict.PASS, seal(key, wireguard_nonce(counter), packet)


def open_slot(key: bytes, counter: int, packet: bytes) -> tuple[Verdict, bytes | None]:
    """What `open_batch` does to a slot; None: no promise is made about its bytes."""
    opened = open(key, wireguard_nonce(counter), packet)
    return (Verdict.BAD_TAG if opened is None else Verdict.PASS), opened


def wireguard_nonce(counter: int) -> bytes:
    return struct.pack("<4xQ", counter)


def one_time_key(key: bytes, nonce: bytes) -> bytes:
    """Section 2.6."""
    return block(key, 0, nonce)[:32]


def tag(key: bytes, sealed: bytes, associated_data: bytes = b"") -> bytes:
    sizes = struct.pack("<QQ", len(associated_data), len(sealed))
    return poly1305(key, padded(associated_data) + padded(sealed) + sizes)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def poly1305(key: bytes, message: bytes) -> bytes:
    """Section 2.5."""
    r = int.from_bytes(key[:16], "little") & CLAMP
    s = int.from_bytes(key[16:], "little")
    total = 0
    for part in pieces(message, 16):
        total = (total + int.from_bytes(part + b"\1", "little")) * r % PRIME
    return ((total + s) % (1 << 128)).to_bytes(16, "little")


def chacha20(key: bytes, counter: int, nonce: bytes, data: bytes) -> bytes:
    """Section 2.4."""
    out = bytearray()
    for i, part in enumerate(pieces(data, 64)):
        out += bytes(a ^ b for a, b in zip(part, block(key, counter + i, nonce), strict=False))
    return bytes(out)


def block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """Section 2.3: 64 bytes of the key stream."""
    initial = [*CONSTANT, *struct.unpack("<8I", key), counter & MASK, *struct.unpack("<3I", nonce)]
    state = list(initial)
    for _ in range(10):
        for places in COLUMNS + DIAGONALS:
            quarter_round(state, *places)
    return struct.pack("<16I", *((x + y) & MASK for x, y in zip(state, initial, strict=True)))


def quarter_round(state: list[int], a: int, b: int, c: int, d: int) -> None:
    """Section 2.1."""
    for into, added, mixed, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[into] = (state[into] + state[added]) & MASK
        value = state[mixed] ^ state[into]
        state[mixed] = (value << bits | value >> 32 - bits) & MASK


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))
