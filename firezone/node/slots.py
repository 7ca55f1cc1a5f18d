"""Slots: the small numbers by which the data plane knows peers."""

from __future__ import annotations

import heapq

from firezone.commands import NOBODY, SLOTS
from firezone.errors import LocalError


class NoSlotError(LocalError):
    """The data plane has no room for another peer."""


class Slots:
    """Hands out the lowest free number above NOBODY, so that the data plane's tables stay dense.

    `limit` is the number of slots that the data plane has, NOBODY's included.
    """

    def __init__(self, limit: int = SLOTS) -> None:
        self._limit = limit
        self._next = NOBODY + 1
        self._free: list[int] = []

    def allocate(self) -> int:
        """Raises NoSlotError when all are taken."""
        if self._free:
            return heapq.heappop(self._free)
        if self._next >= self._limit:
            raise NoSlotError(f"all {self._limit - 1} slots for peers are taken")
        self._next += 1
        return self._next - 1

    def release(self, slot: int) -> None:
        heapq.heappush(self._free, slot)
