"""Doubt about the nominated pair, and distrust of one that did not dispel it.

Consent in RFC 7675 lapses after 30 s, and the checks of a pair that worked give it up after 16 s:
both are made for networks that lose a few packets. The layer above knows earlier, for it sends data
and hears nothing. That alone proves nothing, since the peer may have nothing to say. So:

    silence ──► DOUBT: the pair is checked every 30 ms, and the others after six checks,
                  │ when we also say so: another way may take a while to prepare
                  │ any answer on the pair         ──► it is fine
                  │ 14 checks lost, others answer  ──► DISTRUST of it and of all that are silent:
                  │                                    the best of the rest is used
                  └ 14 checks lost, nobody answers ──► HOPELESS, which we say. Should another pair
                                                       answer soon, this one has 4 checks more

Of fourteen checks over a path that loses 30 % each way, all are lost once in 12,000 times. They are
beside the schedule of `pair.py`: a network that is away for a few seconds must not use up the
patience that a pair has with it.

A pair that is distrusted is nominated again only if it works when its time is up: 10 s, twice as
long with each time it happens again. So a path that comes and goes is visited, not followed.
"""

from __future__ import annotations

from dataclasses import dataclass

from firezone.durations import MILLISECOND, MINUTE, SECOND
from firezone.ice.pair import Pair

PROBES = 14
LAST_PROBES = 4
PROBE_INTERVAL = 30 * MILLISECOND
"""Or a quarter of a round trip, if that is longer."""
PATIENCE = 300 * MILLISECOND
"""How long the last answer may take at least; two round trips if that is longer."""
OTHERS_EVERY, OTHERS_FROM = 3, 6
"""With every so many probes, all other pairs are checked, too, when the first are overdue."""
RECENTLY = 200 * MILLISECOND
"""A pair that answered so lately is not doubted, nor one that did two round trips ago."""
UNANSWERED = 2 * SECOND
"""A pair in use is checked more often than that, whatever it carries."""
LINGER = 600 * MILLISECOND
"""How long a hopeless pair is left before the next answer it owes may be asked for again."""
DISTRUST = 10 * SECOND
MAX_DISTRUST = 5 * MINUTE
FORGIVEN_AFTER = 10 * MINUTE


@dataclass(slots=True)
class Doubt:
    """The checks of one pair since it fell silent."""

    pair: Pair
    since: int
    probes: int = 0
    probed_at: int = 0
    is_hopeless: bool = False

    def handle_probed(self, now: int) -> None:
        """A check was sent on the pair."""
        self.probes += 1
        self.probed_at = now

    def look_again(self, now: int) -> None:
        """Another pair answers. It may be that all are back, so this one is asked once more."""
        self.is_hopeless = False
        self.probes = PROBES - LAST_PROBES
        self.probed_at = now - PROBE_INTERVAL

    @property
    def probe_at(self) -> int | None:
        """When to send the next check; None after the last."""
        if self.probes >= PROBES:
            return None
        interval = max(PROBE_INTERVAL, (self.pair.round_trip or 0) // 4)
        return self.probed_at + interval if self.probes else self.since

    @property
    def is_worth_telling(self) -> bool:
        """Whether the first checks have just become overdue."""
        return self.probes == OTHERS_FROM

    @property
    def wants_others_checked(self) -> bool:
        return self.probes >= OTHERS_FROM and self.probes % OTHERS_EVERY == 0

    @property
    def is_dispelled(self) -> bool:
        return has_answered(self.pair, self.since)

    @property
    def verdict_at(self) -> int | None:
        """When the last check counts as lost, and then when no more is hoped for; None while there
        are more to send."""
        if self.probes < PROBES:
            return None
        patience = max(PATIENCE, 2 * (self.pair.round_trip or 0))
        return self.probed_at + patience + (LINGER if self.is_hopeless else 0)


def is_doubtful(pair: Pair, now: int) -> bool:
    """Whether it has not answered for long enough to be asked."""
    return not has_answered(pair, now - max(RECENTLY, 2 * (pair.round_trip or 0)))


def is_unanswered(pair: Pair, now: int) -> bool:
    """Whether checks of the pair got lost lately. Those under way do not count, and while it is in
    doubt there may be many."""
    since = now - UNANSWERED - 2 * (pair.round_trip or 0)
    return pair.tally.unanswered > 1 and not has_answered(pair, since)


def has_answered(pair: Pair, since: int) -> bool:
    """Whether a check of the pair was answered since then."""
    answered_at = pair.tally.answered_at
    return answered_at is not None and answered_at >= since


def distrust(pair: Pair, now: int) -> None:
    """The pair failed its probes while others did not."""
    if now - pair.distrusted_until > FORGIVEN_AFTER:
        pair.distrusts = 0
    pair.is_distrusted = True
    pair.distrusted_until = now + min(DISTRUST << min(pair.distrusts, 16), MAX_DISTRUST)
    pair.distrusts += 1


def reconsider(pair: Pair, now: int) -> None:
    """Trust the pair again if its time is up and it works."""
    if pair.is_distrusted and now >= pair.distrusted_until and pair.tally.unanswered <= 1:
        pair.is_distrusted = False
