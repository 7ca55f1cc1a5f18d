"""X25519 (RFC 7748), several scalar multiplications at a time."""

from collections.abc import Callable
from typing import final

BASE: bytes
"""The base point: a scalar's product with it is the public key of a private one."""

@final
class Scalar:
    """A private key of 32 bytes, that nothing shows. It is wiped when it is freed, at the latest.

    Raises ValueError for another size. The bytes that it is made of stay in memory: what is to
    leave no trace is drawn.
    """

    def __init__(self, key: bytes) -> None: ...
    @staticmethod
    def draw(entropy: Callable[[int], bytes]) -> Scalar:
        """A new one. The bytes that `entropy` returns are wiped, if it has kept none of them."""

    def wipe(self) -> None:
        """Overwrite it with zeros."""

def multiply(scalars: list[Scalar] | list[bytes], points: list[bytes]) -> list[bytes]:
    """The product of each scalar and its point, all of 32 bytes; else ValueError.

    Up to four take the time of one where our own code runs. A point of small order gives zeros,
    which are no secret.
    """

def multiply_one(scalar: Scalar | bytes, point: bytes) -> bytes:
    """The same of one pair, by libsodium."""

def backend_name() -> str:
    """Which code runs: "avx512" or "libsodium". It says so if the better one failed its test."""

def backends() -> tuple[str, ...]:
    """Those that this CPU can run; the first is the one that "auto" means."""

def use_backend(name: str) -> None:
    """Change it, for tests and benchmarks. ValueError for a name that is not one of them."""
