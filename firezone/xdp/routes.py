"""What the program knows of each channel: two routes, one for each direction.

A route says how a datagram that came one way leaves another way. User space makes both when a
channel is bound, and takes both away before anything of the channel is given to somebody else.

Of the checksums, what changes is the same for each datagram of a route, but for the length in its
ChannelData header, so it is added up here, once (RFC 1624).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from firezone.model import Endpoint, IPAddress

KEY_SIZE: Final = 40
VALUE_SIZE: Final = 64
# Where the fields of a value are.
LOCAL, REMOTE, LOCAL_PORT, CHANNEL, VERSION = 0, 16, 32, 36, 38
UDP_DELTA, PSEUDO, IP_DELTA, PACKETS, BYTES = 40, 42, 44, 48, 56

IP_HEADER: Final = {4: 20, 6: 40}
CHANNEL_HEADER: Final = 4
UDP: Final = 17


@dataclass(frozen=True, slots=True)
class Way:
    """How a datagram comes or leaves: between which addresses, and on which channel if any."""

    local: Endpoint
    remote: Endpoint
    channel: int = 0

    @property
    def version(self) -> int:
        return self.local.family

    def key(self) -> bytes:
        """What a datagram that comes this way is looked up by."""
        ports = struct.pack(">HHHxx", self.remote.port, self.local.port, self.channel)
        return _packed(self.remote.address) + _packed(self.local.address) + ports


@dataclass(frozen=True, slots=True)
class Route:
    """Datagrams that come by `arrival` leave by `departure`."""

    arrival: Way
    departure: Way

    def value(self) -> bytes:
        """What the program finds at the key of `arrival`; the counts start at zero."""
        way = self.departure
        return (
            _packed(way.local.address)
            + _packed(way.remote.address)
            + struct.pack(">HHHBx", way.local.port, way.remote.port, way.channel, way.version)
            + _raw(self._udp_delta())
            + _raw(_sum([*_addresses(self.arrival), UDP]))
            + _raw(self._ip_delta())
            + bytes(2 + 16)
        )

    def reverse(self) -> Route:
        """The other direction of the channel."""
        return Route(self.departure, self.arrival)

    @property
    def _growth(self) -> int:
        """What the UDP length gains by a ChannelData header; or loses."""
        return CHANNEL_HEADER * (bool(self.departure.channel) - bool(self.arrival.channel))

    def _udp_delta(self) -> int:
        """All but the length in the ChannelData header. The UDP length counts twice, for it is
        also in the pseudo-header."""
        old, new = ([*_addresses(w), w.local.port, w.remote.port, w.channel] for w in self._ways)
        return _sum([*new, *map(_complement, old), *[_signed(self._growth)] * 2])

    def _ip_delta(self) -> int:
        """For the header checksum of IPv4: the change, or all that is known of a new header."""
        if self.departure.version == 6:
            return 0
        addresses = _addresses(self.departure)
        if self.arrival.version == 6:
            return _sum([0x4500, 0x4000, UDP, *addresses])
        old = map(_complement, _addresses(self.arrival))
        return _sum([*addresses, *old, _signed(self._growth), _complement(0x0100)])

    @property
    def _ways(self) -> tuple[Way, Way]:
        return self.arrival, self.departure


def _packed(address: IPAddress) -> bytes:
    if isinstance(address, IPv4Address):
        return bytes(10) + b"\xff\xff" + address.packed
    return address.packed


def _addresses(way: Way) -> list[int]:
    both = way.local.address.packed + way.remote.address.packed
    return [*struct.unpack(f">{len(both) // 2}H", both)]


def _sum(words: Iterable[int]) -> int:
    """In one's complement; 0xFFFF for nothing, as the program's sums never become zero so."""
    return (sum(words) - 1) % 0xFFFF + 1


def _complement(word: int) -> int:
    return word ^ 0xFFFF


def _signed(change: int) -> int:
    return change if change >= 0 else _complement(-change)


def _raw(word: int) -> bytes:
    return struct.pack(">H", word)
