"""ChannelData messages (RFC 8656 section 12.4): number, length, payload.

Over UDP neither side of ours pads them. What follows the payload is the reader's to judge: the
client demands that nothing does, a relay has to live with clients that pad to four bytes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from firezone.errors import LocalError, RemoteError

HEADER_SIZE = 4
MIN_CHANNEL = 0x4000
MAX_CHANNEL = 0x7FFF
"""The range of RFC 5766; RFC 8656 narrows it to 0x4FFF, which is what the client draws from."""

_HEADER = struct.Struct(">HH")


class ChannelDataError(RemoteError):
    """Not a ChannelData message. `reason` is a short key for counters."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ChannelData(NamedTuple):
    number: int
    payload: bytes


def looks_like_channel_data(data: bytes) -> bool:
    """Whether the first byte is that of a channel number (RFC 7983 section 7)."""
    return len(data) >= HEADER_SIZE and 0x40 <= data[0] <= 0x7F


def encode_channel_data(number: int, payload: bytes) -> bytes:
    """Header and payload, without padding. Raises LocalError for what does not fit."""
    if not MIN_CHANNEL <= number <= MAX_CHANNEL or len(payload) > 0xFFFF:
        raise LocalError("channel number or payload out of range")
    return _HEADER.pack(number, len(payload)) + payload


def decode_channel_data(data: bytes, *, exact: bool = True) -> ChannelData:
    """Number and payload. With `exact` nothing may follow the payload, else that is ignored.

    Raises ChannelDataError, and nothing else.
    """
    if len(data) < HEADER_SIZE:
        raise ChannelDataError("too_short")
    number, length = _HEADER.unpack_from(data)
    if not MIN_CHANNEL <= number <= MAX_CHANNEL:
        raise ChannelDataError("wrong_number")
    end = HEADER_SIZE + length
    if len(data) < end or (exact and len(data) != end):
        raise ChannelDataError("wrong_length")
    return ChannelData(number, data[HEADER_SIZE:end])
