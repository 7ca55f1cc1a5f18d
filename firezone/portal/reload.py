"""Watches the portal file and puts each good version of it in force.

The start of a file can be a good file that lacks the rest, its tokens for example, and peers that
are refused give up for good. So a changed file is taken only when it looks the same twice in a row:
at the next look, or after a short while if SIGHUP said that it is ready. A program that replaces
the file by a rename has no half-written moment at all, and should.

An error in the file is reported with file and line, once a version, and the policy before stays in
force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from firezone.errors import ConfigurationError
from firezone.portal.config import PortalFile, parse

POLL_SECONDS = 1.0
QUIET_SECONDS = 0.2
"""From SIGHUP until the file is looked at again."""

Fingerprint = tuple[int, ...] | None

_log = logging.getLogger(__name__)


def load(path: Path) -> PortalFile:
    """Read a portal file. Raises ConfigurationError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(
            "config", str(path), "there is no such file", "make one with: firezone portal init"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            "config", str(path), str(error), "give a readable TOML file"
        ) from None
    file = parse(text, str(path))
    for warning in file.warnings:
        _log.warning("%s", warning)
    return file


def fingerprint(path: Path) -> Fingerprint:
    """Differs from before when the file was changed or replaced; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Reloader:
    """Calls `apply` with every new good version of the file; `loaded` is the one in force."""

    def __init__(
        self,
        path: Path,
        apply: Callable[[PortalFile], None],
        *,
        loaded: Fingerprint,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._path = path
        self._apply = apply
        self._poll_seconds = poll_seconds
        self._wanted = asyncio.Event()
        self._is_asked = False
        self._settled = loaded
        self._changing: tuple[Fingerprint] | None = None

    def request(self) -> None:
        """Read it now, changed or not: for SIGHUP."""
        self._is_asked = True
        self._changing = None
        self._wanted.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            is_soon = self._is_asked and self._changing is not None
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_SECONDS if is_soon else self._poll_seconds):
                    await self._wanted.wait()
            self._wanted.clear()
            self.look()

    def look(self) -> None:
        """Look at the file: one that changed or was asked for is read at the second look."""
        seen = fingerprint(self._path)
        if seen == self._settled and not self._is_asked:
            self._changing = None
        elif self._changing != (seen,):
            self._changing = (seen,)
        else:
            self._read(seen)

    def _read(self, seen: Fingerprint) -> None:
        try:
            file = load(self._path)
            problem = None
        except ConfigurationError as error:
            file, problem = None, error
        if fingerprint(self._path) != seen:
            self._changing = None
            return
        self._settled, self._changing, self._is_asked = seen, None, False
        if file is None:
            _log.error("the portal file is not taken, the policy before stays: %s", problem)
            return
        self._apply(file)
        _log.info("portal file in force", extra={"event": "reloaded", "file": str(self._path)})
