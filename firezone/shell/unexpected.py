"""What becomes of an exception that nobody expected: the program ends, to be started anew.

asyncio reports an exception of a callback and goes on. But our callbacks arm their own successors:
a timer sets the next one. After an exception the program would look alive and do nothing, while
whoever supervises it could start a fresh one. Mishaps of single connections end nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any

from firezone.errors import FirezoneError

OnError = Callable[[FirezoneError], None]


class UnexpectedError(FirezoneError):
    """The program came upon a mistake of its own. The log has told the rest."""


def end_on_error(on_error: OnError) -> None:
    """Call this with what a callback or a task of ours raises in the running loop.

    What we raise on purpose arrives as it is. All else is logged, the first time, as one ERROR with
    its traceback, and arrives as UnexpectedError.
    """
    asyncio.get_running_loop().set_exception_handler(_Handler(on_error))


class _Handler:
    def __init__(self, on_error: OnError) -> None:
        self._on_error = on_error
        self._told: set[str] = set()

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, Exception):
            logger.debug("asyncio: %s", context.get("message"))
        elif not _is_ours(context, error.__traceback__):
            self._log("an exception in a connection", error, is_mishap=isinstance(error, OSError))
        elif isinstance(error, FirezoneError):
            self._on_error(error)
        else:
            self._log("an unexpected error ends the program", error)
            self._on_error(UnexpectedError(f"unexpected {type(error).__name__}: see the log"))

    def _log(self, what: str, error: Exception, *, is_mishap: bool = False) -> None:
        """Networks fail all the time, and who can cause an exception can do so for ever."""
        is_news = not is_mishap and what not in self._told
        logger.log(logging.ERROR if is_news else logging.DEBUG, what, exc_info=error)
        if is_news:
            self._told.add(what)


def _is_ours(context: dict[str, Any], trace: TracebackType | None) -> bool:
    """Whether a callback of ours raised it, which asyncio or a library would not call again."""
    if isinstance(context.get("future"), asyncio.Task):
        return True
    if "handle" not in context or trace is None:
        return False
    callback = trace.tb_next or trace
    return str(callback.tb_frame.f_globals.get("__name__")).startswith("firezone.")


logger = logging.getLogger(__name__)
