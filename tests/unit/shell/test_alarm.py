"""One timer of asyncio's stands for the next deadline of a machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from firezone.durations import HOUR, SECOND
from firezone.model import Timeout
from firezone.shell.alarm import Alarm

NOW = 5 * SECOND
SOON, LATER = Timeout(NOW, "soon"), Timeout(NOW + HOUR, "later")


def rings(test: Callable[[Alarm], Awaitable[None]]) -> int:
    rung: list[None] = []

    async def inside() -> None:
        await test(Alarm(lambda: NOW, lambda: rung.append(None)))
        await asyncio.sleep(0)  # what is due is put into the queue, and then
        await asyncio.sleep(0)  # runs

    asyncio.run(inside())
    return len(rung)


def test_rings_once() -> None:
    async def test(alarm: Alarm) -> None:
        alarm.set(SOON)
        alarm.set(SOON)

    assert rings(test) == 1


def test_rings_again_if_it_is_set_again() -> None:
    async def test(alarm: Alarm) -> None:
        alarm.set(SOON)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        alarm.set(SOON)

    assert rings(test) == 2


def test_the_last_deadline_holds() -> None:
    async def test(alarm: Alarm) -> None:
        alarm.set(SOON)
        alarm.set(LATER)
        alarm.set(SOON)
        alarm.set(LATER)

    assert rings(test) == 0

    async def sooner(alarm: Alarm) -> None:
        alarm.set(LATER)
        alarm.set(SOON)

    assert rings(sooner) == 1


def test_without_a_deadline_it_is_silent() -> None:
    async def none(alarm: Alarm) -> None:
        alarm.set(SOON)
        alarm.set(None)

    async def cancelled(alarm: Alarm) -> None:
        alarm.set(SOON)
        alarm.cancel()

    assert rings(none) == rings(cancelled) == 0
