"""The checklist: the pairs of one agent and their checks in flight (RFC 8445 section 6.1.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from firezone.ice.candidate import Candidate, CandidateKind
from firezone.ice.pair import Check, CheckState, Nomination, Pair, pair_priority
from firezone.ice.timing import StunTiming
from firezone.model import Endpoint

MAX_PAIRS = 100
"""RFC 8445 section 6.1.2.5."""

LOST_CAUSE_TRIES = 12
"""What a Client gives a pair in any case. The Gateway's long patience is for a path that worked and
may come back; a pair that never has is checked anew when a candidate of it is signalled again."""

Reaches = Callable[[Endpoint, Endpoint], bool]
"""Whether what we send from that base to that address can get anywhere."""

_PAIRED_LOCAL_KINDS = (CandidateKind.HOST, CandidateKind.RELAYED)


class Checklist:
    """At most one pair for each of our bases and the peer's addresses."""

    def __init__(self, controlling: bool, reaches: Reaches = lambda base, address: True) -> None:
        self.controlling = controlling
        self._reaches = reaches
        self._pairs: dict[tuple[Endpoint, Endpoint], Pair] = {}
        self._checks: dict[bytes, Check] = {}

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs.values())

    def __contains__(self, pair: Pair) -> bool:
        return self._pairs.get(pair.key) is pair

    def pair_at(self, base: Endpoint, address: Endpoint) -> Pair | None:
        return self._pairs.get((base, address))

    def viable(self) -> Iterator[Pair]:
        return (pair for pair in self if pair.is_viable)

    def form(self, locals_: Iterable[Candidate], remotes: Iterable[Candidate], now: int) -> None:
        """Pair each local candidate with each remote one of its family.

        Reflexive local candidates are left out: one sends from their base anyway. Of two candidates
        on one path the pair takes that of the higher priority.
        """
        for local in locals_:
            if local.kind in _PAIRED_LOCAL_KINDS:
                for remote in remotes:
                    if local.family == remote.family and self._reaches(local.base, remote.address):
                        self._form_one(local, remote, now)

    def drop(self, candidate: Candidate) -> None:
        """Remove the pairs of a candidate, local or remote."""
        for pair in list(self):
            if candidate in (pair.local, pair.remote):
                self.remove(pair)

    def remove(self, pair: Pair) -> None:
        del self._pairs[pair.key]
        self._forget(pair.checks())

    def replace_remote(self, old: Candidate, new: Candidate) -> None:
        """The remote candidate turned out to be another one at the same address."""
        for pair in self:
            if pair.remote == old:
                pair.upgrade(pair.local, new, self.controlling)

    def change_role(self, controlling: bool) -> None:
        self.controlling = controlling
        for pair in self:
            pair.change_role(controlling)

    def check_of(self, transaction_id: bytes) -> Check | None:
        """The check that still waits for an answer with this transaction id."""
        return self._checks.get(transaction_id)

    def sent(self, pair: Pair, transaction_id: bytes, timing: StunTiming, now: int) -> None:
        check, old = pair.record_sent(transaction_id, self.controlling, timing, now)
        self._checks[transaction_id] = check
        self._forget(old)

    def probed(self, pair: Pair, transaction_id: bytes, now: int) -> None:
        check, old = pair.record_probe(transaction_id, self.controlling, now)
        self._checks[transaction_id] = check
        self._forget(old)

    def answered(self, check: Check, valid_local: Candidate, now: int) -> None:
        del self._checks[check.transaction_id]
        check.pair.record_answered(check, valid_local, now)

    def refused(self, check: Check) -> None:
        """An error response ends the transaction; for the pair it is no answer."""
        del self._checks[check.transaction_id]

    def due(self, timing: StunTiming, now: int) -> list[Pair]:
        """Pairs to check now: a nomination first, then the longest due, then by priority."""
        due = []
        for pair in self:
            deadline = pair.deadline(timing)
            if deadline is not None and deadline <= now:
                nominated = pair.nomination is Nomination.NOMINATED
                due.append((not nominated, deadline, -pair.priority, pair))
        return [pair for *_, pair in sorted(due, key=lambda entry: entry[:3])]

    def next_deadline(self, timing: StunTiming) -> int | None:
        deadlines = (pair.deadline(timing) for pair in self)
        return min((d for d in deadlines if d is not None), default=None)

    def exhausted(self, nominated: Pair | None, timing: StunTiming, now: int) -> list[Pair]:
        """Pairs that are due and whose checks have been in vain for long enough."""
        due = self.due(timing, now)
        return [pair for pair in due if pair.is_exhausted(_tries(pair, nominated, timing))]

    def fail(self, pair: Pair, now: int) -> None:
        self._forget(pair.fail(now))

    def _form_one(self, local: Candidate, remote: Candidate, now: int) -> None:
        existing = self.pair_at(local.base, remote.address)
        if existing is None:
            pair = Pair(local, remote, self.controlling, now)
            self._pairs[pair.key] = pair
            self._limit()
        elif existing.priority < pair_priority(local, remote, self.controlling):
            existing.upgrade(local, remote, self.controlling)

    def _limit(self) -> None:
        """Drop a pair of too many: a failed one first and a working one last, else the worst of the
        most frequent kinds, so that many addresses of two hosts leave the relays their place."""
        if len(self._pairs) > MAX_PAIRS:
            crowds = Counter(_kinds(pair) for pair in self)
            self.remove(min(self, key=lambda pair: _worth(pair, crowds)))

    def _forget(self, checks: Iterable[Check]) -> None:
        for check in checks:
            self._checks.pop(check.transaction_id, None)


def _tries(pair: Pair, nominated: Pair | None, timing: StunTiming) -> int:
    """With another pair in use, one that never worked is not worth the patience of one that did."""
    is_lost_cause = nominated not in (None, pair) and pair.never_worked
    return min(timing.tries, LOST_CAUSE_TRIES) if is_lost_cause else timing.tries


def _kinds(pair: Pair) -> tuple[CandidateKind, CandidateKind]:
    return pair.local.kind, pair.remote.kind


def _worth(
    pair: Pair, crowds: Counter[tuple[CandidateKind, CandidateKind]]
) -> tuple[bool, bool, int, int]:
    works = pair.state is CheckState.SUCCEEDED
    return works, pair.is_viable, -crowds[_kinds(pair)], pair.priority
