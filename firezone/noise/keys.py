"""X25519 key pairs (RFC 7748)."""

from __future__ import annotations

from typing import Self

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from firezone.errors import LocalError
from firezone.model import Entropy
from firezone.noise.errors import NoiseError, Reason
from firezone.noise.primitives import KEY_SIZE


class Keypair:
    """A private key, which nothing shows, and its `public` key of 32 bytes."""

    __slots__ = ("_private", "public")

    def __init__(self, private: bytes) -> None:
        if len(private) != KEY_SIZE:
            raise LocalError(f"a private key has {KEY_SIZE} bytes, not {len(private)}")
        self._private = bytearray(private)
        self.public: bytes = crypto_scalarmult_base(bytes(private))

    @classmethod
    def generate(cls, entropy: Entropy) -> Self:
        return cls(entropy(KEY_SIZE))

    @classmethod
    def from_private(cls, private: bytes) -> Self:
        """Raises LocalError unless it has 32 bytes; X25519 clamps them itself."""
        return cls(private)

    def dh(self, peer_public: bytes) -> bytes:
        """The shared secret. Raises NoiseError if the peer's key is of small order."""
        try:
            return crypto_scalarmult(bytes(self._private), peer_public)
        except CryptoError:
            raise NoiseError(Reason.LOW_ORDER) from None

    def wipe(self) -> None:
        """Overwrite the private key; the pair is of no use afterwards."""
        self._private[:] = bytes(KEY_SIZE)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(public={self.public.hex()})"

    def __reduce__(self) -> str:
        raise TypeError(f"a {type(self).__name__} cannot be pickled")


class StaticKeypair(Keypair):
    """The long-lived key pair that is a node's identity."""

    __slots__ = ()


class EphemeralKeypair(Keypair):
    """The key pair of one handshake."""

    __slots__ = ()
