"""The functions that the WireGuard paper names in section 5.4: Hash, Mac, Hmac, Kdf, Aead, Xaead.

BLAKE2s and the HKDF over it are our own kernel's, the ciphers libsodium's; here stand only the
parameters.
"""

from __future__ import annotations

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from firezone._ext import aead
from firezone._ext.blake2s import blake2s, kdf
from firezone.noise.errors import NoiseError, Reason

__all__ = ["hash_of", "kdf", "mac", "seal", "unseal", "xseal", "xunseal"]

KEY_SIZE = 32
MAC_SIZE = 16
XNONCE_SIZE = 24
_NONCE_ZERO = bytes(12)


def hash_of(*parts: bytes) -> bytes:
    """BLAKE2s-256 of the concatenation."""
    return blake2s(b"".join(parts))


def mac(key: bytes, data: bytes) -> bytes:
    """Keyed BLAKE2s, 16 bytes."""
    return blake2s(data, key, MAC_SIZE)


def seal(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """ChaCha20-Poly1305 with counter 0: every handshake key seals one message only."""
    return aead.seal(key, _NONCE_ZERO, plaintext, associated_data)


def unseal(key: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
    """The inverse of `seal`. Raises NoiseError."""
    plaintext = aead.open(key, _NONCE_ZERO, ciphertext, associated_data)
    if plaintext is None:
        raise NoiseError(Reason.BAD_TAG)
    return plaintext


def xseal(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """XChaCha20-Poly1305."""
    return crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, associated_data, nonce, key)


def xunseal(key: bytes, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
    """The inverse of `xseal`. Raises NoiseError."""
    try:
        return crypto_aead_xchacha20poly1305_ietf_decrypt(ciphertext, associated_data, nonce, key)
    except CryptoError:
        raise NoiseError(Reason.BAD_TAG) from None
