"""What ends a program, and what must not."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

import pytest

from firezone.errors import FirezoneError, LocalError
from firezone.model import Endpoint
from firezone.shell.unexpected import UnexpectedError, end_on_error


def ended_by(
    caplog: pytest.LogCaptureFixture, cause: Callable[[], object], times: int = 1
) -> tuple[list[FirezoneError], list[logging.LogRecord]]:
    """What ended the program, and its lines above DEBUG."""

    async def scenario() -> list[FirezoneError]:
        ends: list[FirezoneError] = []
        end_on_error(ends.append)
        for _ in range(times):
            cause()
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return ends

    with caplog.at_level(logging.DEBUG):
        ends = asyncio.run(scenario(), debug=False)
    return ends, [r for r in caplog.records if r.levelno > logging.DEBUG]


def soon(callback: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: asyncio.get_running_loop().call_soon(callback, *arguments)


def test_a_mistake_of_ours_ends_it_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    ends, [line] = ended_by(caplog, soon(Endpoint.parse, 7), times=3)
    assert isinstance(ends[0], UnexpectedError) and "see the log" in str(ends[0])
    assert line.levelno == logging.ERROR and line.exc_info


def test_what_is_raised_on_purpose_arrives_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    [end], lines = ended_by(caplog, soon(Endpoint.parse, "nowhere"))
    assert type(end) is LocalError and not lines


def test_a_library_is_told_of_once_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ends, [line] = ended_by(caplog, soon(json.loads, "{"), times=3)
    assert not ends
    assert line.levelno == logging.ERROR


def test_a_mishap_of_a_network_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    def fail_to_accept() -> None:
        context = {"message": "socket.accept()", "exception": OSError(113, "no route")}
        asyncio.get_running_loop().call_exception_handler(context)

    assert ended_by(caplog, fail_to_accept) == ([], [])


def test_a_task_of_ours_that_broke(caplog: pytest.LogCaptureFixture) -> None:
    tasks = []

    async def broken() -> None:
        raise ZeroDivisionError

    def start_and_forget() -> None:
        tasks.append(asyncio.get_running_loop().create_task(broken()))
        asyncio.get_running_loop().call_later(0.005, tasks.clear)

    [end], [_line] = ended_by(caplog, start_and_forget)
    assert isinstance(end, UnexpectedError)
