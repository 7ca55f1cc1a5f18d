"""A handshake over ways that nobody has checked yet, so that data need not wait for ICE.

As soon as a pair exists, the controlling side sends its initiation over it, and repeats it while
nobody answers. Pairs that involve a relay gain most: they often work at once, and ICE needs several
round trips to tell. The peer answers where the initiation came from. The first pair on which the
handshake completes carries data until ICE nominates one. A peer that knows nothing of this drops a
message from an address it does not know, or keeps its answer until ICE has nominated. So the
initiation is repeated once more then, and nothing is slower than without.

The peer's NAT lets nothing in, nor does its relay, before the peer has heard of our candidates. How
long that takes, the portal's answer to us has told. So that an initiation arrives as soon as it can
pass, they are sent closely before and at that moment: a relay's round trip before, for those that
have two hops to go and meet a NAT; half of it before, for one hop; and then, for those that have to
arrive at a relay after the peer has asked it for a channel. And when a check of the peer comes over
a way, it is open, and the initiation goes over it at once.

Only handshake messages go to unchecked addresses, a few, and an answer is shorter than what it
answers. A pair carries data only once the handshake was authenticated on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Generic, TypeVar

from firezone.durations import MILLISECOND, SECOND
from firezone.ice import CandidateKind, Nominated
from firezone.model import Endpoint, Timeout

GAPS = tuple(n * MILLISECOND for n in (25, 25, 25, 25, 50, 150, 300, 600, 1200))
"""Between one initiation and the next. Eight within a second, so that even all ways together stay
below the hundred that a peer takes in that time before it asks for cookies."""
STEPS = 4
"""In which the round trip of a relay is divided. The first initiation, those at each step and the
one after, and one for a way that opens are eight within a second, too."""
MIN_ROUND_TRIP = 20 * MILLISECOND
"""Clocks and queues are not more exact than a quarter of it."""
LATER_GAPS = (1_000 * MILLISECOND, 1_200 * MILLISECOND)
MAX_RELAYED, MAX_DIRECT = 8, 4
"""Ways of one connection: a peer may count every initiation towards its limit of handshakes."""
REMEMBERED_FOR = 10 * SECOND
MAX_REMEMBERED = 256
MAX_REPEATS = (MAX_RELAYED + MAX_DIRECT) * (len(GAPS) + 2)
"""How often one initiation is answered: as often as it may come."""

Way = tuple[Endpoint, Endpoint]
"""Our base and the peer's address."""
_Lane = tuple[Endpoint | int, Endpoint | int]
"""Of what our host's addresses of a family lead to, and what leads to the peer's, one way is tried.
The best of them are those that face the internet; a dozen others must not keep out all the rest."""
T = TypeVar("T")
_MAC2_SIZE = 16


@dataclass(slots=True)
class FastStart:
    """The ways that the initiation was sent over, and when it is sent over them again."""

    began_at: int
    times: tuple[int, ...] = ()
    """When it is repeated; by `GAPS` if nothing is known."""
    tried: dict[Way, bool] = field(default_factory=dict)
    """And whether they are direct."""
    lanes: set[_Lane] = field(default_factory=set)
    opened: dict[Way, bool] = field(default_factory=dict)
    """Ways that the peer came over, and whether the initiation has been sent there since."""
    repeats: int = 0

    def __post_init__(self) -> None:
        self.times = self.times or tuple(self.began_at + after for after in accumulate(GAPS))

    def take_due(self, pairs: Iterable[Nominated], now: int) -> list[Way]:
        """Where to send the initiation now: on a new way at once, on all when it is time."""
        fresh, known = [], []
        for pair in pairs:
            way = pair.local.base, pair.remote.address
            if way in self.tried:
                known.append(way)
            elif self._admits(pair):
                self.tried[way] = pair.is_direct
                self.lanes.add(_lane(pair))
                fresh.append(way)
        due = self._next_at()
        if due is None or now < due:
            return [*fresh, *self._take_opened()]
        while due is not None and due <= now:
            self.repeats += 1
            due = self._next_at()
        return [*fresh, *known]

    def handle_opened(self, way: Way) -> None:
        """The peer came over this way."""
        if way in self.tried:
            self.opened.setdefault(way, False)

    def poll_timeout(self) -> Timeout | None:
        due = self._next_at()
        return None if due is None else Timeout(due, "fast start")

    @property
    def is_over(self) -> bool:
        """Whether the initiation is not repeated any more."""
        return self.repeats >= len(self.times)

    def _take_opened(self) -> list[Way]:
        fresh = [way for way, is_used in self.opened.items() if not is_used]
        self.opened.update(dict.fromkeys(fresh, True))
        return fresh

    def _admits(self, pair: Nominated) -> bool:
        if _lane(pair) in self.lanes:
            return False
        direct = pair.is_direct
        tried = sum(is_direct is direct for is_direct in self.tried.values())
        return tried < (MAX_DIRECT if direct else MAX_RELAYED)

    def _next_at(self) -> int | None:
        return None if self.is_over else self.times[self.repeats]


def plan(now: int, heard_of_at: int, round_trip: int) -> tuple[int, ...]:
    """When to repeat what is sent now, if the peer hears of us at that time, and a relay is that
    far away (ns)."""
    step = max(round_trip, MIN_ROUND_TRIP) // STEPS
    close = (heard_of_at - n * step for n in range(STEPS, -2, -1))
    times = [at for at in close if at > now]
    last = times[-1] if times else now
    return (*times, *(last + after for after in accumulate(LATER_GAPS)))


def _lane(pair: Nominated) -> _Lane:
    local, remote = pair.local, pair.remote
    ours = local.base if local.kind is CandidateKind.RELAYED else local.family
    theirs = remote.family if remote.kind is CandidateKind.HOST else remote.address
    return ours, theirs


@dataclass(slots=True)
class _Answer(Generic[T]):
    owner: T
    message: bytes = field(repr=False)
    at: int
    repeats: int = 0


class Answered(Generic[T]):
    """Initiations that were answered lately, and how: the same one may come over several ways, and
    the tunnel takes it once only. `T` is whose they are."""

    def __init__(self) -> None:
        self._answers: dict[bytes, _Answer[T]] = {}

    def note(self, initiation: bytes, owner: T, answer: bytes, now: int) -> None:
        self._answers[initiation[:-_MAC2_SIZE]] = _Answer(owner, answer, now)
        if len(self._answers) > MAX_REMEMBERED:
            del self._answers[next(iter(self._answers))]

    def answer_to(self, initiation: bytes, now: int) -> tuple[T, bytes] | None:
        """The same bytes but for mac2, which proves only where they come from."""
        known = self._answers.get(initiation[:-_MAC2_SIZE])
        if known is None or now - known.at > REMEMBERED_FOR or known.repeats >= MAX_REPEATS:
            return None
        known.repeats += 1
        return known.owner, known.message

    def clear(self) -> None:
        self._answers.clear()
