"""Message authentication and the fingerprint of STUN (RFC 8489 sections 9.2.2, 14.5 and 14.7).

Both are computed over the bytes of a message up to the attribute itself, with the length field of
the header counting that attribute and nothing after it. They take the bytes as they were received:
a message that is decoded and encoded again may differ in padding and reserved bits.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib

from firezone.stun.attributes import ATTRIBUTE_HEADER, FINGERPRINT_SIZE, INTEGRITY_SIZE

HEADER_SIZE = 20
FINGERPRINT_XOR = 0x5354554E
"""Tells the CRC of STUN from that of a protocol that shares its port."""


def long_term_key(username: str, realm: str, password: str) -> bytes:
    """Key of the long-term credential mechanism (RFC 8489 section 9.2.2, MD5).

    SASLprep is not applied; give strings that are unchanged by it.
    """
    text = f"{username}:{realm}:{password}".encode()
    return hashlib.md5(text, usedforsecurity=False).digest()


def short_term_key(password: str) -> bytes:
    """Key of the short-term credential mechanism (RFC 8489 section 9.1.1)."""
    return password.encode()


def message_integrity(prefix: bytes, key: bytes) -> bytes:
    """HMAC-SHA1 of a message whose bytes before MESSAGE-INTEGRITY are `prefix`."""
    return hmac.digest(key, _with_length_counting(prefix, INTEGRITY_SIZE), "sha1")


def fingerprint(prefix: bytes) -> int:
    """FINGERPRINT of a message whose bytes before that attribute are `prefix`."""
    return zlib.crc32(_with_length_counting(prefix, FINGERPRINT_SIZE)) ^ FINGERPRINT_XOR


def _with_length_counting(prefix: bytes, value_size: int) -> bytes:
    length = len(prefix) - HEADER_SIZE + ATTRIBUTE_HEADER + value_size
    return prefix[:2] + length.to_bytes(2) + prefix[4:]
