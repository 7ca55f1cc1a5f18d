"""ChaCha20-Poly1305 (RFC 8439) for anybody: one message at a time, or a batch of packets in place.

The class takes the place of `cryptography`'s of the same name: the same methods, arguments and
errors, but for `InvalidTag`, which is ours. The batch methods number the packets and need neither
WireGuard nor its sessions.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from nacl.utils import random

from firezone._ext import aead
from firezone._ext.batch import PacketBatch
from firezone.errors import FirezoneError

KEY_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16

_BytesLike = bytes | bytearray | memoryview


class InvalidTag(FirezoneError):
    """The message is not what the holder of the key sealed under this nonce."""


class ChaCha20Poly1305:
    """Seals and opens under one key of 32 bytes."""

    __slots__ = ("_key",)

    def __init__(self, key: _BytesLike) -> None:
        """TypeError unless the key is bytes-like, ValueError unless it has 32 bytes."""
        _check_bytes("key", key)
        if len(key) != KEY_SIZE:
            raise ValueError("ChaCha20Poly1305 key must be 32 bytes.")
        self._key = bytes(key)

    @classmethod
    def generate_key(cls) -> bytes:
        """A fresh key from the operating system's randomness."""
        return random(KEY_SIZE)

    def encrypt(
        self, nonce: _BytesLike, data: _BytesLike, associated_data: _BytesLike | None
    ) -> bytes:
        """Ciphertext and tag. Never use a nonce (12 bytes) twice under a key."""
        nonce, associated_data = _check(nonce, data, associated_data)
        return aead.seal(self._key, nonce, data, associated_data)

    def decrypt(
        self, nonce: _BytesLike, data: _BytesLike, associated_data: _BytesLike | None
    ) -> bytes:
        """The plaintext. Raises InvalidTag if it or the associated data is not authentic."""
        nonce, associated_data = _check(nonce, data, associated_data)
        plaintext = aead.open(self._key, nonce, data, associated_data)
        if plaintext is None:
            raise InvalidTag
        return plaintext

    def seal_batch(self, batch: PacketBatch, counter: int) -> int:
        """Seal every PASS slot in place and return the counter that is free next.

        Slot i gets the nonce of four zero bytes and `counter + i` in little endian (64 bits), no
        associated data, and a tag of 16 bytes behind it. A slot without that room becomes TOO_LONG.
        """
        following = counter + len(batch)
        aead.seal_batch(batch, self._key, _counters(range(counter, following)))
        return following

    def open_batch(self, batch: PacketBatch, counters: int | Sequence[int]) -> int:
        """Open every PASS slot in place and return how many are authentic; the rest is BAD_TAG.

        `counters`: that of the first slot if they are consecutive, else one for each slot.
        """
        if isinstance(counters, int):
            counters = range(counters, counters + len(batch))
        aead.open_batch(batch, self._key, _counters(counters))
        return sum(batch.verdict(slot) == 0 for slot in range(len(batch)))

    def __repr__(self) -> str:
        return "<ChaCha20Poly1305>"

    def __reduce__(self) -> str:
        raise TypeError("a key is not to be pickled")


def _counters(numbers: Sequence[int]) -> array[int]:
    try:
        return array("Q", numbers)
    except OverflowError:
        raise ValueError("a counter has 64 bits") from None


def _check(
    nonce: _BytesLike, data: _BytesLike, associated_data: _BytesLike | None
) -> tuple[bytes, _BytesLike]:
    if associated_data is None:
        associated_data = b""
    _check_bytes("nonce", nonce)
    _check_bytes("data", data)
    _check_bytes("associated_data", associated_data)
    if len(nonce) != NONCE_SIZE:
        raise ValueError("Nonce must be 12 bytes")
    return bytes(nonce), associated_data


def _check_bytes(name: str, value: object) -> None:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{name} must be bytes-like")
