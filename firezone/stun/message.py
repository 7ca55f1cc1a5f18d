"""STUN messages (RFC 8489 section 5): a class, a method, a transaction id, attributes.

A decoded message keeps the bytes it came from, as MESSAGE-INTEGRITY covers those and not our idea
of them. A value we cannot read does not lose the message: `malformed` names the attribute, so that
a server can answer 400 under the right transaction id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

from firezone._ext import stun as codec
from firezone._ext.stun import Attribute
from firezone.errors import LocalError, RemoteError
from firezone.model import Entropy
from firezone.stun import attributes as attr
from firezone.stun.attributes import KNOWN, MAGIC_COOKIE, ErrorCode

HEADER_SIZE = 20
TRANSACTION_ID_SIZE = 12
MAX_TYPE = 0x03FF
"""On a shared port a first byte above 3 is another protocol's (RFC 7983 section 7)."""

T = TypeVar("T")

_REASONS = {
    300: "Try Alternate",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    420: "Unknown Attribute",
    437: "Allocation Mismatch",
    438: "Stale Nonce",
    440: "Address Family not Supported",
    441: "Wrong Credentials",
    442: "Unsupported Transport Protocol",
    443: "Peer Address Family Mismatch",
    486: "Allocation Quota Reached",
    487: "Role Conflict",
    500: "Server Error",
    508: "Insufficient Capacity",
}


class Class(IntEnum):
    """RFC 8489 section 5."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Method(IntEnum):
    """RFC 8489 section 18.2 and RFC 8656 section 17."""

    BINDING = 0x001
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009


_CLASSES = tuple(Class)
_METHODS: dict[int, int] = {int(method): method for method in Method}


class DecodeError(RemoteError):
    """Not a STUN message. `reason` is a short key for counters."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Build it with `request`, `success` and so on, then `with_`; read it with `get`.

    `method` is a `Method` where we know it, else a bare number. `attributes` holds known ones in
    wire order, never MESSAGE-INTEGRITY nor FINGERPRINT. `unknown` lists the codes of attributes
    that we should have understood, `malformed` the first one whose value was wrong; all are empty
    in a message of our own making.
    """

    class_: Class
    method: int
    transaction_id: bytes
    attributes: tuple[tuple[Attribute[Any], Any], ...] = field(default=(), repr=False)
    unknown: tuple[int, ...] = ()
    malformed: int | None = None
    _raw: bytes = field(default=b"", repr=False, compare=False)
    _integrity_at: int | None = field(default=None, repr=False, compare=False)
    _fingerprint_at: int | None = field(default=None, repr=False, compare=False)

    @classmethod
    def request(cls, method: int, entropy: Entropy) -> Message:
        """A request under a new transaction id."""
        return cls(Class.REQUEST, method, entropy(TRANSACTION_ID_SIZE))

    @classmethod
    def indication(cls, method: int, entropy: Entropy) -> Message:
        """An indication, which nobody answers."""
        return cls(Class.INDICATION, method, entropy(TRANSACTION_ID_SIZE))

    def success(self) -> Message:
        """The success response to this request, still without attributes."""
        return Message(Class.SUCCESS, self.method, self.transaction_id)

    def error(self, code: int, reason: str | None = None) -> Message:
        """The error response to this request; it has no attribute but ERROR-CODE yet."""
        phrase = _REASONS.get(code, "") if reason is None else reason
        response = Message(Class.ERROR, self.method, self.transaction_id)
        return response.with_(attr.ERROR_CODE, ErrorCode(code, phrase))

    def with_(self, attribute: Attribute[T], value: T) -> Message:
        """This message and one more attribute at its end."""
        return Message(
            self.class_,
            self.method,
            self.transaction_id,
            (*self.attributes, (attribute, value)),
        )

    def get(self, attribute: Attribute[T]) -> T | None:
        """The value of an attribute, None without it; of a repeated one the first."""
        return codec.first(self.attributes, attribute)

    def get_all(self, attribute: Attribute[T]) -> tuple[T, ...]:
        """Every value of a repeatable attribute, in wire order."""
        return tuple(value for known, value in self.attributes if known.code == attribute.code)

    @property
    def has_integrity(self) -> bool:
        """Whether a MESSAGE-INTEGRITY came with the message. It says nothing about its value."""
        return self._integrity_at is not None

    @property
    def has_fingerprint(self) -> bool:
        """Whether a FINGERPRINT came with the message. It says nothing about its value."""
        return self._fingerprint_at is not None

    def verify_integrity(self, key: bytes) -> bool:
        """Whether the message came with the right MESSAGE-INTEGRITY for `key`."""
        at = self._integrity_at
        return at is not None and codec.verify_integrity(self._raw, at, key)

    def verify_fingerprint(self) -> bool:
        """Whether the message came with the right FINGERPRINT."""
        at = self._fingerprint_at
        return at is not None and codec.verify_fingerprint(self._raw, at)

    def encode(self, integrity_key: bytes | None = None, fingerprint: bool = False) -> bytes:
        """The bytes of the message, authenticated under a key and with FINGERPRINT if wanted.

        Raises LocalError for a value that does not fit its attribute or the message.
        """
        try:
            return codec.encode(
                self.class_,
                self.method,
                self.transaction_id,
                self.attributes,
                integrity_key,
                fingerprint,
            )
        except ValueError as error:
            raise LocalError(str(error)) from None


def looks_like_stun(data: bytes) -> bool:
    """Whether the header is that of a STUN message that fills the datagram exactly."""
    if len(data) < HEADER_SIZE or data[0] > MAX_TYPE >> 8:
        return False
    length, cookie = int.from_bytes(data[2:4]), int.from_bytes(data[4:8])
    return cookie == MAGIC_COOKIE and length % 4 == 0 and len(data) == HEADER_SIZE + length


def decode(data: bytes) -> Message:
    """Reads one datagram. Raises DecodeError, and nothing else, for what is not STUN.

    Nothing of the message is authenticated yet, and neither `unknown` nor `malformed` is judged.
    """
    found = codec.decode(data, KNOWN)
    if isinstance(found, str):
        raise DecodeError(found)
    class_, method, transaction_id, values, unknown, malformed, integrity_at, fingerprint_at = found
    return Message(
        _CLASSES[class_],
        _METHODS.get(method, method),
        transaction_id,
        values,
        unknown,
        malformed,
        data,
        integrity_at,
        fingerprint_at,
    )
