"""An event loop for what wants no more of one than a clock and a timer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class FakeLoop:
    """A clock that a test turns, with one timer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timer: FakeTimer | None = None

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, action: Callable[[], None]) -> FakeTimer:
        self.timer = FakeTimer(when, action)
        return self.timer

    def add_reader(self, *_: Any) -> None:
        pass

    def remove_reader(self, *_: Any) -> None:
        pass

    def run_until(self, when: float) -> None:
        while (timer := self.timer) is not None and timer.when <= when and not timer.cancelled:
            self.now, self.timer = timer.when, None
            timer.action()
        self.now = when


class FakeTimer:
    def __init__(self, when: float, action: Callable[[], None]) -> None:
        self.when, self.action, self.cancelled = when, action, False

    def cancel(self) -> None:
        self.cancelled = True
