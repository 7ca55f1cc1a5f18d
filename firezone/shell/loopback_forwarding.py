"""The kernel parameters that the relay's tier in the kernel needs: `lo` may forward.

They are the network namespace's, not a relay's. So every relay that wants them holds a lock there,
which the kernel lets go when its process ends in whatever way; a journal has the values of before.
Whoever finds the lock free gives them back: the last relay that ends, or, after a crash, the next
that starts, whether it wants them itself or not.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from firezone.shell.state import RUNTIME_DIRECTORY, Journal

PARAMETERS: Final = tuple(Path(f"/proc/sys/net/ipv{v}/conf/lo/forwarding") for v in (4, 6))

logger = logging.getLogger("firezone.relay")


class LoopbackForwarding:
    """Lets `lo` forward, until closed. Raises OSError with the name of what cannot be written."""

    def __init__(self, directory: Path = RUNTIME_DIRECTORY) -> None:
        self._directory = directory
        self._changed: dict[str, str] = {}
        self._lock: int | None = None
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._lock = _locked(directory, fcntl.LOCK_SH, os.O_CREAT)
        except OSError as error:
            _warn(error)
        try:
            self._switch_on()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Give it back, unless another relay wants it."""
        if self._lock is None:
            _restore(self._changed)
        else:
            os.close(self._lock)
            self._lock = None
            give_back(self._directory, self._changed)
        self._changed = {}

    def _switch_on(self) -> None:
        self._changed = {str(p): "0" for p in PARAMETERS if _read(p) == "0"}
        if not self._changed:
            return
        journal = _journal(self._directory)
        if self._lock is not None:
            try:
                # Another relay that starts at this moment may write the same.
                journal.write(journal.read() | self._changed)
            except OSError as error:
                _warn(error)
        for path in self._changed:
            try:
                Path(path).write_text("1")
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None


def give_back(
    directory: Path = RUNTIME_DIRECTORY, more: dict[str, str] | None = None
) -> dict[str, str]:
    """Restore the values of before, by path, if no process holds them; which they were. `more` is
    known besides the journal."""
    try:
        lock = _locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # nobody ever held them, somebody does, or they are another user's
        return {}
    try:
        journal = _journal(directory)
        originals = journal.read() | (more or {})
        if not _restore(originals):
            return {}  # read-only for us: somebody else may have more luck
        with suppress(OSError):
            journal.clear()
            _lock_path(directory).unlink()
        return originals
    finally:
        os.close(lock)


def _locked(directory: Path, how: int, flags: int = 0) -> int:
    """A descriptor that holds the lock. Who lets go of it last removes the file, so that a lock may
    be of a file that is there no more."""
    path = _lock_path(directory)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(fd, how)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), path.stat()):
                    return fd
        except OSError:
            os.close(fd)
            raise
        os.close(fd)


def _restore(originals: dict[str, str]) -> bool:
    """Whether none was refused."""
    refused = False
    for path in PARAMETERS:
        if str(path) in originals:
            try:
                path.write_text(originals[str(path)])
            except OSError:
                refused = True
    return not refused


def _read(path: Path) -> str:
    """Empty for one that is not there, as without IPv6."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _journal(directory: Path) -> Journal:
    return Journal("xdp", directory)


def _lock_path(directory: Path) -> Path:
    return directory / f"xdp-{os.stat('/proc/thread-self/ns/net').st_ino}.lock"


def _warn(error: OSError) -> None:
    told = {"error": error.strerror}
    logger.warning("a crash would leave the loopback's forwarding on", extra=told)
