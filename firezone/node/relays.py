"""The relays that this node may use, each with its allocation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from firezone.model import Endpoint, Entropy, RelayId
from firezone.turn import Allocation, RelayServer

REALM = "firezone"


@dataclass(frozen=True, slots=True)
class Relay:
    """A relay as the portal names it. One relay may have an address of each family."""

    id: RelayId
    server: RelayServer
    username: str
    password: str = field(repr=False)


class Relays:
    """Allocations by relay id."""

    def __init__(self, *, software: str, entropy: Entropy) -> None:
        self._software = software
        self._entropy = entropy
        self._allocations: dict[RelayId, Allocation] = {}
        self._relays: dict[RelayId, Relay] = {}

    def __iter__(self) -> Iterator[tuple[RelayId, Allocation]]:
        return iter(tuple(self._allocations.items()))

    def __len__(self) -> int:
        return len(self._allocations)

    def __contains__(self, relay: object) -> bool:
        return relay in self._allocations

    def get(self, relay: RelayId) -> Allocation | None:
        return self._allocations.get(relay)

    def remove(self, relay: RelayId) -> Allocation | None:
        self._relays.pop(relay, None)
        return self._allocations.pop(relay, None)

    def unchanged(self, relay: Relay) -> bool:
        """Whether we have it, with the same sockets and credentials."""
        return self._relays.get(relay.id) == relay

    def add(self, relay: Relay, now: int) -> None:
        self._relays[relay.id] = relay
        self._allocations[relay.id] = Allocation(
            server=relay.server,
            username=relay.username,
            password=relay.password,
            realm=REALM,
            software=self._software,
            entropy=self._entropy,
            now=now,
        )

    def draw(self) -> RelayId | None:
        """One at random."""
        if not self._allocations:
            return None
        ids = sorted(self._allocations)
        return ids[int.from_bytes(self._entropy(4), "big") % len(ids)]

    def at(self, source: Endpoint) -> Allocation | None:
        """The allocation whose server sends from here."""
        return next((a for a in self._allocations.values() if a.matches(source)), None)

    def owning(self, address: Endpoint) -> Allocation | None:
        """The allocation that this relayed address belongs to."""
        return next(
            (a for a in self._allocations.values() if address in a.relayed_addresses()), None
        )

    def refresh(self, named: Iterable[RelayId], now: int) -> None:
        """Probe every allocation that was not just named: it may have died with its relay."""
        skip = set(named)
        for relay, allocation in self._allocations.items():
            if relay not in skip:
                allocation.refresh(now)
