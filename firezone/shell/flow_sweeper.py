"""Wakes a program when the next of its flows may have ended, and for nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from firezone.durations import SECOND
from firezone.shell.clock import boottime_ns
from firezone.shell.dataplane import Dataplane

SWEEP_INTERVAL = 1 * SECOND
"""Between two sweeps, if there is something to sweep all the time."""


class FlowSweeper:
    """Sweeps the flows of what `dataplane` returns: a program may replace its data plane."""

    def __init__(self, dataplane: Callable[[], Dataplane]) -> None:
        self._dataplane = dataplane
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = 0

    @property
    def due_at(self) -> int | None:
        """When it wakes up next, None for never."""
        return None if self._timer is None else self._due_at

    def arm(self, now: int) -> None:
        """Flows may have come or ended: wake up when the next one may end."""
        wanted = self._dataplane().next_sweep()
        if wanted is None:
            return
        wanted = max(wanted, now + SWEEP_INTERVAL)
        if self._timer is not None:
            if self._due_at <= wanted:
                return
            self._timer.cancel()
        self._due_at = wanted
        delay = (wanted - now) / SECOND
        self._timer = asyncio.get_running_loop().call_later(delay, self._sweep)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        now = boottime_ns()
        self._dataplane().sweep(now)
        self.arm(now)
