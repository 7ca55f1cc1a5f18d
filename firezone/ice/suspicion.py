"""What the controlling agent does when the layer above hears nothing: `doubt.py`, carried out."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from firezone.ice.checklist import Checklist
from firezone.ice.choice import Choice
from firezone.ice.doubt import Doubt, distrust, has_answered, is_doubtful
from firezone.ice.events import AgentEvent, PathInDoubt, PathLeft, PathSilent
from firezone.ice.pair import CheckState, Pair


class Suspicion:
    """Of the pair in use; at most one at a time."""

    def __init__(
        self,
        checklist: Checklist,
        choice: Choice,
        events: deque[AgentEvent],
        counters: Counter[str],
    ) -> None:
        self.doubt: Doubt | None = None
        self._checklist = checklist
        self._choice = choice
        self._events = events
        self._counters = counters

    def begin(self, pair: Pair, now: int) -> None:
        """Doubt the pair, unless it has just answered, or is doubted already."""
        if self.doubt is None and is_doubtful(pair, now):
            self.doubt = Doubt(pair, now)

    def judge(self, now: int) -> None:
        """Draw conclusions: the pair is fine, or not to be used any more, or nobody answers."""
        doubt = self.doubt
        if doubt is None:
            return
        if doubt.pair is not self._choice.pair or doubt.is_dispelled:
            self.doubt = None
            return
        others_answer = self._others_answer(doubt)
        if others_answer and doubt.is_hopeless:
            doubt.look_again(now)
        if doubt.verdict_at is None or now < doubt.verdict_at:
            return
        if others_answer or doubt.is_hopeless:
            self.doubt = None
        if others_answer:
            self._leave(doubt, now)
        elif not doubt.is_hopeless:
            doubt.is_hopeless = True
            self._events.append(PathSilent())

    def take_probes(self, now: int) -> list[Pair]:
        """Which pairs to check now, beside their schedule."""
        doubt = self.doubt
        if doubt is None or doubt.probe_at is None or now < doubt.probe_at:
            return []
        doubt.handle_probed(now)
        if doubt.is_worth_telling:
            self._events.append(PathInDoubt())
        pairs = [*self._checklist] if doubt.wants_others_checked else [doubt.pair]
        checked = (CheckState.IN_PROGRESS, CheckState.SUCCEEDED)
        return [pair for pair in pairs if pair.state in checked]

    def deadlines(self, now: int) -> Iterator[int | None]:
        """When there may be something to do."""
        doubt = self.doubt
        if doubt is None:
            return
        yield doubt.probe_at
        yield doubt.verdict_at
        if doubt.is_dispelled or (doubt.is_hopeless and self._others_answer(doubt)):
            yield now

    def _others_answer(self, doubt: Doubt) -> bool:
        """Whether any pair has answered that could be used instead."""
        return any(
            self._choice.is_eligible(pair) and has_answered(pair, doubt.since)
            for pair in self._checklist
        )

    def _leave(self, doubt: Doubt, now: int) -> None:
        self._counters["nominated pair distrusted"] += 1
        self._events.append(PathLeft())
        for pair in self._checklist:  # what broke one path may have broken others
            if self._choice.is_eligible(pair) and not has_answered(pair, doubt.since):
                distrust(pair, now)
        # If only its way back is broken, the peer learns so that we do not use it any more.
        doubt.pair.check_again(now)
