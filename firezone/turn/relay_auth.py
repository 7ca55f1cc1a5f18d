"""Long-term credentials of the relay and its nonces (RFC 8489 section 9.2).

The portal and the relay share the *stamp secret*, used as the text it is. A username reads
`<expiry>:<salt>`, with the expiry in Unix seconds; the password follows from both and the secret,
so the relay stores nothing per user. Besides, there may be users with a password of their own,
whose names have no colon. A nonce is the time it was made and a MAC over that time and the client's
5-tuple: it stores nothing per stranger either, and it is void for anyone else.

The password is a plain hash with the secret in the middle, which can be extended by whoever may
choose bytes of the salt at will. What prevents it is that the hash's padding is not valid UTF-8:
usernames have to be decoded strictly, which the STUN codec does.

Responses to a user of the stamp secret are signed in any case, as its clients ignore others. Those
to a user with an own password only once the request is authenticated: anybody could ask for a
signature, and then try passwords against it at leisure. A derived password has 256 bits.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from firezone import stun
from firezone._ext.blake2s import blake2s
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
REMEMBERED_USERS: Final = 1024
"""Whose keys are kept for a moment: an allocation takes several requests in a row."""
_NOBODYS_KEY: Final = bytes(16)
"""What names without a key are checked with: else the time that takes would tell which exist."""


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
    return None if expiry_of(username) is None else _password(username, secret)


def _password(username: str, secret: str) -> str:
    expiry, _, salt = username.partition(":")
    digest = hashlib.sha256(f"{expiry}:{secret}:{salt}".encode()).digest()
    return base64.b64encode(digest).rstrip(b"=").decode("ascii")


@dataclass(frozen=True, slots=True)
class _Stamped:
    """What follows from a username and the secret."""

    expiry: int
    key: bytes = field(repr=False)


class Authenticator:
    """Judges requests by their credentials."""

    __slots__ = ("_keys", "_nonces", "_realm", "_secret", "_stamped", "_unix_offset")

    def __init__(
        self,
        *,
        secret: str | None,
        users: Mapping[str, str],
        realm: str,
        entropy: Entropy,
        unix_now: int,
        now: int,
    ) -> None:
        """`users` are passwords by name. `unix_now` is the wall time in nanoseconds at `now`."""
        self._secret = secret
        self._realm = realm
        self._keys: dict[str, bytes] = {}
        self.set_users(users)
        self._nonces = NonceMint(entropy)
        self._stamped = lru_cache(maxsize=REMEMBERED_USERS)(self._derive)
        self.set_wall_clock(unix_now, now)

    @property
    def realm(self) -> str:
        """That of all users."""
        return self._realm

    @property
    def nonce_key(self) -> bytes:
        """What makes nonces: a secret."""
        return self._nonces.key

    def set_users(self, users: Mapping[str, str]) -> None:
        """Those who have a password of their own, from now on."""
        self._keys = {
            name: stun.long_term_key(name, self._realm, password)
            for name, password in users.items()
        }

    def set_wall_clock(self, unix_now: int, now: int) -> None:
        """The wall time in nanoseconds: credentials expire by it."""
        self._unix_offset = unix_now - now

    def derived_key(self, request: Message) -> bytes | None:
        """The key of the user that a request names, if its password follows from the secret."""
        username = request.get(stun.USERNAME)
        stamped = None if username is None else self._stamped(username)
        return None if stamped is None else stamped.key

    def _derive(self, username: str) -> _Stamped | None:
        expiry = None if self._secret is None else expiry_of(username)
        if self._secret is None or expiry is None:
            return None
        password = _password(username, self._secret)
        return _Stamped(expiry, stun.long_term_key(username, self._realm, password))

    def authenticate(self, exchange: Exchange, now: int) -> Exchange | int:
        """The exchange with its user and key, or the error code that the credentials deserve."""
        request = exchange.request
        username, nonce = request.get(stun.USERNAME), request.get(stun.NONCE)
        if not request.has_integrity or username is None or nonce is None:
            return 401
        if not self._nonces.accepts(nonce, exchange.five_tuple, now):
            return 438
        key = self._keys.get(username)
        if key is None:
            key = self._present_key(username, now)
        is_right = request.verify_integrity(_NOBODYS_KEY if key is None else key)
        if key is None or not is_right:
            return 401
        return exchange.authenticated(key, _user(username))

    def _present_key(self, username: str, now: int) -> bytes | None:
        stamped = self._stamped(username)
        is_expired = stamped is None or stamped.expiry < (now + self._unix_offset) // SECOND
        return None if stamped is None or is_expired else stamped.key

    def challenge(self, exchange: Exchange, code: int, now: int) -> Transmit:
        """The error response that tells the realm and a fresh nonce."""
        nonce = self._nonces.issue(exchange.five_tuple, now)
        respond = exchange.terse_error if exchange.key is None else exchange.error
        return respond(code, (stun.REALM, self._realm), (stun.NONCE, nonce))


class NonceMint:
    """Makes and checks nonces without remembering them.

    The MAC is keyed BLAKE2s (RFC 7693), which compiled code has at hand to make nonces, too.
    """

    __slots__ = ("key",)

    def __init__(self, entropy: Entropy) -> None:
        self.key = entropy(32)

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
        return blake2s(subject, self.key, _MAC_LENGTH)


def _user(username: str) -> str:
    """Who it is, whichever session: the salt stays, the expiry changes."""
    _, colon, salt = username.partition(":")
    return colon + salt or username


def _identity(endpoint: Endpoint | None) -> bytes:
    """Unambiguous bytes of an address: its length comes first."""
    if endpoint is None:
        return b"\x00"
    packed = endpoint.address.packed
    return bytes([len(packed)]) + packed + endpoint.port.to_bytes(2, "big")
