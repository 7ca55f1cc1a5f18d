"""Keys of message authentication in STUN (RFC 8489 section 9).

MESSAGE-INTEGRITY, which they are for, and FINGERPRINT take the bytes of a message as they were
received: one that is decoded and encoded again may differ in padding and reserved bits.
"""

from __future__ import annotations

import hashlib


def long_term_key(username: str, realm: str, password: str) -> bytes:
    """Key of the long-term credential mechanism (RFC 8489 section 9.2.2, MD5).

    SASLprep is not applied; give strings that are unchanged by it.
    """
    text = f"{username}:{realm}:{password}".encode()
    return hashlib.md5(text, usedforsecurity=False).digest()


def short_term_key(password: str) -> bytes:
    """Key of the short-term credential mechanism (RFC 8489 section 9.1.1)."""
    return password.encode()
