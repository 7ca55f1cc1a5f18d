"""Reads files that hold secrets, and refuses those that other users of the host can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from firezone.errors import ConfigurationError

_TOO_OPEN = 0o077


def read_private(path: Path, setting: str) -> str:
    """The text of a file. Pipes may be open to anyone: they are gone once they are read.

    `setting` names what it holds, for the error. Raises ConfigurationError for rights that are too
    wide, OSError and UnicodeDecodeError for what cannot be read.
    """
    with path.open(encoding="utf-8") as opened:
        mode = os.fstat(opened.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & _TOO_OPEN:
            raise ConfigurationError(
                setting, str(path), "other users can read the file", f"run: chmod 600 {path}"
            )
        return opened.read()
