"""What a datagram says about whom it is for, where addresses do not: ICE's names and WireGuard's.

Both are peers of a relay's clients, to which nothing but the payload tells those apart who share
one relayed address (`relay_one_port.py`). A client *names itself* in what it sends to a peer, by
ufrags, transaction ids and indices; the peer's datagrams carry these names. WireGuard's initiation
alone names nobody but its sender; but implementations that hold many sessions keep the upper 24
bits of their indices for one tunnel (boringtun, and so Firezone's), which earlier messages told.

Nothing here is authenticated, as the relay has no keys: a clue decides who gets a datagram, and
whoever gets another's can do nothing with it.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple


class ClueKind(IntEnum):
    INDEX = 0
    """A WireGuard index of the client."""
    TUNNEL = 1
    """The upper 24 bits of a WireGuard index of the peer."""
    UFRAG = 2
    """The client's user name of ICE."""
    TRANSACTION = 3
    """Of a Binding request that the client sent."""


class Clue(NamedTuple):
    kind: ClueKind
    value: int | bytes


def clue_of(payload: bytes) -> Clue | None:
    """By what a peer's datagram names its addressee."""
    match _wireguard_type(payload):
        case 1:
            return Clue(ClueKind.TUNNEL, _word(payload, 4) >> 8)
        case 2:
            return Clue(ClueKind.INDEX, _word(payload, 8))
        case 3 | 4:
            return Clue(ClueKind.INDEX, _word(payload, 4))
    match binding_type(payload):
        case 0x0001:
            addressee, colon, _ = _username(payload).partition(b":")
            return Clue(ClueKind.UFRAG, addressee) if colon else None
        case 0x0101 | 0x0111:
            return Clue(ClueKind.TRANSACTION, payload[8:20])
    return None


def names_in(payload: bytes) -> tuple[Clue, ...]:
    """The names that a client gives itself in what it sends, by which an answer will find it."""
    match _wireguard_type(payload):
        case 1:
            return (Clue(ClueKind.INDEX, _word(payload, 4)),)
        case 2:
            tunnel = Clue(ClueKind.TUNNEL, _word(payload, 8) >> 8)
            return (Clue(ClueKind.INDEX, _word(payload, 4)), tunnel)
    if binding_type(payload) != 0x0001:
        return ()
    transaction = Clue(ClueKind.TRANSACTION, payload[8:20])
    _, colon, own = _username(payload).partition(b":")
    return (Clue(ClueKind.UFRAG, own), transaction) if colon else (transaction,)


def tunnel_in(payload: bytes) -> Clue | None:
    """The name of the tunnel by which the sender of this response will initiate another time."""
    if _wireguard_type(payload) != 2:
        return None
    return Clue(ClueKind.TUNNEL, _word(payload, 4) >> 8)


def is_wireguard(payload: bytes) -> bool:
    """Whether it is one of WireGuard's messages, as far as type and size tell."""
    return _wireguard_type(payload) != 0


def binding_type(payload: bytes) -> int:
    """The type of a STUN message whose method is Binding (RFC 8489 section 5), 0 for all else."""
    if len(payload) < _STUN_HEADER or payload[4:8] != _COOKIE:
        return 0
    found = int.from_bytes(payload[:2], "big")
    return found if found in _BINDING_TYPES else 0


def is_check(payload: bytes) -> bool:
    """Whether it is a Binding request of ICE, for a relay's own are without a USERNAME."""
    return binding_type(payload) == 0x0001 and bool(_username(payload))


def is_turn(payload: bytes) -> bool:
    """Whether a client may take it for its relay's: ChannelData, or STUN but for Binding."""
    if payload and 0x40 <= payload[0] < 0x80:
        return True
    is_stun = len(payload) >= _STUN_HEADER and payload[0] < 4 and payload[4:8] == _COOKIE
    return is_stun and not binding_type(payload) and not is_wireguard(payload)


_STUN_HEADER: Final = 20
_COOKIE: Final = b"\x21\x12\xa4\x42"
_BINDING_TYPES: Final = (0x0001, 0x0011, 0x0101, 0x0111)
_USERNAME: Final = 0x0006
_HANDSHAKE_SIZES: Final = {1: 148, 2: 92, 3: 64}
_SMALLEST_DATA: Final = 32


def _wireguard_type(payload: bytes) -> int:
    if len(payload) < _SMALLEST_DATA or payload[1:4] != bytes(3):
        return 0
    kind = payload[0]
    return kind if kind == 4 or _HANDSHAKE_SIZES.get(kind) == len(payload) else 0


def _word(payload: bytes, at: int) -> int:
    return int.from_bytes(payload[at : at + 4], "little")


def _username(message: bytes) -> bytes:
    """Of the first such attribute, empty without one."""
    at = _STUN_HEADER
    while at + 4 <= len(message):
        kind, size = struct.unpack_from(">HH", message, at)
        if kind == _USERNAME:
            value = message[at + 4 : at + 4 + size]
            return value if len(value) == size <= _LONGEST_USERNAME else b""
        at += 4 + (size + 3 & ~3)
    return b""


_LONGEST_USERNAME: Final = 513
"""Two ufrags of 256 characters (RFC 8839 section 5.4) and the colon."""
