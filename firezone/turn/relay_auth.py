"""Long-term credentials of the relay and its nonces (RFC 8489 section 9.2).

The portal and the relay share the *stamp secret*, used as the text it is. A username reads
`<expiry>:<salt>`, with the expiry in Unix seconds; the password follows from both and the secret,
so the relay stores nothing per user. A nonce is the time it was made and a MAC over that time and
the client's 5-tuple: it stores nothing per stranger either, and it is void for anyone else.

The password is a plain hash with the secret in the middle, which can be extended by whoever may
choose bytes of the salt at will. What prevents it is that the hash's padding is not valid UTF-8:
usernames have to be decoded strictly, which the STUN codec does.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Final

from firezone import stun
from firezone.durations import HOUR, SECOND
from firezone.model import Endpoint, Entropy, Transmit
from firezone.stun import Message
from firezone.turn.relay_commands import FiveTuple
from firezone.turn.relay_exchange import Exchange

NONCE_LIFETIME: Final = 1 * HOUR
"""RFC 8489 section 9.2.4 wants nonces to be changed at least once an hour."""

_CANONICAL_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_LATEST_EXPIRY: Final = 2**63 - 1
_STAMP_LENGTH: Final = 8
_MAC_LENGTH: Final = 16


def make_stamp_secret(entropy: Entropy) -> str:
    """A fresh secret: 32 random bytes as 64 lower-case hexadecimal characters."""
    return entropy(32).hex()


def expiry_of(username: str) -> int | None:
    """The Unix seconds a username names, or None if it is not `<expiry>:<salt>`.

    Only canonical decimals that fit 63 bits count, so that one number has one spelling.
    """
    expiry, colon, salt = username.partition(":")
    if not colon or ":" in salt or _CANONICAL_DECIMAL.fullmatch(expiry) is None:
        return None
    seconds = int(expiry)
    return seconds if seconds <= _LATEST_EXPIRY else None


def password_of(username: str, secret: str) -> str | None:
    """The password of a username, or None if it is not `<expiry>:<salt>`."""
    if expiry_of(username) is None:
        return None
    expiry, _, salt = username.partition(":")
    digest = hashlib.sha256(f"{expiry}:{secret}:{salt}".encode()).digest()
    return base64.b64encode(digest).rstrip(b"=").decode("ascii")


class Authenticator:
    """Judges requests by their credentials."""

    __slots__ = ("_nonces", "_realm", "_secret", "_unix_offset")

    def __init__(
        self, *, secret: str, realm: str, entropy: Entropy, unix_now: int, now: int
    ) -> None:
        """`unix_now` is the wall time in nanoseconds at `now`."""
        self._secret = secret
        self._realm = realm
        self._nonces = NonceMint(entropy)
        self.set_wall_clock(unix_now, now)

    def set_wall_clock(self, unix_now: int, now: int) -> None:
        """The wall time in nanoseconds: credentials expire by it."""
        self._unix_offset = unix_now - now

    def key_for(self, request: Message) -> bytes | None:
        """The key of the user that a request names, if its password can be derived."""
        username = request.get(stun.USERNAME)
        password = None if username is None else password_of(username, self._secret)
        if username is None or password is None:
            return None
        return stun.long_term_key(username, self._realm, password)

    def judge(self, exchange: Exchange, now: int) -> int | None:
        """The error code that the credentials deserve, None if they are good."""
        request = exchange.request
        username, nonce = request.get(stun.USERNAME), request.get(stun.NONCE)
        if not request.has_integrity or username is None or nonce is None:
            return 401
        if not self._nonces.accepts(nonce, exchange.five_tuple, now):
            return 438
        expiry = expiry_of(username)
        if expiry is None or expiry < (now + self._unix_offset) // SECOND:
            return 401
        if exchange.key is None or not request.verify_integrity(exchange.key):
            return 401
        return None

    def challenge(self, exchange: Exchange, code: int, now: int) -> Transmit:
        """The error response that tells the realm and a fresh nonce."""
        nonce = self._nonces.issue(exchange.five_tuple, now)
        return exchange.error(code, (stun.REALM, self._realm), (stun.NONCE, nonce))


class NonceMint:
    """Makes and checks nonces without remembering them."""

    __slots__ = ("_key",)

    def __init__(self, entropy: Entropy) -> None:
        self._key = entropy(32)

    def issue(self, five_tuple: FiveTuple, now: int) -> str:
        """A nonce for that client: 32 characters."""
        stamp = max(now // SECOND, 0).to_bytes(_STAMP_LENGTH, "big")
        return base64.urlsafe_b64encode(stamp + self._mac(stamp, five_tuple)).decode("ascii")

    def accepts(self, nonce: str, five_tuple: FiveTuple, now: int) -> bool:
        """Whether we issued this nonce to that client, less than its lifetime ago."""
        try:
            raw = base64.b64decode(nonce.encode("ascii"), altchars=b"-_", validate=True)
        except ValueError:
            return False
        stamp, mac = raw[:_STAMP_LENGTH], raw[_STAMP_LENGTH:]
        if not hmac.compare_digest(mac, self._mac(stamp, five_tuple)):
            return False
        age = now - int.from_bytes(stamp, "big") * SECOND
        return 0 <= age < NONCE_LIFETIME

    def _mac(self, stamp: bytes, five_tuple: FiveTuple) -> bytes:
        subject = stamp + _identity(five_tuple.client) + _identity(five_tuple.local)
        return hmac.digest(self._key, subject, "sha256")[:_MAC_LENGTH]


def _identity(endpoint: Endpoint | None) -> bytes:
    """Unambiguous bytes of an address: its length comes first."""
    if endpoint is None:
        return b"\x00"
    packed = endpoint.address.packed
    return bytes([len(packed)]) + packed + endpoint.port.to_bytes(2, "big")
