"""Where things are: in a frame, on the program's stack, in its context; and the steps that all of
the program is made of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from firezone.xdp import routes
from firezone.xdp.assembler import (
    R3,
    R6,
    R7,
    R9,
    Line,
    Register,
    W,
    add,
    and_,
    jump_if,
    load,
    move,
    shift_right,
    subtract,
    swap_16,
)
from firezone.xdp.counts import Count


@dataclass(frozen=True, slots=True)
class Settings:
    """`interface` is the index of the one it is attached to, and sends by; `native`: in its driver,
    before the kernel has a buffer of its own."""

    interface: int
    listen_port: int
    ports: range
    native: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """From which IP version to which, and which of both is on a channel, so has a ChannelData
    header: what comes from a client, goes to one, or both."""

    arrives: int
    departs: int
    from_client: bool
    to_client: bool

    @property
    def name(self) -> str:
        ends = (("peer", "client")[end] for end in (self.from_client, self.to_client))
        return f"v{self.arrives} {next(ends)} to v{self.departs} {next(ends)}"

    @property
    def growth(self) -> int:
        """Of the UDP datagram."""
        return routes.CHANNEL_HEADER * (self.to_client - self.from_client)

    @property
    def overhead(self) -> int:
        """What of the UDP datagram, as it comes, is no payload."""
        return 8 + routes.CHANNEL_HEADER * self.from_client

    @property
    def count(self) -> Count:
        """Where it is counted."""
        if self.from_client and self.to_client:
            return Count.ACROSS
        return Count.TO_PEER if self.from_client else Count.TO_CLIENT

    @property
    def shift(self) -> int:
        """How far the frame's start moves back."""
        grown = routes.IP_HEADER[self.departs] - routes.IP_HEADER[self.arrives]
        return -(grown + self.growth)

    @property
    def header_end(self) -> int:
        """Where the payload begins in the new frame."""
        own = L3 + routes.IP_HEADER[self.departs] + 8
        return own + routes.CHANNEL_HEADER * self.to_client


# Offsets in a frame.
ETHER_TYPE, L3 = 12, 14
L4 = {version: L3 + size for version, size in routes.IP_HEADER.items()}
TOTAL_LENGTH, FRAGMENT, TTL, PROTOCOL, IP_SUM, ADDRESSES_V4 = (
    L3 + offset for offset in (2, 6, 8, 9, 10, 12)
)
PAYLOAD_LENGTH, NEXT_HEADER, HOP_LIMIT, ADDRESSES_V6 = (L3 + offset for offset in (4, 6, 7, 8))

# In the program's context.
DATA, DATA_END = 0, 4

# On the stack, below R10: the key, and what bpf_fib_lookup is asked and answers.
KEY = -routes.KEY_SIZE
KEY_PORTS, KEY_CHANNEL = KEY + 32, KEY + 36
FIB = KEY - 64
FIB_PROTOCOL, FIB_PORTS, FIB_LENGTH, FIB_INTERFACE = (FIB + at for at in (1, 2, 6, 8))
FIB_LOCAL, FIB_REMOTE, FIB_OUR_MAC, FIB_NEXT_MAC = (FIB + at for at in (16, 32, 52, 58))
KEPT = FIB - 8
"""The first eight bytes of the IP header."""
KEPT_TTL = KEPT - 8
"""The next four of an IPv4 one: TTL, protocol, checksum."""
UDP_SUM = KEPT_TTL + 4
INDEX = KEPT_TTL - 8

ETHER_TYPES = {4: 0x0800, 6: 0x86DD}


def in_frame(scratch: Register, end: int, otherwise: str) -> Iterator[Line]:
    """The frame has so many bytes."""
    yield move(scratch, R7)
    yield add(scratch, end)
    yield load(W, R3, R6, DATA_END)
    yield jump_if(scratch, ">", R3, otherwise)


def fold(dst: Register, scratch: Register) -> Iterator[Line]:
    """A sum of a few 16-bit words to one of 16 bits, in one's complement."""
    for _ in range(2):
        yield move(scratch, dst)
        yield shift_right(scratch, 16)
        yield and_(dst, 0xFFFF)
        yield add(dst, scratch)


def length_field(dst: Register, more: int) -> Iterator[Line]:
    """The length of the datagram as it came, and more, in the network's order."""
    yield move(dst, R9)
    yield add(dst, more)
    yield swap_16(dst)


def channel_length(dst: Register, case: Case) -> Iterator[Line]:
    """The length in the ChannelData header, in the network's order."""
    yield move(dst, R9)
    yield subtract(dst, case.overhead)
    yield swap_16(dst)


def network_16(word: int) -> int:
    """16 bits as a load from a packet gives them."""
    return int.from_bytes(word.to_bytes(2, "big"), sys.byteorder)


def ether_type(version: int) -> int:
    """As an immediate of 16 bits, which has a sign."""
    value = network_16(ETHER_TYPES[version])
    return value - 0x10000 if value & 0x8000 else value
