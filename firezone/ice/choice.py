"""Which pair is in use: nomination, which is continuous (RFC 8445 section 8).

The controlling agent takes the best pair that works, the controlled one the best of those that the
peer nominates and that works for us, too. Whenever that changes, so does the choice.
"""

from __future__ import annotations

from firezone.durations import SECOND
from firezone.ice.checklist import Checklist
from firezone.ice.doubt import reconsider
from firezone.ice.events import Nominated
from firezone.ice.pair import CheckState, Nomination, Pair
from firezone.ice.preference import prefer, rank

NOMINATION_LAPSE = 2 * SECOND
"""Somewhat more than the pace of checks: whoever still uses a pair has sent one in that time."""


class Choice:
    """The nominated pair of a checklist."""

    def __init__(self, checklist: Checklist, now: int) -> None:
        self.pair: Pair | None = None
        """The pair in use."""
        self._checklist = checklist
        self._announced: Nominated | None = None
        self._newest: Pair | None = None
        """What the peer has begun to nominate last."""
        self._moved_at = now

    @property
    def nominated(self) -> Nominated | None:
        """The same, for the layer above."""
        pair = self.pair
        return None if pair is None else Nominated(pair.local, pair.remote)

    def is_eligible(self, pair: Pair) -> bool:
        """Whether it may be used.

        Nominated before our own check succeeds, a pair counts from that success on (7.3.1.5): a
        path that leads only from the peer to us is of no use.
        """
        nominable = self._checklist.controlling or pair.remote_nominated
        return nominable and pair.state is CheckState.SUCCEEDED

    def settle(self, now: int) -> Nominated | None:
        """Choose anew. Gives the pair if that is news."""
        if self.pair is not None and not self._is_usable(self.pair):
            self.pair = self._announced = None
        for pair in self._checklist:
            reconsider(pair, now)
        best = self._best(now)
        if best is not None and not self._holds_against(best):
            if self.pair is not None:
                self.pair.renounce()
            if self._checklist.controlling:
                best.nominate(now)
            self.pair, self._moved_at = best, now
        nominated = self.nominated
        if nominated is None or nominated == self._announced:
            return None
        self._announced = nominated
        return nominated

    def handle_request(self, pair: Pair, *, nominates: bool, now: int) -> None:
        """The controlling peer has sent a request on this pair."""
        is_news = nominates and not pair.use_candidate
        pair.note_request(nominates=nominates, now=now)
        if is_news:
            self._newest = pair
        if nominates:
            self._end_nominations(pair, now)
            pair.remote_nominated = True

    def _end_nominations(self, by: Pair, now: int) -> None:
        """Some peers nominate a pair once, others as long as they use it, and others for ever. So a
        nomination ends only with a newer one, and only that of a pair the peer does not repeat it
        for; where nothing comes any more, its end cannot be told. One that is older ends another
        when nothing but it has been heard of for long: its pair may be in use again."""
        for pair in self._checklist:
            if by is self._newest:
                has_lapsed = pair.is_silent or now - pair.requested_at > NOMINATION_LAPSE
                pair.remote_nominated &= pair.use_candidate and not has_lapsed
            elif by.has_outlasted(pair):
                pair.remote_nominated = False

    def _best(self, now: int) -> Pair | None:
        eligible = [pair for pair in self._checklist if self.is_eligible(pair)]
        if self._checklist.controlling:
            return prefer(eligible, self.pair, self._moved_at, now)
        return max(eligible, key=rank, default=None)

    def _is_usable(self, pair: Pair) -> bool:
        return pair in self._checklist and pair.is_viable

    def _holds_against(self, other: Pair) -> bool:
        """Whether the pair in use stays so beside this one."""
        current, controlling = self.pair, self._checklist.controlling
        if current is None or (not self.is_eligible(current)):
            return False
        if controlling and current.nomination is Nomination.NONE:
            return False  # nominated by the peer, in our former role
        return current is other or (not controlling and rank(current) >= rank(other))
