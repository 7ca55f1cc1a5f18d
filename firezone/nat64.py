"""Reaching IPv4 from a network that has IPv6 alone: NAT64 (RFC 6146) and its prefix.

The network's translator stands for all of IPv4 at one IPv6 prefix; an IPv4 address is embedded in
it as RFC 6052 section 2.2 says. Which prefix it is, the network's DNS tells (RFC 7050): it makes up
AAAA records for names that have none, so also for `ipv4only.arpa`, whose IPv4 addresses everybody
knows.

Such an answer is not authenticated. Whoever forges it learns and stops what we send to relays, and
no more: those messages are signed, and all data is WireGuard's. Still only prefixes count that a
network can have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from itertools import islice

from firezone.errors import LocalError

WELL_KNOWN_NAME = "ipv4only.arpa"
"""RFC 7050 section 8.2."""
WELL_KNOWN_ADDRESSES = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))
WELL_KNOWN_PREFIX = IPv6Network("64:ff9b::/96")
LENGTHS = (96, 64, 56, 48, 40, 32)
"""Of prefixes, in the order in which they are looked for."""
MAX_ANSWERS = 32
"""Addresses of one DNS answer that are looked at."""

_RESERVED_OCTET = 8
"""Zero in every address with an embedded one (RFC 6052 section 2.2)."""
_UNICAST = (IPv6Network("2000::/3"), IPv6Network("fc00::/7"), IPv6Network("64:ff9b:1::/48"))


@dataclass(frozen=True, slots=True)
class Prefix:
    """Where a translator stands for IPv4. Raises LocalError for what cannot be one."""

    network: IPv6Network

    def __post_init__(self) -> None:
        if not _is_plausible(self.network):
            raise LocalError(f"not a NAT64 prefix: {self.network}")

    def embed(self, address: IPv4Address) -> IPv6Address | None:
        """As whom the translator stands for `address`; None for one that it must not translate."""
        if not _is_translatable(address):
            return None
        if self.network == WELL_KNOWN_PREFIX and not address.is_global:
            return None  # RFC 6052 section 3.1
        packed = bytearray(self.network.network_address.packed)
        for octet, value in zip(_octets(self.network.prefixlen), address.packed, strict=True):
            packed[octet] = value
        return IPv6Address(bytes(packed))

    def extract(self, address: IPv6Address) -> IPv4Address | None:
        """The embedded address; None if `address` has none of this prefix."""
        return _extract(address, self.network.prefixlen) if address in self.network else None

    def __str__(self) -> str:
        return str(self.network)


def prefixes_of(answers: Iterable[IPv6Address]) -> list[Prefix]:
    """The prefixes that the addresses of `ipv4only.arpa` show, in their order (RFC 7050 section 3).

    An address in which a known one stands at more than one place shows nothing.
    """
    found: dict[Prefix, None] = {}
    for answer in islice(answers, MAX_ANSWERS):
        possible = list(_readings(answer))
        if len(possible) == 1 and _is_plausible(possible[0]):
            found[Prefix(possible[0])] = None
    return list(found)


def _readings(answer: IPv6Address) -> Iterator[IPv6Network]:
    for length in LENGTHS:
        if _extract(answer, length) in WELL_KNOWN_ADDRESSES:
            yield IPv6Network((answer, length), strict=False)


def _is_plausible(network: IPv6Network) -> bool:
    if network.prefixlen not in LENGTHS or network.network_address.packed[_RESERVED_OCTET]:
        return False
    return network == WELL_KNOWN_PREFIX or any(network.subnet_of(outer) for outer in _UNICAST)


def _is_translatable(address: IPv4Address) -> bool:
    """Whether it is an address of one host that another host can reach."""
    local = address.is_loopback or address.is_link_local or address.is_unspecified
    return not (local or address.is_multicast or address.is_reserved)


def _octets(length: int) -> list[int]:
    """Where the address stands behind a prefix of that length: octet 8 is left out."""
    return [octet for octet in range(length // 8, 16) if octet != _RESERVED_OCTET][:4]


def _extract(address: IPv6Address, length: int) -> IPv4Address:
    return IPv4Address(bytes(address.packed[octet] for octet in _octets(length)))
