"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s as WireGuard uses it (WireGuard paper, section 5.4).

    initiation:  e, es, s, ss, {timestamp}
    response:    e, ee, se, psk, {}

Both sides run the same chain of hashes, so a bit changed on the way, another static key or another
pre-shared key ends in a tag that does not verify. Every step works on a copy of the state: a forged
message leaves a handshake as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hmac import compare_digest

from firezone.durations import SECOND
from firezone.model import Entropy
from firezone.noise.errors import NoiseError, Reason
from firezone.noise.keys import EphemeralKeypair, StaticKeypair, shared_secrets
from firezone.noise.messages import HandshakeInitiation, HandshakeResponse, decode
from firezone.noise.primitives import KEY_SIZE, hash_of, kdf, seal, unseal

NO_PRESHARED_KEY = bytes(KEY_SIZE)
_CHAINING_KEY = hash_of(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
_HASH = hash_of(_CHAINING_KEY, b"WireGuard v1 zx2c4 Jason@zx2c4.com")
_TAI64_EPOCH = (1 << 62) + 37
"""TAI64's label of the Unix epoch: 2^62, and the 37 leap seconds that TAI is ahead."""


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """What a handshake is for. `sending` is ours to seal with."""

    sending: bytes = field(repr=False)
    receiving: bytes = field(repr=False)


class SymmetricState:
    """Chaining key, transcript hash and the key of the next encryption (Noise, section 5.2)."""

    __slots__ = ("_chaining_key", "_hash", "_key")

    def __init__(self, responder_public_key: bytes) -> None:
        self._chaining_key = _CHAINING_KEY
        self._hash = hash_of(_HASH, responder_public_key)
        self._key = b""

    def copy(self) -> SymmetricState:
        twin = SymmetricState.__new__(SymmetricState)
        twin._chaining_key, twin._hash, twin._key = self._chaining_key, self._hash, self._key
        return twin

    def mix_hash(self, data: bytes) -> None:
        self._hash = hash_of(self._hash, data)

    def mix_ephemeral(self, public_key: bytes) -> None:
        """The "e" token: with a pre-shared key, it enters the chaining key too."""
        self.mix_hash(public_key)
        (self._chaining_key,) = kdf(1, self._chaining_key, public_key)

    def mix_key(self, secret: bytes) -> None:
        self._chaining_key, self._key = kdf(2, self._chaining_key, secret)

    def mix_preshared_key(self, preshared_key: bytes) -> None:
        self._chaining_key, tau, self._key = kdf(3, self._chaining_key, preshared_key)
        self.mix_hash(tau)

    def seal(self, plaintext: bytes) -> bytes:
        ciphertext = seal(self._key, plaintext, self._hash)
        self.mix_hash(ciphertext)
        return ciphertext

    def unseal(self, ciphertext: bytes) -> bytes:
        """Raises NoiseError."""
        plaintext = unseal(self._key, ciphertext, self._hash)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """The keys of the initiator's and of the responder's transport data."""
        initiator, responder = kdf(2, self._chaining_key, b"")
        return initiator, responder


@dataclass(frozen=True, slots=True)
class SentInitiation:
    """An initiation of ours that waits for its response."""

    local_index: int
    ephemeral: EphemeralKeypair = field(repr=False)
    state: SymmetricState = field(repr=False)

    def wipe(self) -> None:
        self.ephemeral.wipe()


@dataclass(frozen=True, slots=True)
class OpenedInitiation:
    """An initiation for us, as far as to whom it says it is from. `initiator` is that static key;
    only the tunnel of that peer can prove it, for this much can be replayed."""

    initiator: bytes
    message: HandshakeInitiation
    state: SymmetricState = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReceivedInitiation:
    """An initiation that was decrypted; its `timestamp` is still to be judged."""

    remote_index: int
    ephemeral: bytes
    timestamp: bytes
    state: SymmetricState = field(repr=False)


def create_initiation(
    static: StaticKeypair,
    peer_public_key: bytes,
    static_secret: bytes,
    local_index: int,
    timestamp: bytes,
    entropy: Entropy,
) -> tuple[SentInitiation, HandshakeInitiation]:
    """The first message, and what to keep for its response.

    `static_secret` is the static keys' shared secret, the same for every handshake of the two.
    """
    ephemeral, (es,) = EphemeralKeypair.generate_shared(entropy, peer_public_key)
    state = SymmetricState(peer_public_key)
    state.mix_ephemeral(ephemeral.public)
    state.mix_key(es)
    encrypted_static = state.seal(static.public)
    state.mix_key(static_secret)
    encrypted_timestamp = state.seal(timestamp)
    sent = SentInitiation(local_index, ephemeral, state)
    return sent, HandshakeInitiation(
        local_index, ephemeral.public, encrypted_static, encrypted_timestamp
    )


def open_initiation(static: StaticKeypair, message: bytes) -> OpenedInitiation | None:
    """Decrypt who an initiation is from, to find the tunnel. None if it is none for us."""
    try:
        initiation = decode(message)
        if isinstance(initiation, HandshakeInitiation):
            return open_decoded(static, initiation)
    except NoiseError:
        pass
    return None


def open_decoded(static: StaticKeypair, message: HandshakeInitiation) -> OpenedInitiation:
    """The same of a message that was decoded before. Raises NoiseError."""
    state = SymmetricState(static.public)
    state.mix_ephemeral(message.ephemeral)
    state.mix_key(static.dh(message.ephemeral))
    initiator = state.unseal(message.encrypted_static)
    return OpenedInitiation(initiator, message, state)


def consume_initiation(
    opened: OpenedInitiation, peer_public_key: bytes, static_secret: bytes
) -> ReceivedInitiation:
    """Decrypt the rest of an initiation of this peer. Raises NoiseError."""
    if not compare_digest(opened.initiator, peer_public_key):
        raise NoiseError(Reason.WRONG_KEY)
    state, message = opened.state.copy(), opened.message
    state.mix_key(static_secret)
    timestamp = state.unseal(message.encrypted_timestamp)
    return ReceivedInitiation(message.sender_index, message.ephemeral, timestamp, state)


def create_response(
    received: ReceivedInitiation,
    peer_public_key: bytes,
    preshared_key: bytes,
    local_index: int,
    entropy: Entropy,
) -> tuple[HandshakeResponse, SessionKeys]:
    """The second message, and the responder's keys. Raises NoiseError for a low-order ephemeral."""
    ephemeral, (ee, se) = EphemeralKeypair.generate_shared(
        entropy, received.ephemeral, peer_public_key
    )
    ephemeral.wipe()
    state = received.state.copy()
    state.mix_ephemeral(ephemeral.public)
    state.mix_key(ee)
    state.mix_key(se)
    state.mix_preshared_key(preshared_key)
    nothing = state.seal(b"")
    response = HandshakeResponse(local_index, received.remote_index, ephemeral.public, nothing)
    receiving, sending = state.split()
    return response, SessionKeys(sending, receiving)


def consume_response(
    sent: SentInitiation, static: StaticKeypair, preshared_key: bytes, message: HandshakeResponse
) -> SessionKeys:
    """The initiator's keys. Raises NoiseError."""
    ee, se = shared_secrets(message.ephemeral, sent.ephemeral, static)
    state = sent.state.copy()
    state.mix_ephemeral(message.ephemeral)
    state.mix_key(ee)
    state.mix_key(se)
    state.mix_preshared_key(preshared_key)
    state.unseal(message.encrypted_nothing)
    sending, receiving = state.split()
    return SessionKeys(sending, receiving)


def tai64n(unix_time: int) -> bytes:
    """The TAI64N label of a Unix time in nanoseconds: later ones compare greater as bytes."""
    seconds, nanoseconds = divmod(unix_time, SECOND)
    return (_TAI64_EPOCH + seconds).to_bytes(8, "big") + nanoseconds.to_bytes(4, "big")
