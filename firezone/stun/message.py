"""STUN messages (RFC 8489 section 5): a class, a method, a transaction id, attributes.

A decoded message keeps the bytes it came from, as MESSAGE-INTEGRITY covers those and not our idea
of them. A value we cannot read does not lose the message: `malformed` names the attribute, so that
a server can answer 400 under the right transaction id.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

from firezone.errors import LocalError, RemoteError
from firezone.model import Entropy
from firezone.stun import attributes as attr
from firezone.stun.attributes import KNOWN, MAGIC_COOKIE, Attribute, ErrorCode
from firezone.stun.integrity import HEADER_SIZE, fingerprint, message_integrity

TRANSACTION_ID_SIZE = 12
MAX_TYPE = 0x03FF
"""On a shared port a first byte above 3 is another protocol's (RFC 7983 section 7)."""
MAX_UNKNOWN = 32
"""How many unknown attributes a message remembers: enough to answer 420, little to abuse."""

T = TypeVar("T")

_HEADER = struct.Struct(">HHI12s")
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
        for known, value in self.attributes:
            if known.code == attribute.code:
                found: T = value
                return found
        return None

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
        if at is None:
            return False
        received = self._raw[at + attr.ATTRIBUTE_HEADER :][: attr.INTEGRITY_SIZE]
        return hmac.compare_digest(received, message_integrity(self._raw[:at], key))

    def verify_fingerprint(self) -> bool:
        """Whether the message came with the right FINGERPRINT."""
        at = self._fingerprint_at
        if at is None:
            return False
        received = self._raw[at + attr.ATTRIBUTE_HEADER :][: attr.FINGERPRINT_SIZE]
        return int.from_bytes(received) == fingerprint(self._raw[:at])

    def encode(self, integrity_key: bytes | None = None, fingerprint: bool = False) -> bytes:
        """The bytes of the message, authenticated under a key and with FINGERPRINT if wanted.

        Raises LocalError for a value that does not fit its attribute or the message.
        """
        return _encode(self, integrity_key, fingerprint)


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
    type_, transaction_id = _decode_header(data)
    values: list[tuple[Attribute[Any], Any]] = []
    seen: set[int] = set()
    unknown: list[int] = []
    malformed = integrity_at = fingerprint_at = None
    for code, at, value in _split(data):
        attribute = KNOWN.get(code)
        if integrity_at is not None and code != attr.FINGERPRINT.code:
            continue  # nothing covers it (RFC 8489 section 14.5)
        if code in seen and (attribute is None or not attribute.repeatable):
            continue
        seen.add(code)
        if attribute is None:
            if attr.is_comprehension_required(code) and len(unknown) < MAX_UNKNOWN:
                unknown.append(code)
            continue
        try:
            decoded = attribute.decode(value, transaction_id)
        except ValueError:
            malformed = code if malformed is None else malformed
            continue
        if attribute is attr.FINGERPRINT:
            fingerprint_at = at
            break  # it is the last one (RFC 8489 section 14.7)
        if attribute is attr.MESSAGE_INTEGRITY:
            integrity_at = at
        else:
            values.append((attribute, decoded))
    return Message(
        class_=Class((type_ >> 7 & 2) | (type_ >> 4 & 1)),
        method=_method(type_),
        transaction_id=transaction_id,
        attributes=tuple(values),
        unknown=tuple(unknown),
        malformed=malformed,
        _raw=data,
        _integrity_at=integrity_at,
        _fingerprint_at=fingerprint_at,
    )


def _decode_header(data: bytes) -> tuple[int, bytes]:
    if len(data) < HEADER_SIZE:
        raise DecodeError("too_short")
    type_, length, cookie, transaction_id = _HEADER.unpack_from(data)
    if type_ > MAX_TYPE:
        raise DecodeError("not_stun")
    if cookie != MAGIC_COOKIE:
        raise DecodeError("wrong_cookie")
    if length % 4 or len(data) != HEADER_SIZE + length:
        raise DecodeError("wrong_length")
    return type_, transaction_id


def _split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Code, offset and value of each attribute."""
    at = HEADER_SIZE
    while at < len(data):
        code, length = struct.unpack_from(">HH", data, at)
        start = at + attr.ATTRIBUTE_HEADER
        if start + length > len(data):
            raise DecodeError("attribute_overruns")
        yield code, at, data[start : start + length]
        at = start + length + (-length % 4)


def _method(type_: int) -> int:
    number = (type_ & 0x000F) | (type_ >> 1 & 0x0070) | (type_ >> 2 & 0x0F80)
    try:
        return Method(number)
    except ValueError:
        return number


def _encode(message: Message, integrity_key: bytes | None, fingerprinted: bool) -> bytes:
    tid = message.transaction_id
    out = _HEADER.pack(_type(message), 0, MAGIC_COOKIE, tid)
    out += b"".join(attr.encode_attribute(known, value, tid) for known, value in message.attributes)
    trailer = 24 * (integrity_key is not None) + 8 * fingerprinted
    length = len(out) - HEADER_SIZE + trailer
    if length > 0xFFFF:
        raise LocalError("STUN message too long")
    if integrity_key is not None:
        digest = message_integrity(out, integrity_key)
        out += attr.encode_attribute(attr.MESSAGE_INTEGRITY, digest, tid)
    if fingerprinted:
        out += attr.encode_attribute(attr.FINGERPRINT, fingerprint(out), tid)
    return out[:2] + length.to_bytes(2) + out[4:]


def _type(message: Message) -> int:
    method, class_ = message.method, message.class_
    spread = (method & 0x000F) | (method & 0x0070) << 1 | (method & 0x0F80) << 2
    return spread | (class_ & 1) << 4 | (class_ & 2) << 7
