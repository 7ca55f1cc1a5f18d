"""What the program counts, one place each in an array with a copy per CPU."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final


class Count(IntEnum):
    """Datagrams that were moved, and those on our ports that were left to user space, and why."""

    TO_PEER = 0
    TO_CLIENT = 1
    NO_ROUTE = 2
    """No channel that user space has told of: none at all, or one that is not for this tier."""
    MALFORMED = 3
    """Lengths that contradict each other, or no UDP checksum where there has to be one."""
    HOP_LIMIT = 4
    """At its end."""
    UNFINISHED_CHECKSUM = 5
    """The sender, on this machine, leaves it to a device that nothing passes through."""
    NO_NEIGHBOUR = 6
    """The kernel does not know the next hop's link address; sending to it, it will learn it."""
    TOO_LARGE = 7
    """For the route: it has to become fragments."""
    NOT_FORWARDED = 8
    """The kernel has no route that leaves this host, or another table has to be asked."""
    OTHER_INTERFACE = 9
    """The route leaves by one that this program is not attached to."""
    NO_ROOM = 10
    """For a longer header, in front of the packet."""
    ACROSS = 11
    """Moved from one client to another, as each is the other's peer by an allocation here."""
    OTHER_HOST = 12
    """The frame is for another link address: a switch sends it to all, or a bridge is listening."""


MOVED: Final = (Count.TO_PEER, Count.TO_CLIENT, Count.ACROSS)
SIZE: Final = 16


def total(copies: bytes) -> tuple[int, int]:
    """Packets and payload bytes over all CPUs. Bytes are counted of what was moved."""
    numbers = struct.unpack(f"={len(copies) // 8}Q", copies)
    return sum(numbers[::2]), sum(numbers[1::2])
