"""X25519 as RFC 7748, section 5, has it, on Python's integers."""

from __future__ import annotations

PRIME = 2**255 - 19
A24 = 121665


def x25519(scalar: bytes, point: bytes) -> bytes:
    k = int.from_bytes(scalar, "little") & ~7 & ~(1 << 255) | 1 << 254
    u = int.from_bytes(point, "little") % 2**255 % PRIME
    x2, z2, x3, z3 = 1, 0, u, 1
    for t in range(254, -1, -1):
        if k >> t & 1:
            x3, z3, x2, z2 = _step(x3, z3, x2, z2, u)
        else:
            x2, z2, x3, z3 = _step(x2, z2, x3, z3, u)
    return (x2 * pow(z2, PRIME - 2, PRIME) % PRIME).to_bytes(32, "little")


def _step(x2: int, z2: int, x3: int, z3: int, u: int) -> tuple[int, int, int, int]:
    """The first point doubled, and the sum of both."""
    a, b = x2 + z2, x2 - z2
    aa, bb = a * a % PRIME, b * b % PRIME
    da, cb = (x3 - z3) * a % PRIME, (x3 + z3) * b % PRIME
    e = aa - bb
    return (
        aa * bb % PRIME,
        e * (aa + A24 * e) % PRIME,
        (da + cb) ** 2 % PRIME,
        u * (da - cb) ** 2 % PRIME,
    )
