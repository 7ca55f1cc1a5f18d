"""Our addresses as a relay tells them: where it sees us, and where it receives for us."""

from __future__ import annotations

from collections import deque

from firezone.model import Endpoint, IPAddress
from firezone.turn.events import (
    AllocationEvent,
    CandidateAdded,
    CandidateInvalidated,
    CandidateType,
)

_KINDS: tuple[CandidateType, ...] = ("host", "srflx", "relay")
_FAMILIES = (4, 6)


class Addresses:
    """At most one of each kind and family. What comes and goes is told by `events`."""

    def __init__(self, events: deque[AllocationEvent]) -> None:
        self._known: dict[tuple[CandidateType, int], CandidateAdded] = {}
        self._events = events

    def all(self) -> list[CandidateAdded]:
        """What we have now: host, then server-reflexive, then relayed; IPv4 first."""
        keys = ((kind, family) for kind in _KINDS for family in _FAMILIES)
        return [self._known[key] for key in keys if key in self._known]

    def relayed(self, family: int) -> Endpoint | None:
        """Ours on the relay."""
        known = self._known.get(("relay", family))
        return known.address if known is not None else None

    def is_seen(self, family: int) -> bool:
        """Whether the relay has told where it sees us."""
        return ("srflx", family) in self._known

    def handle_seen(self, local: Endpoint, mapped: Endpoint | None, *, translated: bool) -> None:
        """The relay's answer came to `local`, and says that it sees us at `mapped`. `translated`
        is whether a NAT64 may be on the way."""
        if not is_candidate(local):
            return
        self.set(CandidateAdded("host", local, base=local))
        if mapped is None or not is_candidate(mapped):
            return
        if translated or mapped.family == local.family:
            self.set(CandidateAdded("srflx", mapped, base=local))

    def set(self, candidate: CandidateAdded) -> None:
        """We have it, instead of the one of its kind and family if there was another."""
        key = (candidate.kind, candidate.address.family)
        old = self._known.get(key)
        if old == candidate:
            return
        self._known[key] = candidate
        self._events.append(candidate)
        if old is not None:
            self._events.append(CandidateInvalidated(old.kind, old.address, old.base))

    def clear(self) -> None:
        """None of them is ours any more."""
        for candidate in self.all():
            self._remove(candidate)

    def clear_relayed(self) -> None:
        """The relay does not receive for us any more."""
        for candidate in self.all():
            if candidate.kind == "relay":
                self._remove(candidate)

    def _remove(self, candidate: CandidateAdded) -> None:
        del self._known[candidate.kind, candidate.address.family]
        self._events.append(CandidateInvalidated(candidate.kind, candidate.address, candidate.base))


def is_candidate(endpoint: Endpoint) -> bool:
    """Whether others may be told of this address. Loopback is: whole networks run on one host."""
    address: IPAddress = endpoint.address
    if address.is_unspecified or address.is_multicast or endpoint.port == 0:
        return False
    is_broadcast = address.version == 4 and int(address) == 0xFFFFFFFF
    return not is_broadcast and not (address.version == 4 and address.is_link_local)
