"""When to try again: at once, then ever later, within a budget.

The first delay is 0. From then on it grows by half each time from 500 ms to at most 60 s, and each
is taken at random from half to one and a half times that, so that peers of a portal that restarts
do not return together. The budget runs from the first failure.
"""

from __future__ import annotations

from firezone.durations import MILLISECOND, SECOND
from firezone.model import Entropy

INITIAL_INTERVAL = 500 * MILLISECOND
MAX_INTERVAL = 60 * SECOND


class Backoff:
    """The delays after one unbroken row of failures, the first of which was at `now`."""

    def __init__(self, max_elapsed: int | None, entropy: Entropy, now: int) -> None:
        self._deadline = None if max_elapsed is None else now + max_elapsed
        self._entropy = entropy
        self._interval = 0

    def next_delay(self, at_least: int, now: int) -> int | None:
        """How long to wait now, or None when the budget is spent."""
        delay = max(self._jittered(), at_least)
        self._grow()
        if self._deadline is not None and now + delay > self._deadline:
            return None
        return delay

    def _jittered(self) -> int:
        half = self._interval // 2
        return half + int.from_bytes(self._entropy(8), "big") % (2 * half + 1) if half else 0

    def _grow(self) -> None:
        self._interval = min(self._interval * 3 // 2, MAX_INTERVAL) or INITIAL_INTERVAL
