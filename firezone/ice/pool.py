"""The candidates of one agent: live ones, and invalidated ones that are remembered.

An invalidated candidate keeps its priority, so that it comes back as what the peer knew, and a
peer's request from an invalidated address is recognised as not wanted any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from firezone.ice.candidate import Candidate, CandidateKind, local_preference, priority_of
from firezone.model import Endpoint

MAX_CANDIDATES = 100
"""Live candidates of one agent; more of them could not be paired."""

_MAX_INVALIDATED = 100


class CandidatePool:
    """Candidates in the order they came. `live` is for reading only."""

    def __init__(self) -> None:
        self.live: list[Candidate] = []
        self.was_filled = False
        """Whether there ever was a candidate."""
        self._invalidated: deque[Candidate] = deque(maxlen=_MAX_INVALIDATED)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.live)

    @property
    def is_full(self) -> bool:
        return len(self.live) >= MAX_CANDIDATES

    def add(self, candidate: Candidate) -> None:
        self.was_filled = True
        self.live.append(candidate)

    def replace(self, old: Candidate, new: Candidate) -> None:
        self.live[self.live.index(old)] = new

    def remove(self, candidate: Candidate) -> None:
        """Forget a live candidate altogether."""
        self.live.remove(candidate)

    def find(self, candidate: Candidate) -> Candidate | None:
        """The live candidate that `candidate` names."""
        return next((c for c in self.live if c.is_same(candidate)), None)

    def best_at(self, address: Endpoint, *kinds: CandidateKind) -> Candidate | None:
        """The live candidate of the highest priority at this address, of these kinds if given."""
        matching = (c for c in self.live if c.address == address and (not kinds or c.kind in kinds))
        return max(matching, key=lambda c: c.priority, default=None)

    def best_on_host(self, address: Endpoint, kind: CandidateKind) -> Candidate | None:
        """The live candidate of this kind and of the highest priority, whatever its port is."""
        host = address.address
        matching = (c for c in self.live if c.address.address == host and c.kind is kind)
        return max(matching, key=lambda c: c.priority, default=None)

    def invalidate(self, candidate: Candidate) -> Candidate | None:
        """Retire the live candidate that `candidate` names and return it, if there is one."""
        known = self.find(candidate)
        if known is not None:
            self.live.remove(known)
            self._invalidated.append(known)
        return known

    def is_invalidated(self, address: Endpoint) -> bool:
        return any(c.address == address for c in self._invalidated)

    def take_invalidated(self, candidate: Candidate) -> Candidate | None:
        """The invalidated candidate that `candidate` names; it is forgotten here."""
        known = next((c for c in self._invalidated if c.is_same(candidate)), None)
        if known is not None:
            self._invalidated.remove(known)
        return known

    def rank(self, candidate: Candidate) -> Candidate:
        """A new local candidate with the priority it gets after all that are known.

        No two of a kind share one: a signaller may take them for the same candidate.
        """
        known = [*self.live, *self._invalidated]
        taken = {c.priority for c in known}
        rank = sum(c.kind is candidate.kind and c.family == candidate.family for c in known)
        while True:
            preference = local_preference(candidate, rank)
            priority = priority_of(candidate.kind, preference)
            if priority not in taken or preference == 0:
                return replace(candidate, priority=priority)
            rank += 1
