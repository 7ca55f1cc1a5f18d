"""A candidate pair and the connectivity checks made on it (RFC 8445 sections 6.1.2 and 7.2).

A pair is a path: our base and the peer's address. It is WAITING until its first check is sent,
IN_PROGRESS until one is answered, then SUCCEEDED until none of the last few is answered: FAILED. A
failed pair costs nothing but stays known, so that the peer's next request, or its candidate
signalled once more, gives it another chance.

A pair stores its last checks, as many as may go unanswered, and derives from them when the next one
is due. With n checks in the record, the next is due `delay(n)` after the last, so the checks of a
new pair grow rarer until they come every `maximum`. Once checks have gone unanswered for more than
half of `maximum`, n counts only those: the checks of a failing pair come faster again. With a
record full of unanswered checks the pair fails where the next one would be due.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from firezone.ice.candidate import Candidate
from firezone.ice.timing import StunTiming
from firezone.model import Endpoint

MAX_PROBES = 16
"""Whose answers a pair awaits at a time."""
REPEATS = 8
"""So often a nomination is repeated, with nothing on a newer pair meanwhile, until the newer one no
longer counts."""


class CheckState(Enum):
    """State of a pair (RFC 8445 section 6.1.2.6); with one stream nothing is ever Frozen."""

    WAITING = auto()
    IN_PROGRESS = auto()
    SUCCEEDED = auto()
    FAILED = auto()


class CheckEvent(Enum):
    """What moves a pair: a check sent, a check answered, no answer for too long, a new chance."""

    SENT = auto()
    ANSWERED = auto()
    EXHAUSTED = auto()
    REVIVED = auto()


TRANSITIONS: dict[CheckState, dict[CheckEvent, CheckState]] = {
    CheckState.WAITING: {
        CheckEvent.SENT: CheckState.IN_PROGRESS,
    },
    CheckState.IN_PROGRESS: {
        CheckEvent.SENT: CheckState.IN_PROGRESS,
        CheckEvent.ANSWERED: CheckState.SUCCEEDED,
        CheckEvent.EXHAUSTED: CheckState.FAILED,
    },
    CheckState.SUCCEEDED: {
        CheckEvent.SENT: CheckState.SUCCEEDED,
        CheckEvent.ANSWERED: CheckState.SUCCEEDED,
        CheckEvent.EXHAUSTED: CheckState.FAILED,
    },
    CheckState.FAILED: {
        CheckEvent.REVIVED: CheckState.WAITING,
    },
}


class Nomination(Enum):
    """How far the controlling agent is in telling its choice to the peer."""

    NONE = auto()
    NOMINATED = auto()
    IN_PROGRESS = auto()
    CONFIRMED = auto()


@dataclass(slots=True, eq=False)
class Check:
    """One Binding request of ours."""

    pair: Pair
    transaction_id: bytes
    sent_at: int
    controlling: bool
    """The role it claimed: a conflict about another role is an old one."""
    nominating: bool
    answered: bool = False
    cancelled: bool = False
    """It is not sent again and its silence means nothing, but its answer counts."""
    is_probe: bool = False
    """It is beside the schedule: its silence is for `doubt.py` to judge."""


@dataclass(slots=True)
class Tally:
    """What became of all checks of a pair so far, for a pair in doubt to be judged by, and for
    whoever wants to know why it was not chosen.

    Times are nanoseconds, None = not (yet).
    """

    sent: int = 0
    answered: int = 0
    unanswered: int = 0
    """Sent since the last answer."""
    answered_at: int | None = None
    failed_at: int | None = None


class Pair:
    """A local and a remote candidate. All fields are for reading; methods write."""

    def __init__(self, local: Candidate, remote: Candidate, controlling: bool, now: int) -> None:
        self.local = local
        self.remote = remote
        self.priority = pair_priority(local, remote, controlling)
        self.state = CheckState.WAITING
        self.nomination = Nomination.NONE
        self.remote_nominated = False
        """Whether the peer, as the controlling agent, has nominated it."""
        self.use_candidate = False
        """Whether the peer's last request on it carried USE-CANDIDATE."""
        self._nominated_at: deque[int] = deque(maxlen=REPEATS)
        """When the last of those came that did."""
        self.requested_at = now
        """When the peer last sent a request on it, or it was formed."""
        self.is_silent = False
        """Whether data over it goes unanswered, and no request has come on it since that was so."""
        self.valid_local: Candidate | None = None
        """The local candidate as which the peer sees us on this path."""
        self.round_trip: int | None = None
        """Smoothed (RFC 6298 section 2), nanoseconds."""
        self.tally = Tally()
        self.is_distrusted = False
        """Whether any other pair that works is better; see `doubt.py`."""
        self.distrusted_until = 0
        self.distrusts = 0
        self._checks: deque[Check] = deque()
        self._probes: deque[Check] = deque()
        self._due_at: int | None = now
        self._was_triggered = False

    @property
    def key(self) -> tuple[Endpoint, Endpoint]:
        """What makes two pairs redundant: our base and the peer's address."""
        return self.local.base, self.remote.address

    @property
    def is_viable(self) -> bool:
        return self.state is not CheckState.FAILED

    @property
    def never_worked(self) -> bool:
        """Whether no check was ever answered on it, and the peer has not chosen it either."""
        return not self.tally.answered and not self.remote_nominated

    def upgrade(self, local: Candidate, remote: Candidate, controlling: bool) -> None:
        """Stand for other candidates on the same path. What was learned of the path holds."""
        self.local = local
        self.remote = remote
        self.priority = pair_priority(local, remote, controlling)

    def change_role(self, controlling: bool) -> None:
        """Recompute the priority; nominations of the other role are void."""
        self.priority = pair_priority(self.local, self.remote, controlling)
        self._clear_nominations()

    def deadline(self, timing: StunTiming) -> int | None:
        """When the next check is due or, with the record exhausted, when the pair fails."""
        if not self.is_viable or self._due_at is not None:
            return self._due_at
        record = [check for check in self._checks if not check.cancelled]
        unanswered = _unanswered(record)
        last = record[-1].sent_at
        count = len(record)
        if unanswered and last - unanswered[-1].sent_at > timing.maximum // 2:
            count = len(unanswered)
        return last + timing.delay(count)

    def is_exhausted(self, tries: int) -> bool:
        """Whether as many checks as may be are unanswered, so that `deadline` is the end."""
        record = [check for check in self._checks if not check.cancelled]
        return self._due_at is None and len(_unanswered(record)) >= tries

    def nominate(self, now: int) -> None:
        """As the controlling agent: say so in a check that does not wait its turn."""
        self.nomination = Nomination.NOMINATED
        self._due_at = now

    def renounce(self) -> None:
        """As the controlling agent: another pair is nominated."""
        self.nomination = Nomination.NONE

    def note_request(self, *, nominates: bool, now: int) -> None:
        """The controlling peer's request came."""
        self.use_candidate = nominates
        if nominates:
            self._nominated_at.append(now)

    def has_outlasted(self, other: Pair) -> bool:
        """Whether its nomination was repeated `REPEATS` times since anything came on the other."""
        at = self._nominated_at
        return len(at) == REPEATS and at[0] > other.requested_at

    def trigger(self, now: int) -> None:
        """The peer's request came: check this path at once (RFC 8445 section 7.3.1.4).

        Once per pair, as a request says only at first that the path has just been opened.
        """
        if self.state is CheckState.IN_PROGRESS and not self._was_triggered:
            self._was_triggered = True
            for check in self._checks:
                check.cancelled = True
            self._due_at = now
        self.revive(now)

    def check_again(self, now: int) -> None:
        """Check at once because the last check failed for a reason that is gone."""
        if self.is_viable:
            self._due_at = now

    def revive(self, now: int) -> None:
        """Give a failed pair another chance."""
        if self.state is CheckState.FAILED:
            self._move(CheckEvent.REVIVED)
            self._was_triggered = False
            self._due_at = now

    def record_sent(
        self, transaction_id: bytes, controlling: bool, timing: StunTiming, now: int
    ) -> tuple[Check, list[Check]]:
        """Note a check; it also returns the older checks that left the record."""
        self._move(CheckEvent.SENT)
        self._due_at = None
        self.tally.sent += 1
        self.tally.unanswered += 1
        if self.nomination is Nomination.NOMINATED:
            self.nomination = Nomination.IN_PROGRESS
        nominating = self.nomination is not Nomination.NONE
        check = Check(self, transaction_id, now, controlling, nominating)
        self._checks.append(check)
        excess = len(self._checks) - timing.tries
        return check, [self._checks.popleft() for _ in range(excess)]

    def record_probe(
        self, transaction_id: bytes, controlling: bool, now: int
    ) -> tuple[Check, list[Check]]:
        """Note a check beside the schedule, of a pair that was checked before; it also returns the
        older ones whose answers are not awaited any more."""
        self._move(CheckEvent.SENT)
        self.tally.sent += 1
        self.tally.unanswered += 1
        nominating = self.nomination is not Nomination.NONE
        check = Check(self, transaction_id, now, controlling, nominating, is_probe=True)
        self._probes.append(check)
        excess = len(self._probes) - MAX_PROBES
        return check, [self._probes.popleft() for _ in range(excess)]

    def record_answered(self, check: Check, valid_local: Candidate, now: int) -> None:
        """Note the success response to one of this pair's checks."""
        self._move(CheckEvent.ANSWERED)
        check.answered = True
        check.cancelled = False
        if check.is_probe and self._checks:
            # The path works, so what is lost counts from here.
            self._checks[-1].answered = True
        self.valid_local = valid_local
        self._measure(now - check.sent_at)
        self.tally.answered += 1
        self.tally.unanswered = 0
        self.tally.answered_at = now
        if check.nominating and self.nomination is Nomination.IN_PROGRESS:
            self.nomination = Nomination.CONFIRMED

    def fail(self, now: int) -> list[Check]:
        """Give up; returns the checks whose answers are not awaited any more."""
        self._move(CheckEvent.EXHAUSTED)
        self.tally.failed_at = now
        self._clear_nominations()
        forgotten = [*self._checks, *self._probes]
        self._checks.clear()
        self._probes.clear()
        return forgotten

    def checks(self) -> tuple[Check, ...]:
        """The record, oldest first, and then the probes."""
        return (*self._checks, *self._probes)

    def _clear_nominations(self) -> None:
        self.nomination = Nomination.NONE
        self.remote_nominated = self.use_candidate = False

    def _move(self, event: CheckEvent) -> None:
        self.state = TRANSITIONS[self.state][event]

    def _measure(self, sample: int) -> None:
        old = self.round_trip
        self.round_trip = sample if old is None else (7 * old + sample) // 8


def pair_priority(local: Candidate, remote: Candidate, controlling: bool) -> int:
    """RFC 8445 section 6.1.2.3; the same number at both agents."""
    g, d = local.priority, remote.priority
    if not controlling:
        g, d = d, g
    return (min(g, d) << 32) + 2 * max(g, d) + (g > d)


def _unanswered(record: list[Check]) -> list[Check]:
    """The checks after the last answered one, newest first."""
    unanswered = []
    for check in reversed(record):
        if check.answered:
            break
        unanswered.append(check)
    return unanswered
