"""The control socket, asked by our own client and by bare bytes."""

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from firezone.commands import WorkerStatus
from firezone.errors import ConfigurationError
from firezone.shell import wg_control
from firezone.shell.wg_control import ControlError, ControlSocket
from firezone.wireguard import (
    DeviceChange,
    DeviceStatus,
    ServiceStatus,
    SettingsError,
    UapiError,
    parse_status,
)

STATUS = DeviceStatus(None, 51820, 0, ())
SERVICE = ServiceStatus(
    (WorkerStatus(1, 2, 0), WorkerStatus(3, 4, 5)),
    ("tun-tso", "udp-gro"),
    {"interface: packet for nobody": 7, "data plane: bad tag": 1},
)


class Interface:
    def __init__(self) -> None:
        self.changes: list[DeviceChange] = []
        self.error: Exception | None = None

    def configure(self, change: DeviceChange) -> None:
        if self.error is not None:
            raise self.error
        self.changes.append(change)


def serve(directory: Path, ask: Callable[[Interface], object]) -> object:
    """Runs `ask` in a thread while the socket is served."""

    async def main() -> object:
        interface = Interface()
        control = ControlSocket(
            "wg9",
            status=lambda: STATUS,
            configure=interface.configure,
            service=lambda: SERVICE,
            directory=directory,
        )
        await control.start()
        try:
            return await asyncio.to_thread(ask, interface)
        finally:
            control.close()

    return asyncio.run(main())


def raw(directory: Path, *pieces: bytes) -> bytes:
    """What comes back until the connection is closed by either side."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(directory / "wg9.sock"))
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(4096):
            answer += data
        return answer


def test_get(tmp_path: Path):
    answer = serve(tmp_path, lambda _: wg_control.ask("wg9", b"get=1\n\n", tmp_path))
    assert isinstance(answer, bytes) and parse_status(answer) == STATUS


def test_how_it_is_served(tmp_path: Path):
    assert serve(tmp_path, lambda _: wg_control.service_of("wg9", tmp_path)) == SERVICE


@pytest.mark.parametrize("answer", [b"", b"errno=-71\n\n", b"errno"])
def test_what_another_program_serves(tmp_path: Path, answer: bytes):
    """It refuses to say how, or breaks off."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "wg9.sock"))
        listening.listen()

        def serve_one() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve_one)
        thread.start()
        assert wg_control.service_of("wg9", tmp_path) is None
        thread.join()


def test_requests_follow_each_other_in_any_pieces(tmp_path: Path):
    def ask(interface: Interface) -> None:
        answer = raw(tmp_path, b"set=1\nlisten_", b"port=7\n", b"\nget=1\n\nset=1\nfwmark=1\n\n")
        assert answer == b"errno=0\n\nlisten_port=51820\nerrno=0\n\nerrno=0\n\n"
        assert interface.changes == [DeviceChange(listen_port=7), DeviceChange(fwmark=1)]

    serve(tmp_path, ask)


def test_nonsense_changes_nothing(tmp_path: Path):
    def ask(interface: Interface) -> None:
        assert raw(tmp_path, b"set=1\nlisten_port=7\nnonsense\n\n") == b"errno=-22\n\n"
        assert raw(tmp_path, os.urandom(100) + b"\n\n").startswith(b"errno=-")
        assert raw(tmp_path, b"get=1\n") == b""
        assert interface.changes == []

    serve(tmp_path, ask)


@pytest.mark.parametrize(
    ("error", "number"),
    [(SettingsError("no"), errno.EINVAL), (UapiError("no", errno.EADDRINUSE), errno.EADDRINUSE)],
)
def test_what_the_interface_refuses(tmp_path: Path, error: Exception, number: int):
    def ask(interface: Interface) -> None:
        interface.error = error
        assert raw(tmp_path, b"set=1\n\n") == b"errno=-%d\n\n" % number

    serve(tmp_path, ask)


def test_only_its_owner_may_ask(tmp_path: Path):
    serve(tmp_path, lambda _: check_mode(tmp_path / "wg9.sock"))


def check_mode(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_names_and_process(tmp_path: Path):
    def ask(_: Interface) -> None:
        (tmp_path / "stale.sock").touch()
        assert wg_control.names(tmp_path) == ["wg9"]
        assert wg_control.process_of("wg9", tmp_path) == os.getpid()

    serve(tmp_path, ask)
    assert wg_control.names(tmp_path) == []
    assert not (tmp_path / "wg9.sock").exists()


def test_nobody_answers(tmp_path: Path):
    for ask in (lambda: wg_control.process_of("wg9", tmp_path), lambda: ask_get(tmp_path)):
        with pytest.raises(ControlError, match="no such interface is up"):
            ask()


def ask_get(directory: Path) -> bytes:
    return wg_control.ask("wg9", b"get=1\n\n", directory)


def test_an_interface_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wg_control, "_TIMEOUT_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hung:
        hung.bind(str(tmp_path / "wg9.sock"))
        hung.listen(0)
        assert wg_control.names(tmp_path) == ["wg9"]
        for _ in range(3):  # the last of which find no room
            with pytest.raises(ControlError, match="wg9: the interface does not answer"):
                ask_get(tmp_path)
        with pytest.raises(ConfigurationError, match="serves it already"):
            wg_control.check_unserved("wg9", tmp_path)
    assert wg_control.names(tmp_path) == []


def test_a_stale_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path):
    (tmp_path / "wg9.sock").touch()

    def ask(_: Interface) -> None:
        with pytest.raises(ConfigurationError, match=rf"process {os.getpid()} serves it already"):
            ControlSocket(
                "wg9", status=lambda: STATUS, configure=lambda _: None, directory=tmp_path
            )
        assert parse_status(ask_get(tmp_path)) == STATUS

    serve(tmp_path, ask)


def test_a_removed_socket_is_noticed(tmp_path: Path):
    async def main() -> None:
        control = ControlSocket(
            "wg9", status=lambda: STATUS, configure=lambda _: None, directory=tmp_path
        )
        assert control.is_there()
        (tmp_path / "wg9.sock").unlink()
        (tmp_path / "wg9.sock").touch()
        assert not control.is_there()
        control.close()
        assert (tmp_path / "wg9.sock").exists(), "it is somebody else's by now"

    asyncio.run(main())


@pytest.mark.parametrize("how", ["unlink", "rename", "replace"])
def test_a_removal_is_told_at_once_and_a_change_of_the_mode_is_none(tmp_path: Path, how: str):
    path = tmp_path / "wg9.sock"

    async def main() -> None:
        removed = asyncio.Event()
        control = ControlSocket(
            "wg9",
            status=lambda: STATUS,
            configure=lambda _: None,
            on_removed=removed.set,
            directory=tmp_path,
        )
        await control.start()
        path.chmod(0o640)
        await asyncio.to_thread(ask_get, tmp_path)
        assert not removed.is_set()
        match how:
            case "unlink":
                path.unlink()
            case "rename":
                path.rename(tmp_path / "elsewhere")
            case "replace":
                (tmp_path / "other").touch()
                (tmp_path / "other").rename(path)
        await asyncio.wait_for(removed.wait(), 5)
        control.close()

    asyncio.run(main())


def test_an_end_of_its_own_is_no_removal(tmp_path: Path):
    async def main() -> None:
        removed: list[bool] = []
        control = ControlSocket(
            "wg9",
            status=lambda: STATUS,
            configure=lambda _: None,
            on_removed=lambda: removed.append(True),
            directory=tmp_path,
        )
        await control.start()
        control.close()
        control.close()
        await asyncio.sleep(0)
        assert not removed

    asyncio.run(main())


def test_without_inotify_it_answers_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(_: Path) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(wg_control, "RemovalWatch", refuse)
    answer = serve(tmp_path, lambda _: ask_get(tmp_path))
    assert isinstance(answer, bytes) and parse_status(answer) == STATUS
    assert "nobody will notice" in caplog.text
