"""HKDF (RFC 5869) by the standard library."""

import hashlib
import hmac


def kdf(count: int, key: bytes, data: bytes) -> tuple[bytes, ...]:
    secret = hmac.digest(key, data, hashlib.blake2s)
    outputs: list[bytes] = []
    for number in range(1, count + 1):
        outputs.append(
            hmac.digest(secret, b"".join(outputs[-1:]) + bytes([number]), hashlib.blake2s)
        )
    return tuple(outputs)
