"""The functions that the WireGuard paper names in section 5.4: Hash, Mac, Hmac, Kdf, Aead, Xaead.

Each is a library's; here stand only the parameters.
"""

from __future__ import annotations

from hashlib import blake2s

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from firezone.noise.errors import NoiseError, Reason

KEY_SIZE = 32
HASH_SIZE = 32
MAC_SIZE = 16
TAG_SIZE = 16
XNONCE_SIZE = 24
_NONCE_ZERO = bytes(12)
_BLOCK_SIZE = blake2s().block_size
_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))


def hash_of(*parts: bytes) -> bytes:
    """BLAKE2s-256 of the concatenation."""
    return blake2s(b"".join(parts)).digest()


def mac(key: bytes, data: bytes) -> bytes:
    """Keyed BLAKE2s, 16 bytes."""
    return blake2s(data, key=key, digest_size=MAC_SIZE).digest()


def kdf(count: int, key: bytes, data: bytes) -> tuple[bytes, ...]:
    """HKDF (RFC 5869) over HMAC-BLAKE2s: `count` outputs of 32 bytes."""
    secret = _hmac(key, data)
    outputs: list[bytes] = []
    previous = b""
    for number in range(1, count + 1):
        previous = _hmac(secret, previous + bytes([number]))
        outputs.append(previous)
    return tuple(outputs)


def seal(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """ChaCha20-Poly1305 with counter 0: every handshake key seals one message only."""
    return crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, associated_data, _NONCE_ZERO, key)


def unseal(key: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
    """The inverse of `seal`. Raises NoiseError."""
    try:
        return crypto_aead_chacha20poly1305_ietf_decrypt(
            ciphertext, associated_data, _NONCE_ZERO, key
        )
    except CryptoError:
        raise NoiseError(Reason.BAD_TAG) from None


def xseal(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """XChaCha20-Poly1305."""
    return crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, associated_data, nonce, key)


def xunseal(key: bytes, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
    """The inverse of `xseal`. Raises NoiseError."""
    try:
        return crypto_aead_xchacha20poly1305_ietf_decrypt(ciphertext, associated_data, nonce, key)
    except CryptoError:
        raise NoiseError(Reason.BAD_TAG) from None


def _hmac(key: bytes, data: bytes) -> bytes:
    """HMAC (RFC 2104) of a key that fits a block. `hmac.new` takes twice as long to set up, and
    that was a fifth of a handshake."""
    block = key.ljust(_BLOCK_SIZE, b"\0")
    inner = blake2s(block.translate(_INNER_PAD) + data).digest()
    return blake2s(block.translate(_OUTER_PAD) + inner).digest()
