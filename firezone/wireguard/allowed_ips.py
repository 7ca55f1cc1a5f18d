"""Cryptokey routing (WireGuard paper, section 2): which peer a network belongs to.

Each network has at most one owner, and whoever is given it last has it. The longest network that
holds an address decides. A change tells whose traffic it can touch, so that just their flows are
decided anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Generic, TypeVar

from firezone.model import IPAddress

IPNetwork = IPv4Network | IPv6Network

T = TypeVar("T")


class AllowedIPs(Generic[T]):
    """Networks and their owners. A look-up tries the prefix lengths in use, longest first."""

    def __init__(self) -> None:
        self._owners: dict[tuple[int, int], dict[int, T]] = {}
        self._lengths: dict[int, list[int]] = {4: [], 6: []}
        self._networks: dict[T, dict[IPNetwork, None]] = {}

    def insert(self, network: IPNetwork, owner: T) -> T | None:
        """Give a network to an owner; returns whose traffic it was before, None = nobody's."""
        before = self._covering(network)
        bucket = self._bucket(network)
        previous = bucket.get(int(network.network_address))
        if previous is not None:
            self._forget(previous, network)
        bucket[int(network.network_address)] = owner
        self._networks.setdefault(owner, {})[network] = None
        return before

    def remove(self, network: IPNetwork, owner: T) -> bool:
        """Take a network from its owner. False if it is not that owner's."""
        bucket = self._owners.get((network.version, network.prefixlen), {})
        if bucket.get(int(network.network_address)) != owner:
            return False
        del bucket[int(network.network_address)]
        self._forget(owner, network)
        if not bucket:
            del self._owners[network.version, network.prefixlen]
            self._lengths[network.version].remove(network.prefixlen)
        return True

    def remove_all(self, owner: T) -> None:
        """Take every network from an owner."""
        for network in self.of(owner):
            self.remove(network, owner)

    def lookup(self, address: IPAddress) -> T | None:
        """The owner of the longest network that holds the address."""
        bits = 32 if isinstance(address, IPv4Address) else 128
        return self._lookup(address.version, int(address), bits, bits)

    def of(self, owner: T) -> tuple[IPNetwork, ...]:
        """The networks of an owner, in the order in which they were given."""
        return tuple(self._networks.get(owner, ()))

    def networks(self) -> Iterable[IPNetwork]:
        """Every network that has an owner."""
        return (network for owned in self._networks.values() for network in owned)

    def _covering(self, network: IPNetwork) -> T | None:
        number = int(network.network_address)
        return self._lookup(network.version, number, network.max_prefixlen, network.prefixlen)

    def _lookup(self, version: int, number: int, bits: int, longest: int) -> T | None:
        for length in self._lengths[version]:
            if length > longest:
                continue
            prefix = number >> (bits - length) << (bits - length)
            owner = self._owners[version, length].get(prefix)
            if owner is not None:
                return owner
        return None

    def _bucket(self, network: IPNetwork) -> dict[int, T]:
        version, length = network.version, network.prefixlen
        bucket = self._owners.get((version, length))
        if bucket is None:
            bucket = self._owners[version, length] = {}
            self._lengths[version] = sorted([*self._lengths[version], length], reverse=True)
        return bucket

    def _forget(self, owner: T, network: IPNetwork) -> None:
        owned = self._networks[owner]
        del owned[network]
        if not owned:
            del self._networks[owner]
