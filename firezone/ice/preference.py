"""Which of several working pairs the controlling agent uses.

Priority decides, but of direct pairs of one kind it only tells one interface or family from another
by the order they were found in. Among those the round trip counts, as the checks measure it: a pair
takes over when it is faster by a margin, and gives way to a higher priority when half of that is
gone. Not before both are measured a few times, and not soon after the last move. A relay is never
chosen for its speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from firezone.durations import MILLISECOND, SECOND
from firezone.ice.candidate import Candidate, CandidateKind
from firezone.ice.pair import Pair, Tally

MARGIN = 10 * MILLISECOND
MARGIN_PERCENT = 20
MIN_ANSWERS = 4
DWELL = 10 * SECOND
"""How long a choice stands at least, before speed alone changes it."""

_TIERS = {
    CandidateKind.HOST: 0,
    CandidateKind.PEER_REFLEXIVE: 1,
    CandidateKind.SERVER_REFLEXIVE: 1,
}


class Measured(Protocol):
    """A pair, or the report on one."""

    @property
    def local(self) -> Candidate: ...
    @property
    def remote(self) -> Candidate: ...
    @property
    def round_trip(self) -> int | None: ...
    @property
    def tally(self) -> Tally: ...


def rank(pair: Pair) -> tuple[bool, int]:
    """What decides first."""
    return not pair.is_distrusted, pair.priority


def prefer(working: Sequence[Pair], current: Pair | None, moved_at: int, now: int) -> Pair | None:
    """The pair to use of those that work; `current` has been in use since `moved_at`."""
    best = max(working, key=rank, default=None)
    if best is None:
        return None
    rivals = [p for p in working if p.is_distrusted == best.is_distrusted and are_rivals(p, best)]
    holder = current if current is not None and current in rivals else best
    if holder is not best and not is_faster(holder, best, share=2):
        return best
    fastest = min(rivals, key=lambda pair: pair.round_trip or 0, default=holder)
    if now - moved_at >= DWELL and is_faster(fastest, holder):
        return fastest
    return holder


def are_rivals(a: Measured, b: Measured) -> bool:
    """Whether both are direct pairs of the same kinds."""
    kinds = _kinds(a)
    return kinds is not None and kinds == _kinds(b)


def is_faster(a: Measured, b: Measured, *, share: int = 1) -> bool:
    """Whether `a` is faster by the margin, or by half of it with a `share` of 2."""
    if a.round_trip is None or b.round_trip is None:
        return False
    if min(a.tally.answered, b.tally.answered) < MIN_ANSWERS:
        return False
    margin = max(MARGIN, b.round_trip * MARGIN_PERCENT // 100) // share
    return a.round_trip + margin <= b.round_trip


def _kinds(pair: Measured) -> tuple[int, ...] | None:
    """The worse tier and the better one; None if an end is a relay."""
    ends = (pair.local, pair.remote)
    if not all(end.is_direct for end in ends):
        return None
    return tuple(sorted((_TIERS[end.kind] for end in ends), reverse=True))
