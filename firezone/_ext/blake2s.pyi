def blake2s(data: bytes, key: bytes = b"", digest_size: int = 32) -> bytes:
    """BLAKE2s (RFC 7693), keyed when `key` is not empty. ValueError for sizes out of range."""

def kdf(count: int, key: bytes, data: bytes) -> tuple[bytes, ...]:
    """HKDF (RFC 5869) over HMAC-BLAKE2s: 1 to 3 outputs of 32 bytes.

    `key` has 32 bytes, `data` up to 64. ValueError for other sizes.
    """
