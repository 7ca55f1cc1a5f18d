"""When each connection wants its next turn, without asking all of them."""

from __future__ import annotations

import heapq
from itertools import count

from firezone.model import Timeout


class Deadlines:
    """At most one timeout per key; setting a new one voids the old."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []
        self._current: dict[str, tuple[int, int, str]] = {}
        self._reasons: dict[str, str] = {}
        self._sequence = count()

    def set(self, key: str, timeout: Timeout | None) -> None:
        if timeout is None:
            self._current.pop(key, None)
            self._reasons.pop(key, None)
            return
        entry = (timeout.deadline, next(self._sequence), key)
        self._current[key] = entry
        self._reasons[key] = timeout.reason
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 64 + 4 * len(self._current):
            self._heap = sorted(self._current.values())

    def first(self) -> Timeout | None:
        self._discard_void()
        if not self._heap:
            return None
        deadline, _, key = self._heap[0]
        return Timeout(deadline, self._reasons[key])

    def due(self, now: int) -> list[str]:
        """The keys whose time has come, earliest first. They are unset."""
        keys = []
        while (first := self.first()) is not None and first.deadline <= now:
            _, _, key = heapq.heappop(self._heap)
            self.set(key, None)
            keys.append(key)
        return keys

    def _discard_void(self) -> None:
        while self._heap and self._current.get(self._heap[0][2]) != self._heap[0]:
            heapq.heappop(self._heap)
