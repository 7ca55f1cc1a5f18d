"""The socket by which wg(8) asks an interface: /var/run/wireguard/<name>.sock, for root only."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from firezone.errors import ConfigurationError, FirezoneError
from firezone.shell.inotify import RemovalWatch
from firezone.wireguard import (
    DeviceChange,
    DeviceStatus,
    GetWorkers,
    RequestReader,
    ServiceStatus,
    SettingsError,
    UapiError,
    format_service,
    format_status,
    parse_service,
    reply,
)

DIRECTORY = Path("/var/run/wireguard")

_TIMEOUT_SECONDS = 5.0
_NOBODY = (FileNotFoundError, ConnectionRefusedError)

logger = logging.getLogger(__name__)


class ControlError(FirezoneError):
    """No running interface of that name answers."""


class _BrokenOffError(ControlError):
    """It closed the connection instead of an answer."""


class ControlSocket:
    """Answers `get=1` by `status`, `get=workers` by `service` and `set=1` by `configure`, until
    closed.

    `configure` raises UapiError or SettingsError when it did nothing. `on_removed` is called when
    somebody has removed the socket, which tells the interface to go.
    """

    def __init__(
        self,
        name: str,
        *,
        status: Callable[[], DeviceStatus],
        configure: Callable[[DeviceChange], None],
        service: Callable[[], ServiceStatus] = ServiceStatus,
        on_removed: Callable[[], None] = lambda: None,
        directory: Path = DIRECTORY,
    ) -> None:
        """Bind the socket. Raises ConfigurationError if another interface answers there."""
        self._path = directory / f"{name}.sock"
        self._status = status
        self._configure = configure
        self._service = service
        self._on_removed = on_removed
        self._watch: RemovalWatch | None = None
        self._server: asyncio.Server | None = None
        self._socket = _bind(self._path)
        self._inode = self._path.stat().st_ino

    async def start(self) -> None:
        """Begin to answer."""
        self._server = await asyncio.start_unix_server(self._serve, sock=self._socket)
        try:
            self._watch = RemovalWatch(self._path)
        except OSError as error:
            told = {"path": str(self._path), "error": error.strerror}
            logger.warning("nobody will notice if the control socket is removed", extra=told)
            return
        asyncio.get_running_loop().add_reader(self._watch.fd, self._handle_change, self._watch)

    def is_there(self) -> bool:
        """False once somebody has removed the socket."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        self._stop_watching()
        if self._server is not None:
            self._server.close()
        self._socket.close()
        if self.is_there():
            self._path.unlink(missing_ok=True)

    def _handle_change(self, watch: RemovalWatch) -> None:
        watch.clear()
        if not self.is_there():
            self._stop_watching()
            self._on_removed()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fd)
            self._watch.close()
            self._watch = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests = RequestReader()
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if not self._feed(requests, data, writer):
                    break
                await writer.drain()
        writer.close()

    def _feed(self, requests: RequestReader, data: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer what is whole by now. False if the connection is of no more use."""
        try:
            requests.feed(data)
        except UapiError as error:
            writer.write(reply(error.number))
            return False
        while True:
            try:
                request = requests.poll_request()
                if request is None:
                    return True
                writer.write(self._answer(request))
            except UapiError as error:
                writer.write(reply(error.number))
            except SettingsError:
                writer.write(reply(errno.EINVAL))

    def _answer(self, request: object) -> bytes:
        if isinstance(request, DeviceChange):
            self._configure(request)
            return reply()
        if isinstance(request, GetWorkers):
            return format_service(self._service()) + reply()
        return format_status(self._status()) + reply()


def check_unserved(name: str, directory: Path = DIRECTORY) -> None:
    """Raise ConfigurationError if some process serves an interface of that name."""
    if not _answers(directory / f"{name}.sock"):
        return
    try:
        who = f"process {process_of(name, directory)}"
    except ControlError:
        who = "another instance"
    raise ConfigurationError(
        "interface name",
        name,
        f"{who} serves it already",
        f"take it down by `firezone wg down {name}`, or choose another name",
    )


def names(directory: Path = DIRECTORY) -> list[str]:
    """The interfaces whose sockets answer."""
    return sorted(path.stem for path in directory.glob("*.sock") if _answers(path))


def ask(name: str, request: bytes, directory: Path = DIRECTORY) -> bytes:
    """Send a whole request to a running interface and return the answer. Raises ControlError."""
    with _connected(name, directory) as connection:
        return _exchange(connection, name, request)


def service_of(name: str, directory: Path = DIRECTORY) -> ServiceStatus | None:
    """How a running interface is served; None if another program serves it, which refuses to say
    or breaks off. Raises ControlError if nobody answers at all."""
    with _connected(name, directory) as connection:
        try:
            return parse_service(_exchange(connection, name, b"get=workers\n\n"))
        except _BrokenOffError:
            return None


def process_of(name: str, directory: Path = DIRECTORY) -> int:
    """The process that serves an interface. Raises ControlError."""
    with _connected(name, directory) as connection:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("3i", credentials)[0]
    if pid <= 0:
        raise ControlError(f"{name}: its process is in another namespace of processes")
    return pid


def _exchange(connection: socket.socket, name: str, request: bytes) -> bytes:
    answer = b""
    try:
        connection.sendall(request)
        while not answer.endswith(b"\n\n"):
            data = connection.recv(1 << 16)
            if not data:
                raise _BrokenOffError(f"{name}: the interface broke off")
            answer += data
    except (BrokenPipeError, ConnectionResetError):
        raise _BrokenOffError(f"{name}: the interface broke off") from None
    except OSError:
        raise ControlError(f"{name}: the interface does not answer") from None
    return answer


def _connected(name: str, directory: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_TIMEOUT_SECONDS)
    try:
        connection.connect(str(directory / f"{name}.sock"))
    except OSError as error:
        connection.close()
        if isinstance(error, PermissionError):
            raise ControlError(f"{name}: only root may ask the interface") from None
        if isinstance(error, _NOBODY):
            raise ControlError(f"{name}: no such interface is up") from None
        raise ControlError(f"{name}: the interface does not answer") from None
    return connection


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_TIMEOUT_SECONDS)
        with suppress(OSError):  # whoever is too busy, or is not for us to ask, is there
            try:
                probe.connect(str(path))
            except _NOBODY:
                return False
    return True


def _bind(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    check_unserved(path.stem, path.parent)
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        made.bind(str(path))
        made.listen()
    finally:
        os.umask(mask)
    made.setblocking(False)
    return made
