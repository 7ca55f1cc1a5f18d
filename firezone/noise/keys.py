"""X25519 key pairs (RFC 7748)."""

from __future__ import annotations

from hmac import compare_digest
from typing import Self

from firezone._ext.x25519 import BASE, Scalar, multiply, multiply_one
from firezone.errors import LocalError
from firezone.model import Entropy
from firezone.noise.errors import NoiseError, Reason
from firezone.noise.primitives import KEY_SIZE

_NO_SECRET = bytes(KEY_SIZE)


class Keypair:
    """A private key, which nothing shows, and its `public` key of 32 bytes."""

    __slots__ = ("_private", "public")

    def __init__(self, private: Scalar, public: bytes | None = None) -> None:
        self._private = private
        self.public = public or multiply_one(private, BASE)

    @classmethod
    def generate(cls, entropy: Entropy) -> Self:
        return cls(Scalar.draw(entropy))

    @classmethod
    def generate_shared(
        cls, entropy: Entropy, *peer_publics: bytes
    ) -> tuple[Self, tuple[bytes, ...]]:
        """A pair and its shared secret with each of these keys, all at once. Raises NoiseError if
        one is of small order."""
        private = Scalar.draw(entropy)
        points = [BASE, *peer_publics]
        public, *secrets = multiply([private] * len(points), points)
        return cls(private, public), _checked(secrets)

    @classmethod
    def from_private(cls, private: bytes) -> Self:
        """Raises LocalError unless it has 32 bytes; X25519 clamps them itself."""
        if len(private) != KEY_SIZE:
            raise LocalError(f"a private key has {KEY_SIZE} bytes, not {len(private)}")
        return cls(Scalar(private))

    def dh(self, peer_public: bytes) -> bytes:
        """The shared secret. Raises NoiseError if the peer's key is of small order."""
        (secret,) = shared_secrets(peer_public, self)
        return secret

    def wipe(self) -> None:
        """Overwrite the private key; the pair is of no use afterwards."""
        self._private.wipe()

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


def shared_secrets(peer_public: bytes, *keypairs: Keypair) -> tuple[bytes, ...]:
    """What each of our pairs shares with one key, all at once. Raises NoiseError if that is of
    small order."""
    scalars = [keypair._private for keypair in keypairs]
    return _checked(multiply(scalars, [peer_public] * len(scalars)))


def _checked(secrets: list[bytes]) -> tuple[bytes, ...]:
    """RFC 7748, section 6.1."""
    if any(compare_digest(secret, _NO_SECRET) for secret in secrets):
        raise NoiseError(Reason.LOW_ORDER)
    return tuple(secrets)
