"""Longest-prefix match over networks, for tables that change rarely and miss rarely."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Generic, TypeVar

from firezone.model import IPAddress

IPNetwork = IPv4Network | IPv6Network

T = TypeVar("T")


class PrefixTable(Generic[T]):
    """Maps networks to values. A look-up tries the prefix lengths in use, longest first."""

    def __init__(self) -> None:
        self._values: dict[tuple[int, int], dict[int, T]] = {}
        self._lengths: dict[int, list[int]] = {4: [], 6: []}

    def insert(self, network: IPNetwork, value: T) -> None:
        version, length = network.version, network.prefixlen
        bucket = self._values.get((version, length))
        if bucket is None:
            bucket = self._values[version, length] = {}
            self._lengths[version] = sorted([*self._lengths[version], length], reverse=True)
        bucket[int(network.network_address)] = value

    def get(self, network: IPNetwork) -> T | None:
        """The value of exactly this network."""
        bucket = self._values.get((network.version, network.prefixlen), {})
        return bucket.get(int(network.network_address))

    def lookup(self, address: IPAddress) -> T | None:
        """The value of the longest network that holds the address."""
        return next(self.matches(address), None)

    def matches(self, address: IPAddress) -> Iterator[T]:
        """The values of all networks that hold the address, longest first."""
        bits = 32 if isinstance(address, IPv4Address) else 128
        number = int(address)
        for length in self._lengths[address.version]:
            prefix = number >> (bits - length) << (bits - length)
            value = self._values[address.version, length].get(prefix)
            if value is not None:
                yield value
