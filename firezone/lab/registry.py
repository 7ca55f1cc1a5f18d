"""Keeps labs apart: each has a name of its own, and what a crashed one left is found and removed.

A lab's name is a file that its process holds a lock on, and that says where its logs are. The
kernel drops the lock however the process ends, so a file without a lock belongs to a lab that is
gone.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from firezone.lab import netns

DIRECTORY = Path("/run/firezone-lab")


@dataclass(frozen=True, slots=True)
class Claim:
    """A name that is ours until `release`, or until this process ends."""

    name: str
    fd: int

    def make_directory(self) -> Path:
        """A temporary directory that is removed with all else if this process crashes."""
        made = tempfile.mkdtemp(prefix=f"{self.name}-")
        os.pwrite(self.fd, made.encode(), 0)
        return Path(made)

    def release(self) -> None:
        with suppress(FileNotFoundError):
            (DIRECTORY / self.name).unlink()
        os.close(self.fd)


def claim() -> Claim:
    """Take a free name. Removes what crashed labs left, on the way."""
    with _alone():
        _sweep()
        while True:
            name = f"fz{secrets.token_hex(2)}"
            with suppress(FileExistsError):
                fd = os.open(DIRECTORY / name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
                fcntl.flock(fd, fcntl.LOCK_EX)
                return Claim(name, fd)


def sweep() -> list[str]:
    """Remove what crashed labs left; returns their names. Living labs are not touched."""
    with _alone():
        return _sweep()


def _sweep() -> list[str]:
    gone = []
    for path in DIRECTORY.glob("fz*"):
        fd = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            netns.remove(netns.existing(f"{path.name}-"))
            _remove_directory(path)
            path.unlink()
            gone.append(path.name)
        except BlockingIOError:
            pass  # its lab lives
        finally:
            os.close(fd)
    return gone


def _remove_directory(entry: Path) -> None:
    directory = Path(entry.read_text())
    if directory.name.startswith(f"{entry.name}-"):
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _alone() -> Iterator[None]:
    """A new name must not look abandoned to others before it is locked."""
    DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    fd = os.open(DIRECTORY / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
