"""Wakes a program when its machine's next deadline comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from firezone.durations import SECOND
from firezone.model import Timeout

logger = logging.getLogger(__name__)


class Alarm:
    """One of asyncio's timers, which stands for a deadline on `clock`.

    The loop's clock may be a little ahead of ours: then `on_due` comes before the deadline, and
    whoever sets the alarm again after it is woken once more.
    """

    def __init__(self, clock: Callable[[], int], on_due: Callable[[], None]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._deadline: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, timeout: Timeout | None) -> None:
        """To that deadline alone; None: to none."""
        if timeout is None:
            self.cancel()
        elif timeout.deadline != self._deadline:
            self.cancel()
            self._deadline = timeout.deadline
            delay = max(0, timeout.deadline - self._clock()) / SECOND
            logger.debug("next timeout", extra={"in_seconds": delay, "reason": timeout.reason})
            self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._deadline = None

    def _ring(self) -> None:
        self._timer = self._deadline = None
        self._on_due()
