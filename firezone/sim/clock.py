"""Virtual time: it jumps from one event to the next, and equal seeds give equal runs."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from firezone.durations import SECOND

START = 1_000 * SECOND
"""Not zero, for zero means "never" to the data plane."""

UNIX_START = 1_800_000_000 * SECOND


class Clock:
    """`now` in nanoseconds, and what is to happen when."""

    def __init__(self) -> None:
        self.now = START
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = count()

    @property
    def unix_now(self) -> int:
        return UNIX_START + self.now - START

    def at(self, time: int, action: Callable[[], None]) -> None:
        """Do something at a time; what lies in the past is done next."""
        heapq.heappush(self._events, (max(time, self.now), next(self._sequence), action))

    def run_for(self, duration: int) -> None:
        """Let that much time pass."""
        end = self.now + duration
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = end

    def run_until(self, reached: Callable[[], bool], limit: int = 60 * SECOND) -> bool:
        """Let time pass until something is so. False if the limit came first."""
        end = self.now + limit
        while not reached():
            if not self._events or self._events[0][0] > end:
                self.now = end
                return reached()
            self.now, _, action = heapq.heappop(self._events)
            action()
        return True
