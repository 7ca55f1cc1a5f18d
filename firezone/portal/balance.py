"""Which gateway serves a flow, and which relays a peer is told of."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, TypeVar

from firezone.model import Entropy

Version = tuple[int, int, int]
RELAYS_PER_PEER = 2

T = TypeVar("T")


class Candidate(Protocol):
    """A gateway that is online."""

    @property
    def id(self) -> str: ...
    @property
    def version(self) -> Version: ...


G = TypeVar("G", bound=Candidate)


def compatible(client: Version, gateway: Version) -> bool:
    """Clients from 1.4 on speak only to gateways from 1.4 on, those from 1.1 on likewise."""
    for generation in ((1, 4, 0), (1, 1, 0)):
        if client >= generation:
            return gateway >= generation
    return True


def choose_gateway(
    gateways: Iterable[G], client: Version, connected: Collection[str], entropy: Entropy
) -> G | None:
    """One that fits: preferably connected to the client already, then newest, then at random.

    Versions compare as numbers: 1.4.15 is newer than 1.4.9.
    """
    fitting = [gateway for gateway in gateways if compatible(client, gateway.version)]
    fitting = [gateway for gateway in fitting if gateway.id in connected] or fitting
    newest = max((gateway.version for gateway in fitting), default=None)
    return pick([gateway for gateway in fitting if gateway.version == newest], entropy)


def choose_relays(relays: Sequence[T], kept: Sequence[T], entropy: Entropy) -> list[T]:
    """Up to two: those the peer has already, topped up at random."""
    chosen = list(kept[:RELAYS_PER_PEER])
    others = [relay for relay in relays if relay not in chosen]
    while others and len(chosen) < RELAYS_PER_PEER:
        chosen.append(others.pop(_below(len(others), entropy)))
    return chosen


def pick(candidates: Sequence[T], entropy: Entropy) -> T | None:
    """One at random."""
    return candidates[_below(len(candidates), entropy)] if candidates else None


def _below(limit: int, entropy: Entropy) -> int:
    return int.from_bytes(entropy(8), "big") % limit
