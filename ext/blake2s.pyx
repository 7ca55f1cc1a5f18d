"""BLAKE2s (RFC 7693), and HKDF (RFC 5869) over HMAC (RFC 2104) over it.

A WireGuard handshake takes some two dozen HMACs of a few dozen bytes each: through hashlib the
interpreter was nearly all of their cost, and a sixth of the handshake's.
"""

from libc.stdint cimport uint8_t

from firezone._ext.atomics cimport wipe

cdef extern from "blake2s.h" nogil:
    enum:
        KDF_MOST_OUTPUTS
        KDF_MOST_DATA
    void c_blake2s "blake2s"(
        uint8_t*, size_t, const uint8_t*, size_t, const uint8_t*, size_t
    ) noexcept
    void blake2s_kdf(uint8_t (*)[32], int, const uint8_t*, const uint8_t*, size_t) noexcept


def blake2s(bytes data not None, bytes key not None=b"", size_t digest_size=32):
    """See blake2s.pyi."""
    cdef uint8_t digest[32]
    if len(key) > 32 or not 0 < digest_size <= 32:
        raise ValueError("a key has up to 32 bytes, a digest 1 to 32")
    c_blake2s(digest, digest_size, key, len(key), data, len(data))
    return <bytes>(<const char*>digest)[:digest_size]


def kdf(int count, bytes key not None, bytes data not None):
    """See blake2s.pyi."""
    cdef uint8_t outputs[KDF_MOST_OUTPUTS][32]
    cdef tuple made
    if not 1 <= count <= KDF_MOST_OUTPUTS:
        raise ValueError("there are 1 to 3 outputs")
    if len(key) != 32 or len(data) > KDF_MOST_DATA:
        raise ValueError("a key has 32 bytes, data up to 64")
    blake2s_kdf(outputs, count, key, data, len(data))
    made = tuple([<bytes>(<const char*>outputs[i])[:32] for i in range(count)])
    wipe(outputs, sizeof(outputs))
    return made
