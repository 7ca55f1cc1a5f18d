"""Packets in one arena, what is known about each in columns: the unit every kernel works on."""

from enum import IntEnum
from typing import Self, final

from _typeshed import ReadableBuffer

class Verdict(IntEnum):
    """The fate of a slot. PASS goes on, SLOW goes to Python, everything else is a named drop."""

    PASS = 0
    SLOW = 1
    CONSUMED = 2
    MALFORMED = 3
    FRAGMENT = 4
    TOO_LONG = 5
    REFUSED = 6
    UNROUTABLE = 7
    NO_PEER = 8
    WRONG_INDEX = 9
    EXPIRED = 10
    REPLAYED = 11
    BAD_TAG = 12
    BAD_MAC1 = 13
    UNKNOWN_CHANNEL = 14
    UNKNOWN_FORMAT = 15
    RING_FULL = 16
    OVER_BUDGET = 17
    SEND_FAILED = 18
    WRITE_FAILED = 19
    HANDED_OVER = 20
    VERDICTS = 21

@final
class PacketBatch:
    """Up to `capacity` packets of up to `stride - 96` bytes. For one thread at a time.

    Kernels that read from the system place packets where it suits them, in an arena that may be
    larger than the slots need; its memory is used only where something was written.

    Slots are numbered from 0 in the order of `append`. Every access to a slot that is not there
    raises IndexError. Addresses are tuples (family 4 or 6, packed bytes, port), unset (0, b"", 0).
    """

    def __new__(cls, capacity: int = 64, stride: int = 2048, arena_size: int = 0) -> Self:
        """`stride`: bytes of the arena per slot, a multiple of 64. ValueError out of range.

        `arena_size`: bytes of the whole arena, if that is more than the slots need.
        """

    @property
    def capacity(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def arena_size(self) -> int: ...
    def __len__(self) -> int: ...
    def clear(self) -> None:
        """Forget all slots."""

    def append(self, packet: ReadableBuffer, peer: int = 0, ecn: int = 0) -> int:
        """Copy a packet in and return its slot. IndexError if full, ValueError if too long."""

    def packet(self, slot: int) -> bytes:
        """What the slot holds now: kernels move and resize it."""

    def packets(self) -> list[bytes]:
        """The packets whose verdict is PASS."""

    def offset(self, slot: int) -> int:
        """Where the packet begins, from the start of the arena."""

    def length(self, slot: int) -> int: ...
    def peer(self, slot: int) -> int: ...
    def flow(self, slot: int) -> int | None:
        """The index of its entry in the flow table."""

    def verdict(self, slot: int) -> Verdict: ...
    def set_verdict(self, slot: int, verdict: int) -> None: ...
    def ecn(self, slot: int) -> int: ...
    def mark(self, slot: int) -> int:
        """Bits: 1 = a responder's keypair was confirmed, 2 = past the flow table."""

    def set_mark(self, slot: int, mark: int) -> None: ...
    def tuple(self, slot: int) -> tuple[int, int, bytes, bytes, int, int, int]:
        """(family, protocol, source, destination, source port, destination port, TCP flags)."""

    def local(self, slot: int) -> _Endpoint: ...
    def remote(self, slot: int) -> _Endpoint: ...
    def set_local(self, slot: int, family: int, address: bytes, port: int) -> None: ...
    def set_remote(self, slot: int, family: int, address: bytes, port: int) -> None: ...

_Endpoint = tuple[int, bytes, int]
