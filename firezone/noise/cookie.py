"""Who may make us compute: mac1, mac2, cookies and the limit (WireGuard paper, section 5.4.4-7).

Every initiation and response ends in two MACs. mac1 proves that its sender knows our public key
and is checked first. When more than `limit` messages a second pass that check, we are under load:
then mac2 must prove that the sender receives at the address it sends from. It is keyed by a
cookie, a MAC of that address under a secret of ours, which we send encrypted in a cookie reply to
whoever lacks it. So a flood costs a hash per message, and nothing is stored for a stranger.

`RateLimiter` is the receiving side, one per node; `MacGenerator` the sending side, one per peer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hmac import compare_digest

from firezone.commands import CookieSecret
from firezone.durations import SECOND
from firezone.model import Endpoint, Entropy
from firezone.noise import messages
from firezone.noise.errors import NoiseError, Reason
from firezone.noise.messages import HandshakeCookie, MessageType
from firezone.noise.primitives import (
    MAC_SIZE,
    XNONCE_SIZE,
    hash_of,
    mac,
    xseal,
    xunseal,
)

HANDSHAKES_PER_SECOND = 100
COOKIE_EPOCH = 128 * SECOND
COOKIE_LIFETIME = 120 * SECOND
_NO_MAC2 = bytes(MAC_SIZE)


@dataclass(frozen=True, slots=True)
class Accepted:
    """Give the message to its tunnel."""


@dataclass(frozen=True, slots=True)
class CookieReply:
    """Send `message` to where the offending message came from, and drop that one."""

    message: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Drop the message."""

    reason: Reason


Verdict = Accepted | CookieReply | Rejected


class RateLimiter:
    """Judges every handshake message before a tunnel computes on it. One per node."""

    def __init__(
        self,
        public_key: bytes,
        entropy: Entropy,
        *,
        limit: int = HANDSHAKES_PER_SECOND,
        now: int,
    ) -> None:
        self._mac1_key = _mac1_key(public_key)
        self._cookie_key = _cookie_key(public_key)
        self._entropy = entropy
        self._secret = entropy(MAC_SIZE)
        self._limit = limit
        self._created_at = now
        self._window_start = now
        self._count = 0

    @property
    def cookie_secret(self) -> CookieSecret:
        """For the data plane, which then knows a good mac2, too."""
        return CookieSecret(self._secret, self._created_at)

    def verify(self, message: bytes, source: Endpoint | None, now: int) -> Verdict:
        """Judge a datagram. Cookie replies pass: their tunnel authenticates them cheaply.

        `source` is None where the sender's address is unknown; then there can be no cookie.
        """
        match messages.message_type(message):
            case MessageType.HANDSHAKE_COOKIE:
                return Accepted()
            case MessageType.HANDSHAKE_INITIATION | MessageType.HANDSHAKE_RESPONSE:
                pass
            case _:
                return Rejected(Reason.MALFORMED)
        mac1_at = len(message) - 2 * MAC_SIZE
        mac1, mac2 = message[mac1_at:-MAC_SIZE], message[-MAC_SIZE:]
        if not compare_digest(mac(self._mac1_key, message[:mac1_at]), mac1):
            return Rejected(Reason.BAD_MAC1)
        if not self._under_load(now):
            return Accepted()
        if source is None:
            return Rejected(Reason.UNDER_LOAD)
        cookie = self._cookie(source, now)
        if compare_digest(mac(cookie, message[:-MAC_SIZE]), mac2):
            return Accepted()
        return CookieReply(self._cookie_reply(messages.sender_index(message), mac1, cookie))

    def _under_load(self, now: int) -> bool:
        if now - self._window_start >= SECOND:
            self._window_start = now
            self._count = 0
        self._count += 1
        return self._count > self._limit

    def _cookie(self, source: Endpoint, now: int) -> bytes:
        epoch = (now - self._created_at) // COOKIE_EPOCH
        address = source.address.packed.ljust(16, b"\0")
        return mac(self._secret, epoch.to_bytes(8, "little") + address)

    def _cookie_reply(self, receiver_index: int, mac1: bytes, cookie: bytes) -> bytes:
        nonce = self._entropy(XNONCE_SIZE)
        sealed = xseal(self._cookie_key, nonce, cookie, mac1)
        return HandshakeCookie(receiver_index, nonce, sealed).encode()


class MacGenerator:
    """Closes our handshake messages to one peer with mac1, and mac2 while we hold a cookie."""

    def __init__(self, peer_public_key: bytes) -> None:
        self._mac1_key = _mac1_key(peer_public_key)
        self._cookie_key = _cookie_key(peer_public_key)
        self._last: tuple[int, bytes] | None = None
        self._cookie: bytes | None = None
        self._cookie_at = 0

    def close(self, body: bytes, now: int) -> bytes:
        """The whole message; `body` ends before mac1. Remembers what a cookie reply must name."""
        message = body + mac(self._mac1_key, body)
        self._last = (messages.sender_index(body), message[len(body) :])
        if self._cookie is not None and now - self._cookie_at >= COOKIE_LIFETIME:
            self._cookie = None
        return message + (mac(self._cookie, message) if self._cookie is not None else _NO_MAC2)

    def handle_cookie(self, reply: HandshakeCookie, now: int) -> None:
        """Keep the cookie for the next message; it triggers none. Raises NoiseError."""
        if self._last is None:
            raise NoiseError(Reason.UNEXPECTED)
        index, mac1 = self._last
        if reply.receiver_index != index:
            raise NoiseError(Reason.WRONG_INDEX)
        self._cookie = xunseal(self._cookie_key, reply.nonce, reply.encrypted_cookie, mac1)
        self._cookie_at = now


def _mac1_key(public_key: bytes) -> bytes:
    return hash_of(b"mac1----", public_key)


def _cookie_key(public_key: bytes) -> bytes:
    return hash_of(b"cookie--", public_key)
