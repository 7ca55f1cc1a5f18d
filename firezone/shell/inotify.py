"""Notices that a file is gone, without looking again and again (inotify(7))."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class RemovalWatch:
    """`fd` is readable once something happened to the name of a file, such as its removal.

    A bound socket lives on without its name, so it is the count of its links that changes
    (IN_ATTRIB); a name that is moved away is told of, too. Raises OSError if there are too many
    watches in the system, or no such file.
    """

    def __init__(self, path: Path) -> None:
        self.fd = _call(_libc.inotify_init1, os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _call(_libc.inotify_add_watch, self.fd, os.fsencode(path), _EVENTS)
        except OSError:
            os.close(self.fd)
            raise

    def clear(self) -> None:
        """Make `fd` unreadable until the next time."""
        with suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass

    def close(self) -> None:
        os.close(self.fd)


_IN_ATTRIB = 0x004
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_EVENTS = _IN_ATTRIB | _IN_DELETE_SELF | _IN_MOVE_SELF

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: Callable[..., int], *arguments: object) -> int:
    result = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
