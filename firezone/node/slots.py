"""Slots: the small numbers by which the data plane knows peers."""

from __future__ import annotations

import heapq

from firezone.commands import NOBODY


class Slots:
    """Hands out the lowest free number above NOBODY, so that the data plane's tables stay dense."""

    def __init__(self) -> None:
        self._next = NOBODY + 1
        self._free: list[int] = []

    def allocate(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self._next += 1
        return self._next - 1

    def release(self, slot: int) -> None:
        heapq.heappush(self._free, slot)
