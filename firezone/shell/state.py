"""What a program must remember between its runs: its identity, and what it changed in the system.

The journal of changes lives in /run, which a reboot empties just as it empties what the journal
speaks of. It is kept for each network namespace, because that is where the changes are. Numbers of
namespaces are used again, so it names its own in a way that is not.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import uuid
from pathlib import Path

import msgspec

from firezone.errors import ConfigurationError

RUNTIME_DIRECTORY = Path("/run/firezone")


class Journal:
    """Original values of what this program changes, so that even the next run can restore them.

    `name` tells programs of one network namespace apart, such as the name of their interface.
    """

    def __init__(self, name: str, directory: Path = RUNTIME_DIRECTORY) -> None:
        namespace = os.stat("/proc/self/ns/net").st_ino
        self._path = directory / f"{name}-{namespace}.json"

    def read(self) -> dict[str, str]:
        """What was changed and not restored; empty if nothing, or if the file makes no sense or
        speaks of another network namespace."""
        try:
            entry = msgspec.json.decode(self._path.read_bytes(), type=_Entry)
        except (OSError, msgspec.DecodeError):
            return {}
        return entry.originals if entry.namespace == namespace_identity() else {}

    def write(self, originals: dict[str, str]) -> None:
        """Record the original values. Call it before changing anything."""
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        entry = _Entry(namespace_identity(), originals)
        replace_file(self._path, msgspec.json.encode(entry), 0o600)

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)


def namespace_identity() -> str:
    """What tells this network namespace from all others, past ones included."""
    boot = _BOOT_ID.read_text().strip()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            cookie = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:  # before Linux 5.14
            return f"{boot}/inode {os.stat('/proc/self/ns/net').st_ino}"
    return f"{boot}/{struct.unpack('=Q', cookie)[0]}"


def device_id(path: Path) -> str:
    """The lasting id of this installation, kept in a file `{"id": "..."}` that is made if missing.

    Raises ConfigurationError for a file that holds anything else: it is not ours to overwrite.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Identity).id
    except FileNotFoundError:
        return _make_id(path)
    except OSError as error:
        raise ConfigurationError(
            "device id", str(path), str(error.strerror), "make the file readable, or pass an id"
        ) from None
    except msgspec.DecodeError:
        raise ConfigurationError(
            "device id", str(path), 'not {"id": "..."}', "restore the file, or delete it"
        ) from None


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Write a file so that readers see the old content or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SO_NETNS_COOKIE = 71


class _Entry(msgspec.Struct):
    namespace: str
    originals: dict[str, str]


class _Identity(msgspec.Struct):
    id: str


def _make_id(path: Path) -> str:
    made = hashlib.sha256(str(uuid.uuid4()).encode()).hexdigest()
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        replace_file(path, msgspec.json.encode(_Identity(made)), 0o640)
    except OSError as error:
        raise ConfigurationError(
            "device id",
            str(path),
            str(error.strerror),
            "make its directory writable, or pass an id",
        ) from None
    return made
