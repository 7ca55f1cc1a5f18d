"""The status socket: a Unix socket that answers one JSON request line with one JSON line.

    {"what": "status"}                     -> {"result": {...}}
    {"what": "explain", "peer": "..."}     -> {"result": {...}} or {"error": "..."}
    {"what": "relay-access"}               -> {"result": [...]}, which holds passwords

Only the owner may connect (mode 0600). It lives in /run, which several network namespaces may
share, so its usual name bears the namespace: whoever asks in the same one finds it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from firezone.errors import ConfigurationError, FirezoneError, LocalError, MissingRightsError
from firezone.shell.state import RUNTIME_DIRECTORY

MAX_REQUEST = 4096
MAX_ANSWER = 16 * 1024 * 1024
MAX_CONNECTIONS = 8
TIMEOUT_SECONDS = 5.0
ABANDONED_SECONDS = 60.0

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Request(msgspec.Struct, frozen=True):
    """What is asked."""

    what: str
    peer: str = ""


Answer = Callable[[Request], object]
"""Gives what is to be encoded as the result. Raises LocalError for what cannot be answered."""


class NotRunningError(FirezoneError):
    """Nobody answers at the status socket."""


class RefusedError(FirezoneError):
    """The program that was asked has no answer, and says why."""


@dataclass(frozen=True, slots=True)
class StatusAddress:
    """Where to answer. An `optional` one, which nobody chose, may be impossible."""

    path: Path
    optional: bool = False


def default_path(interface: str) -> Path:
    """The socket of the program with this interface in this network namespace."""
    namespace = os.stat("/proc/self/ns/net").st_ino
    return RUNTIME_DIRECTORY / f"{interface}-{namespace}.sock"


class StatusServer:
    """Serves a status socket until `close`."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path = path
        self._answer = answer
        self._open = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises ConfigurationError if the socket cannot be made."""
        listening = _bind(self._path)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listening, limit=MAX_REQUEST, backlog=MAX_CONNECTIONS
        )

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MAX_CONNECTIONS:
                await self._converse(reader, writer)
        finally:
            self._open -= 1
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(TIMEOUT_SECONDS):
                try:
                    line = await reader.readuntil(b"\n")
                except asyncio.LimitOverrunError:
                    line = b""
                writer.write(_respond(line, self._answer) + b"\n")
                await writer.drain()


async def start_status(address: StatusAddress | None, answer: Answer) -> StatusServer | None:
    """Serve until closed; None for nowhere.

    Raises ConfigurationError if the socket cannot be had, unless it is optional. Then it is in our
    own directory, where the sockets of crashed runs are removed, too.
    """
    if address is None:
        return None
    server = StatusServer(address.path, answer)
    if address.optional:
        remove_abandoned(address.path.parent)
    try:
        await server.start()
    except ConfigurationError as error:
        if not address.optional:
            raise
        logger.warning("no status socket", extra={"error": str(error)})
        return None
    return server


def remove_abandoned(directory: Path) -> None:
    """Remove the sockets in a directory of ours that nobody serves any more. Their names bear
    network namespaces that may never come back. One made just now may not be served yet."""
    for path in directory.glob("*.sock"):
        with suppress(OSError):
            if time.time() - path.lstat().st_ctime > ABANDONED_SECONDS:
                _remove_stale(path)


def ask(path: Path, request: Request, kind: type[T], who: str = "client or gateway") -> T:
    """Ask the program at a socket; its result as a `kind`. `who` should answer there, for errors.

    Raises NotRunningError, RefusedError, MissingRightsError.
    """
    try:
        line = _exchange(path, msgspec.json.encode(request) + b"\n")
    except PermissionError:
        raise MissingRightsError("CAP_DAC_OVERRIDE", f"ask the program at {path}") from None
    except OSError as error:
        reason = error.strerror or "no answer in time"
        raise NotRunningError(
            f"no {who} answers at {path}: {reason}; start one in this network namespace, or name "
            f"its {'' if who == 'relay' else '--interface or '}--status-socket"
        ) from None
    try:
        answer = msgspec.json.decode(line, type=_Reply[kind])  # type: ignore[valid-type]
    except msgspec.DecodeError:
        raise NotRunningError(f"what answers at {path} is of another version") from None
    if answer.error is not None or answer.result is None:
        raise RefusedError(answer.error or "no answer")
    return answer.result


class _Reply(msgspec.Struct, Generic[T], omit_defaults=True):
    result: T | None = None
    error: str | None = None


def _respond(line: bytes, answer: Answer) -> bytes:
    try:
        request = msgspec.json.decode(line, type=Request)
        return msgspec.json.encode(_Reply(result=answer(request)))
    except msgspec.DecodeError:
        return msgspec.json.encode(_Reply[object](error="not a request"))
    except LocalError as error:
        return msgspec.json.encode(_Reply[object](error=str(error)))


def _exchange(path: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(str(path))
        connection.sendall(request)
        received = bytearray()
        while len(received) < MAX_ANSWER and not received.endswith(b"\n"):
            part = connection.recv(65536)
            if not part:
                break
            received += part
    return bytes(received)


def _bind(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(path)
        # Before the bind, so that the socket never stands there with other rights.
        os.fchmod(listening.fileno(), 0o600)
        listening.bind(str(path))
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ConfigurationError(
            "status socket",
            str(path),
            error.strerror or str(error),
            "choose another place with --status-socket, or none with --status-socket ''",
        ) from None
    return listening


def _remove_stale(path: Path) -> None:
    """What a crashed run left. Nothing else is ever removed, nor a socket that is in use."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "the path is taken by what is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another program answers there")
