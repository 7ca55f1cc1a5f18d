"""What one client may reach through a gateway.

The portal grants resources; each grant has the resource's filters and perhaps an expiry in wall
time. A destination is permitted if the union of the filters of all granted resources that contain
it permits it, so the rules of a larger network apply inside a smaller one as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from firezone.model import IPAddress, ResourceId
from firezone.policy.filter import Filter, permitted
from firezone.policy.prefixes import IPNetwork


@dataclass(frozen=True, slots=True)
class Grant:
    """One resource that a client may reach. `expires_at` is in unix seconds; None is for ever."""

    resource: ResourceId
    network: IPNetwork
    filters: tuple[Filter, ...] = ()
    expires_at: int | None = None

    def live(self, unix_seconds: int) -> bool:
        return self.expires_at is None or self.expires_at > unix_seconds


class Refusal(Enum):
    """Why a packet may not pass."""

    NO_GRANT = "no grant for the destination"
    FILTERED = "protocol or port not permitted"


@dataclass(frozen=True, slots=True)
class Decision:
    """`refusal` is None if the packet may pass, then until `expires_at` (unix s; None: for ever).

    `resource` is the one that decides: the longest granted network.
    """

    refusal: Refusal | None
    resource: ResourceId | None = None
    expires_at: int | None = None


class Access:
    """The grants of one client."""

    def __init__(self) -> None:
        self._grants: dict[ResourceId, Grant] = {}

    def authorize(self, grant: Grant) -> None:
        """Add or renew a grant; the newest word of the portal stands, its expiry included."""
        self._grants[grant.resource] = grant

    def revoke(self, resource: ResourceId) -> bool:
        """True if it was granted."""
        return self._grants.pop(resource, None) is not None

    def retain(self, resources: Iterable[ResourceId]) -> bool:
        """Revoke all but these. True if that changed anything."""
        keep = set(resources)
        gone = [r for r in self._grants if r not in keep]
        for resource in gone:
            del self._grants[resource]
        return bool(gone)

    def set_expiry(self, resource: ResourceId, expires_at: int | None) -> bool:
        """True if that changed a grant."""
        grant = self._grants.get(resource)
        if grant is None or grant.expires_at == expires_at:
            return False
        self._grants[resource] = replace(grant, expires_at=expires_at)
        return True

    def set_filters(self, resource: ResourceId, filters: tuple[Filter, ...]) -> bool:
        """True if that changed a grant."""
        grant = self._grants.get(resource)
        if grant is None or grant.filters == filters:
            return False
        self._grants[resource] = replace(grant, filters=filters)
        return True

    def expire(self, unix_seconds: int) -> list[ResourceId]:
        """Drop the grants whose time has come, and name them."""
        gone = [r for r, grant in self._grants.items() if not grant.live(unix_seconds)]
        for resource in gone:
            del self._grants[resource]
        return gone

    def next_expiry(self) -> int | None:
        """In unix seconds."""
        times = [g.expires_at for g in self._grants.values() if g.expires_at is not None]
        return min(times, default=None)

    def decide(self, address: IPAddress, protocol: int, port: int, unix_seconds: int) -> Decision:
        """Whether a packet to `address` and `port` may pass. ICMP has no port: give 0."""
        matching = [
            g
            for g in self._grants.values()
            if g.network.version == address.version
            and address in g.network
            and g.live(unix_seconds)
        ]
        if not matching:
            return Decision(Refusal.NO_GRANT)
        best = max(matching, key=lambda g: g.network.prefixlen)
        permitting = [g for g in matching if permitted(g.filters, protocol, port)]
        if not permitting:
            return Decision(Refusal.FILTERED, best.resource)
        return Decision(None, best.resource, _latest([g.expires_at for g in permitting]))

    def __iter__(self) -> Iterator[ResourceId]:
        return iter(self._grants)

    def __contains__(self, resource: object) -> bool:
        return resource in self._grants

    def __bool__(self) -> bool:
        return bool(self._grants)


def _latest(expiries: list[int | None]) -> int | None:
    """The time from which none of several grants holds any more."""
    times = [e for e in expiries if e is not None]
    return max(times) if len(times) == len(expiries) else None
