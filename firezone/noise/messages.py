"""The three handshake messages on the wire (WireGuard paper, sections 5.4.2, 5.4.3, 5.4.7).

All integers are little-endian. The type is read as 32 bits, so its three reserved bytes must be
zero, and the length must be the type's own. mac1 and mac2 close the first two messages: `cookie.py`
adds them to what `encode()` gives and checks them before `decode()`, which skips them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from firezone.noise.errors import NoiseError, Reason

TRANSPORT_OVERHEAD = 32
"""Header and tag of a transport message; plaintexts are not padded."""

_INITIATION = struct.Struct("<II32s48s28s")
_RESPONSE = struct.Struct("<III32s16s")
_COOKIE = struct.Struct("<II24s32s")
_INDEX = struct.Struct("<I")


class MessageType(IntEnum):
    HANDSHAKE_INITIATION = 1
    HANDSHAKE_RESPONSE = 2
    HANDSHAKE_COOKIE = 3
    TRANSPORT_DATA = 4


@dataclass(frozen=True, slots=True)
class HandshakeInitiation:
    """From initiator to responder."""

    sender_index: int
    ephemeral: bytes
    encrypted_static: bytes
    encrypted_timestamp: bytes

    def encode(self) -> bytes:
        return _INITIATION.pack(
            MessageType.HANDSHAKE_INITIATION,
            self.sender_index,
            self.ephemeral,
            self.encrypted_static,
            self.encrypted_timestamp,
        )


@dataclass(frozen=True, slots=True)
class HandshakeResponse:
    """From responder to initiator."""

    sender_index: int
    receiver_index: int
    ephemeral: bytes
    encrypted_nothing: bytes

    def encode(self) -> bytes:
        return _RESPONSE.pack(
            MessageType.HANDSHAKE_RESPONSE,
            self.sender_index,
            self.receiver_index,
            self.ephemeral,
            self.encrypted_nothing,
        )


@dataclass(frozen=True, slots=True)
class HandshakeCookie:
    """The answer of a responder under load."""

    receiver_index: int
    nonce: bytes
    encrypted_cookie: bytes

    def encode(self) -> bytes:
        return _COOKIE.pack(
            MessageType.HANDSHAKE_COOKIE, self.receiver_index, self.nonce, self.encrypted_cookie
        )


HandshakeMessage = HandshakeInitiation | HandshakeResponse | HandshakeCookie


def decode(message: bytes) -> HandshakeMessage:
    """Read one datagram. Raises NoiseError(MALFORMED), also for transport data."""
    match message_type(message):
        case MessageType.HANDSHAKE_INITIATION:
            _, *fields = _INITIATION.unpack_from(message)
            return HandshakeInitiation(*fields)
        case MessageType.HANDSHAKE_RESPONSE:
            _, *fields = _RESPONSE.unpack_from(message)
            return HandshakeResponse(*fields)
        case MessageType.HANDSHAKE_COOKIE:
            _, *fields = _COOKIE.unpack(message)
            return HandshakeCookie(*fields)
    raise NoiseError(Reason.MALFORMED)


def message_type(message: bytes) -> MessageType | None:
    """The type if the first four bytes and the length are those of a WireGuard message."""
    if len(message) < 4:
        return None
    (number,) = _INDEX.unpack_from(message)
    match number, len(message):
        case (1, 148) | (2, 92) | (3, 64):
            return MessageType(number)
        case 4, length if length >= TRANSPORT_OVERHEAD:
            return MessageType.TRANSPORT_DATA
    return None


def receiver_index(message: bytes) -> int | None:
    """Which of our indices the message is for; None for an initiation and for no message."""
    match message_type(message):
        case MessageType.HANDSHAKE_RESPONSE:
            (index,) = _INDEX.unpack_from(message, 8)
        case MessageType.HANDSHAKE_COOKIE | MessageType.TRANSPORT_DATA:
            (index,) = _INDEX.unpack_from(message, 4)
        case _:
            return None
    return int(index)


def sender_index(message: bytes) -> int:
    """The sender's index in an initiation or a response."""
    (index,) = _INDEX.unpack_from(message, 4)
    return int(index)
