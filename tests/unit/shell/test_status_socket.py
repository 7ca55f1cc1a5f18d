"""The status socket: who may connect, what it answers, and what it leaves behind."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from firezone.errors import ConfigurationError, LocalError
from firezone.shell import status_socket
from firezone.shell.status_socket import (
    MAX_REQUEST,
    NotRunningError,
    RefusedError,
    Request,
    StatusAddress,
    StatusServer,
    ask,
    default_path,
    start_status,
)


def answer(request: Request) -> object:
    if request.what == "refuse":
        raise LocalError("no such thing")
    return {"what": request.what, "peer": request.peer}


def served(path: Path, query: Callable[[], object]) -> object:
    """What `query` gives while the socket is served."""

    async def scenario() -> object:
        server = StatusServer(path, answer)
        await server.start()
        try:
            return await asyncio.to_thread(query)
        finally:
            server.close()

    return asyncio.run(scenario())


def raw(path: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(request)
        received = b""
        while part := connection.recv(4096):
            received += part
    return received


def test_a_question_and_its_answer(tmp_path: Path) -> None:
    path = tmp_path / "s"
    got = served(path, lambda: ask(path, Request("explain", "me"), dict[str, str]))
    assert got == {"what": "explain", "peer": "me"}


def test_only_the_owner_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "s"
    mode = served(path, path.stat)
    assert stat.S_ISSOCK(mode.st_mode)
    assert stat.S_IMODE(mode.st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o022 == 0


def test_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "s"
    served(path, lambda: None)
    assert not path.exists()
    with pytest.raises(NotRunningError, match="no client or gateway answers at"):
        ask(path, Request("status"), dict)
    with pytest.raises(NotRunningError, match=r"no relay answers .* or name its --status-socket"):
        ask(path, Request("status"), dict, "relay")


def test_a_refusal_says_why(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(RefusedError, match="no such thing"):
        served(path, lambda: ask(path, Request("refuse"), dict))


def test_an_answer_of_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(NotRunningError, match="another version"):
        served(path, lambda: ask(path, Request("status"), int))


@pytest.mark.parametrize(
    "request_",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b'{"what": 1}\n',
        b'{"what": "status", "peer": []}\n',
        b"\xff\x00\xfe\n",
        b"[" * 1000 + b"\n",
        b"x" * (MAX_REQUEST + 1) + b"\n",
        b"x" * (MAX_REQUEST * 4),
    ],
)
def test_nonsense_is_answered_and_harms_nobody(tmp_path: Path, request_: bytes) -> None:
    path = tmp_path / "s"

    def query() -> tuple[bytes, object]:
        try:
            got = raw(path, request_)
        except ConnectionError:  # it was not read to its end
            got = b""
        return got, ask(path, Request("status"), dict)

    got, then = served(path, query)
    if got:
        assert msgspec.json.decode(got) == {"error": "not a request"}
    assert then["what"] == "status"


def test_a_silent_peer_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_socket, "TIMEOUT_SECONDS", 0.05)
    path = tmp_path / "s"
    assert served(path, lambda: raw(path, b"")) == b""


def test_too_many_at_once_are_hung_up_on(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def query() -> bytes:
        held = [socket.socket(socket.AF_UNIX) for _ in range(status_socket.MAX_CONNECTIONS)]
        for each in held:
            each.connect(str(path))
        try:
            return raw(path, b"")
        finally:
            for each in held:
                each.close()

    assert served(path, query) == b""


def test_what_a_crashed_run_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert served(path, lambda: ask(path, Request("status"), dict))


def test_a_living_socket_or_a_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ConfigurationError, match="another program answers"):
            served(path, lambda: None)
        assert path.exists()
    path.unlink()
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="what is no socket"):
        served(path, lambda: None)
    assert path.read_text() == "precious"


def test_an_impossible_place_is_an_error_only_where_somebody_chose_it(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 50)
    with pytest.raises(ConfigurationError, match="--status-socket"):
        asyncio.run(start_status(StatusAddress(path), answer))
    assert asyncio.run(start_status(StatusAddress(path, optional=True), answer)) is None
    assert asyncio.run(start_status(None, answer)) is None


def test_the_usual_place_bears_interface_and_namespace() -> None:
    path = default_path("tun0")
    assert path.parent == Path("/run/firezone")
    interface, _, rest = path.name.partition("-")
    assert interface == "tun0"
    assert rest.removesuffix(".sock").isdecimal()


def test_abandoned_sockets_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_socket, "ABANDONED_SECONDS", -1.0)
    crashed, served, file = (tmp_path / f"{name}.sock" for name in ("crashed", "served", "file"))
    file.touch()
    for path in (crashed, served):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    with socket.socket(socket.AF_UNIX) as serving:
        served.unlink()
        serving.bind(str(served))
        serving.listen()
        address = StatusAddress(tmp_path / "mine.sock", optional=True)

        async def scenario() -> None:
            server = await start_status(address, answer)
            assert server is not None
            server.close()

        asyncio.run(scenario())
        assert set(tmp_path.iterdir()) == {served, file}


def test_a_socket_that_was_just_made_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as starting:
        starting.bind(str(tmp_path / "s.sock"))
    status_socket.remove_abandoned(tmp_path)
    assert (tmp_path / "s.sock").exists()
