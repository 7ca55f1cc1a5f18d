"""Reports exceptions that nobody foresaw, without what they say: that may hold a secret."""

from __future__ import annotations

import asyncio
import logging
import traceback
from pathlib import Path

from firezone.errors import FirezoneError

_log = logging.getLogger(__name__)
_FRAMES = 8


class PortalFailed(FirezoneError):
    """A part of the portal ended that must not. Restarting the program is the remedy."""


def describe(error: BaseException) -> str:
    """The exception's type, and where it came from, innermost call last."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = (f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__name__} in {' > '.join(places)}"


def report(task: asyncio.Task[None]) -> None:
    """For `Task.add_done_callback`: log the exception that ended a task."""
    if not task.cancelled() and (error := task.exception()) is not None:
        fields = {"event": "task_failed", "task": task.get_name()}
        _log.error("a task of the portal failed: %s", describe(error), extra=fields)
