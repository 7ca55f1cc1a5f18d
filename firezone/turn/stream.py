"""TURN messages on a byte stream (RFC 8656 section 3.1, RFC 8489 section 6.2.2).

STUN messages and ChannelData follow each other without a frame of their own: both begin with their
length, and ChannelData is padded to four bytes, which its length does not count.

    first byte  0-3       20 bytes, the last two of the first four say how many more follow
                64-127    4 bytes, the last two say how many more follow, then padding
                other     not TURN: the stream is broken, for the next message cannot be found

A peer may send its bytes as slowly as it likes only between messages: one that is begun has to be
complete in time, else whoever opens many streams and sends a byte a second keeps them all busy.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from firezone.durations import SECOND
from firezone.errors import RemoteError
from firezone.model import Timeout
from firezone.turn.channel_data import HEADER_SIZE

MESSAGE_TIMEOUT: Final = 10 * SECOND
"""From the first byte of a message to its last."""
MAX_STUN_SIZE: Final = 2240
"""What the ring of a relay takes."""
MAX_CHANNEL_DATA_SIZE: Final = 0x10000 - 28
"""Header and payload: it goes on in one UDP datagram."""

_STUN_HEADER = 20
_MAGIC_COOKIE = b"\x21\x12\xa4\x42"


class StreamError(RemoteError):
    """The stream cannot be read any further: close it. `reason` is a short key for counters."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StreamReader:
    """Cuts a byte stream into messages. It holds at most one message that is incomplete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._messages: deque[bytes] = deque()
        self._begun_at: int | None = None

    def handle_data(self, data: bytes, now: int) -> None:
        """Take what the stream brought: any number of messages, the last perhaps incomplete.

        Raises StreamError if it is not TURN, or a message is too long.
        """
        self._buffer += data
        start = 0
        while (sizes := _sizes(self._buffer, start)) is not None:
            size, padded = sizes
            if start + padded > len(self._buffer):
                break
            self._messages.append(bytes(self._buffer[start : start + size]))
            start += padded
        if start:
            self._begun_at = None
            del self._buffer[:start]
        if self._buffer and self._begun_at is None:
            self._begun_at = now

    def handle_timeout(self, now: int) -> None:
        """Raises StreamError if a message takes too long to arrive."""
        timeout = self.poll_timeout()
        if timeout is not None and timeout.deadline <= now:
            raise StreamError("stream_too_slow")

    def poll_timeout(self) -> Timeout | None:
        if self._begun_at is None:
            return None
        return Timeout(self._begun_at + MESSAGE_TIMEOUT, "incomplete message on a stream")

    def poll_message(self) -> bytes | None:
        """The next STUN message or ChannelData, as it would be in a datagram: without padding."""
        return self._messages.popleft() if self._messages else None


def encode_on_stream(message: bytes) -> bytes:
    """A STUN message or ChannelData of a datagram as it goes on a stream.

    What lies behind the length that a message claims is not its own and is left out. Raises
    StreamError for what is neither, or is shorter than it claims.
    """
    sizes = _sizes(message, 0)
    if sizes is None or len(message) < sizes[0]:
        raise StreamError("not_a_whole_message")
    size, padded = sizes
    return message[:size] + bytes(padded - size)


def _sizes(data: bytes | bytearray, start: int) -> tuple[int, int] | None:
    """Of the message that starts there, without and with padding; None if it is not yet clear."""
    available = len(data) - start
    if available < 1:
        return None
    if data[start] < 4:
        return _stun_sizes(data, start, available)
    if not 0x40 <= data[start] < 0x80:
        raise StreamError("stream_not_turn")
    if available < HEADER_SIZE:
        return None
    size = HEADER_SIZE + int.from_bytes(data[start + 2 : start + 4])
    if size > MAX_CHANNEL_DATA_SIZE:
        raise StreamError("stream_message_too_long")
    return size, (size + 3) & ~3


def _stun_sizes(data: bytes | bytearray, start: int, available: int) -> tuple[int, int] | None:
    if available < 8:
        return None
    length = int.from_bytes(data[start + 2 : start + 4])
    if length % 4 or data[start + 4 : start + 8] != _MAGIC_COOKIE:
        raise StreamError("stream_not_turn")
    if _STUN_HEADER + length > MAX_STUN_SIZE:
        raise StreamError("stream_message_too_long")
    return _STUN_HEADER + length, _STUN_HEADER + length
