"""The resources that a client may ask for, and which one a destination belongs to.

The longest prefix wins. Of two resources on the same network the one that has a gateway already
keeps it, else the higher id wins, so that every client decides alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from firezone.model import IPAddress, ResourceId, SiteId
from firezone.policy.prefixes import IPNetwork, PrefixTable


@dataclass(frozen=True, slots=True)
class CidrResource:
    """A network that clients reach through the gateways of its sites."""

    id: ResourceId
    name: str
    network: IPNetwork
    sites: tuple[SiteId, ...] = ()


class ResourceTable:
    """Resources by id, and by destination. `is_connected` says which ones have a gateway."""

    def __init__(self, is_connected: Callable[[ResourceId], bool]) -> None:
        self._is_connected = is_connected
        self._resources: dict[ResourceId, CidrResource] = {}
        self._table: PrefixTable[CidrResource] = PrefixTable()

    def replace(self, resources: Iterable[CidrResource]) -> list[ResourceId]:
        """Take these and no others. Names those that are gone or moved to another network."""
        new = {r.id: r for r in resources}
        gone = [
            r.id
            for r in self._resources.values()
            if r.id not in new or new[r.id].network != r.network
        ]
        self._resources = new
        self.rebuild()
        return gone

    def put(self, resource: CidrResource) -> bool:
        """Add or change one. True if it moved to another network: its old flows must end."""
        old = self._resources.get(resource.id)
        self._resources[resource.id] = resource
        self.rebuild()
        return old is not None and old.network != resource.network

    def remove(self, resource: ResourceId) -> bool:
        known = self._resources.pop(resource, None) is not None
        self.rebuild()
        return known

    def rebuild(self) -> None:
        """Decide anew who owns each network; call it when a resource gets or loses its gateway."""
        table: PrefixTable[CidrResource] = PrefixTable()
        for resource in sorted(self._resources.values(), key=lambda r: r.id):
            owner = table.get(resource.network)
            if owner is None or not self._is_connected(owner.id):
                table.insert(resource.network, resource)
        self._table = table

    def lookup(self, address: IPAddress) -> CidrResource | None:
        return self._table.lookup(address)

    def get(self, resource: ResourceId) -> CidrResource | None:
        return self._resources.get(resource)

    def networks(self) -> frozenset[IPNetwork]:
        return frozenset(r.network for r in self._resources.values())

    def __iter__(self) -> Iterator[CidrResource]:
        return iter(sorted(self._resources.values(), key=lambda r: (r.name, r.id)))
