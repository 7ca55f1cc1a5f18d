"""Watches the portal file and puts each good version of it in force.

The file is looked at on SIGHUP and when its size or time of change differ from the last look. An
error in it is reported with file and line, once a version, and the policy before stays in force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from firezone.errors import ConfigurationError
from firezone.portal.config import Config, parse

POLL_SECONDS = 1.0

_log = logging.getLogger(__name__)


def load(path: Path) -> Config:
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
    return parse(text, str(path))


class Reloader:
    """Calls `apply` with every new good version of the file."""

    def __init__(
        self,
        path: Path,
        apply: Callable[[Config], None],
        *,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._path = path
        self._apply = apply
        self._poll_seconds = poll_seconds
        self._wanted = asyncio.Event()
        self._seen = self._fingerprint()

    def request(self) -> None:
        """Read it now, changed or not: for SIGHUP."""
        self._wanted.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._wanted.wait()
            self.look()

    def look(self) -> None:
        """Read the file if it changed or was asked for."""
        fingerprint = self._fingerprint()
        if fingerprint == self._seen and not self._wanted.is_set():
            return
        self._wanted.clear()
        self._seen = fingerprint
        try:
            config = load(self._path)
        except ConfigurationError as error:
            _log.error("the portal file is not taken, the policy before stays: %s", error)
            return
        self._apply(config)
        _log.info("portal file in force", extra={"event": "reloaded", "file": str(self._path)})

    def _fingerprint(self) -> tuple[int, ...] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns
