"""The relays that this node may use, each with its allocation, or two while it moves to UDP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from statistics import median

from firezone.durations import MILLISECOND
from firezone.model import Endpoint, Entropy, RelayId
from firezone.nat64 import Prefix
from firezone.node.fallback import Fallback
from firezone.turn import Allocation, RelayServer

REALM = "firezone"
NOISE = 2 * MILLISECOND
"""Round trips that differ by less are alike."""


@dataclass(frozen=True, slots=True)
class Relay:
    """A relay as the portal names it. One relay may have an address of each family."""

    id: RelayId
    server: RelayServer
    username: str
    password: str = field(repr=False)


@dataclass(slots=True)
class Link:
    """One relay and our allocations on it: over UDP, and over a stream where UDP is blocked."""

    relay: Relay
    server: RelayServer
    """Where it is reached from this network, which may be through a NAT64."""
    fallback: Fallback
    udp: Allocation | None = None
    """None while UDP is known not to work; it is tried anew at `udp_retry_at`."""
    stream: Allocation | None = None
    udp_retry_at: int = 0

    @property
    def allocations(self) -> tuple[Allocation, ...]:
        return tuple(a for a in (self.udp, self.stream) if a is not None)

    @property
    def answers(self) -> bool:
        return any(allocation.active_socket is not None for allocation in self.allocations)


def nearest(round_trips: Mapping[RelayId, int]) -> list[RelayId]:
    """Relays that are no detour: of three or more, all but those that stand out; of two, the other
    one if it is not much farther."""
    trips = sorted(round_trips.values())
    if not trips:
        return []
    limit = trips[0] * 3 / 2
    if len(trips) > 2:
        middle = median(trips)
        limit = middle + 3 * max(median(abs(trip - middle) for trip in trips), NOISE)
    return [relay for relay, trip in round_trips.items() if trip <= limit]


class Relays:
    """Links by relay id."""

    def __init__(self, *, software: str, entropy: Entropy) -> None:
        self._software = software
        self._entropy = entropy
        self.removals = 0
        """How many were ever removed: who looks for those that are gone need not look again."""
        self._links: dict[RelayId, Link] = {}
        self.nat64: Prefix | None = None
        """Where this network, which has IPv6 alone, translates to IPv4."""

    def __iter__(self) -> Iterator[tuple[RelayId, Allocation]]:
        """Every allocation, with its relay's id."""
        for relay_id, link in self.links():
            for allocation in link.allocations:
                yield relay_id, allocation

    def __len__(self) -> int:
        return len(self._links)

    def __contains__(self, relay: object) -> bool:
        return relay in self._links

    def links(self) -> tuple[tuple[RelayId, Link], ...]:
        return tuple(self._links.items())

    def get(self, relay: RelayId) -> Link | None:
        return self._links.get(relay)

    def remove(self, relay: RelayId) -> Link | None:
        self.removals += 1
        return self._links.pop(relay, None)

    def unchanged(self, relay: Relay) -> bool:
        """Whether we have it, with the same sockets and credentials."""
        link = self._links.get(relay.id)
        return link is not None and link.relay == relay

    def add(self, relay: Relay, now: int) -> None:
        """Raises LocalError for credentials that STUN cannot bear."""
        server = self.reached_at(relay)
        udp = self.allocate(relay, server, now)
        self._links[relay.id] = Link(relay, server, Fallback(now), udp)

    def reached_at(self, relay: Relay) -> RelayServer:
        """Where a relay is reached now: its IPv6 address is better than what a NAT64 makes up."""
        v4 = relay.server.ipv4
        if self.nat64 is None or v4 is None or relay.server.ipv6 is not None:
            return relay.server
        address = self.nat64.embed(IPv4Address(v4.address))
        if address is None:
            return relay.server
        return RelayServer(ipv6=Endpoint(address, v4.port), is_translated=True)

    def allocate(
        self, relay: Relay, server: RelayServer, now: int, *, over_stream: bool = False
    ) -> Allocation:
        """An allocation on this relay, which is reached at `server`."""
        return Allocation(
            server=server,
            username=relay.username,
            password=relay.password,
            realm=REALM,
            software=self._software,
            entropy=self._entropy,
            over_stream=over_stream,
            now=now,
        )

    def answers_over_udp(self) -> bool:
        """Whether any relay does."""
        links = self._links.values()
        return any(k.udp is not None and k.udp.active_socket is not None for k in links)

    def draw(self) -> RelayId | None:
        """One at random of those that are near; of all, while none is known to be."""
        return self._pick(nearest(self.round_trips()) or self._links)

    def draw_other(self, relay: RelayId) -> RelayId | None:
        """One that answers, near like the others, and is not this one."""
        others = {other: trip for other, trip in self.round_trips().items() if other != relay}
        return self._pick(nearest(others))

    def _pick(self, relays: Iterable[RelayId]) -> RelayId | None:
        ids = sorted(relays)
        return ids[int.from_bytes(self._entropy(4), "big") % len(ids)] if ids else None

    def round_trips(self) -> dict[RelayId, int]:
        """Of the relays that answer, in nanoseconds."""
        measured: dict[RelayId, int] = {}
        for relay_id, link in self._links.items():
            trips = [a.round_trip for a in link.allocations if a.round_trip is not None]
            if trips:
                measured[relay_id] = min(trips)
        return measured

    def at(self, source: Endpoint) -> Allocation | None:
        """The allocation whose server sends from here."""
        return next((a for _, a in self if a.matches(source)), None)

    def owning(self, address: Endpoint) -> Allocation | None:
        """The allocation that this relayed address belongs to."""
        return next((a for _, a in self if address in a.relayed_addresses()), None)

    def refresh(self, named: Iterable[RelayId], now: int) -> None:
        """Probe every allocation that was not just named: it may have died with its relay."""
        skip = set(named)
        for relay_id, allocation in self:
            if relay_id not in skip:
                allocation.refresh(now)
