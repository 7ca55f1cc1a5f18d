"""When a request over UDP is sent again, and when it is given up.

The gaps grow by half each time and the whole series has a budget. With the default one of 8 s a
request goes out at 0, 1, 2.5 and 4.75 s and is given up at 8.125 s, the first step past the budget.
"""

from __future__ import annotations

from dataclasses import dataclass

from firezone.durations import SECOND

INITIAL_INTERVAL = SECOND
BUDGET = 8 * SECOND
PROBE_BUDGET = 1 * SECOND
"""A `refresh` on demand is one attempt: it is there to find rebooted relays fast."""
URGENT_BUDGET = 3 * SECOND
"""For `probe`: three sends, and given up after 4.75 s."""


@dataclass(slots=True)
class Backoff:
    """One series of sends, the first of which was at `started_at`."""

    started_at: int
    budget: int = BUDGET
    interval: int = INITIAL_INTERVAL
    next_at: int = 0

    def __post_init__(self) -> None:
        self.next_at = self.started_at + self.interval

    def is_due(self, now: int) -> bool:
        """Whether the next step has come: to send again, or to give up."""
        return now >= self.next_at

    @property
    def has_stepped(self) -> bool:
        """Whether anything was planned after the first send."""
        return self.interval != INITIAL_INTERVAL

    @property
    def is_exhausted(self) -> bool:
        """Whether the next step is to give up."""
        return self.next_at - self.started_at >= self.budget

    def step(self) -> None:
        """Plans the step after the one that is due. Steps do not shift when we are late."""
        self.interval = self.interval * 3 // 2
        self.next_at += self.interval
