"""The relay program: its settings, signals, health checks and its way to a portal."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from http import HTTPStatus
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from firezone.cli.program import run
from firezone.errors import ConfigurationError
from firezone.explain.relay import RelayReport
from firezone.model import Endpoint, IPAddress
from firezone.phoenix import LoginUrl
from firezone.relay import RelayRole
from firezone.shell import relay_program
from firezone.shell.health import HealthAddress
from firezone.shell.relay_peers_file import read_peers
from firezone.shell.relay_program import RelayError, RelayProgram, RelaySettings
from firezone.shell.relay_users import read_users
from firezone.shell.rtnetlink import RtNetlink
from firezone.shell.status_socket import (
    RefusedError,
    StatusAddress,
    ask,
)
from firezone.shell.status_socket import (
    Request as StatusRequest,
)
from firezone.shell.unexpected import UnexpectedError
from firezone.turn.relay_allocate import Quotas
from firezone.turn.relay_peers import PeerPolicy
from tests.ports import free_port, relayed_ports

V4 = IPv4Address("127.0.0.1")
BASE = ["relay", "--public-ip4-addr", "127.0.0.1"]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("FIREZONE_", "PUBLIC_IP", "RUST_LOG", "LISTEN_PORT", "HEALTH_")):
            monkeypatch.delenv(name)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_text("0f" * 32 + "\n")
    return path


class TestSettings:
    """A wrong one ends the program with one line that names it, and exit code 2."""

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["relay"], "--public-ip4-addr"),
            (["relay", "--public-ip4-addr", "2001:db8::1"], "--public-ip4-addr"),
            (["relay", "--public-ip6-addr", "relay.example"], "--public-ip6-addr"),
            (BASE, "--api-url"),
            ([*BASE, "--api-url", "ftp://portal"], "api-url"),
            ([*BASE, "--lowest-port", "60000", "--highest-port", "50000"], "--lowest-port"),
            ([*BASE, "--listen-port", "50000"], "50000"),
            ([*BASE, "--api-url", "ws://p", "--one-port", "--xdp", "lo"], "--one-port"),
            ([*BASE, "--auth-secret-path", "/nonexistent"], "--auth-secret-path"),
            ([*BASE, "--api-url", "ws://p", "--auth-secret-path", "x"], "--auth-secret-path"),
            ([*BASE, "--api-url", "ws://p", "--ca", "/nonexistent"], "--ca"),
            ([*BASE, "--log-level", "loud"], "log level"),
            ([*BASE, "--users-file", "/nonexistent"], "--users-file"),
            ([*BASE, "--api-url", "ws://p", "--realm", "example.org"], "--realm"),
            ([*BASE, "--api-url", "ws://p", "--allow-peer", "10.0.0.1/8"], "--allow-peer"),
            ([*BASE, "--api-url", "ws://p", "--deny-peer", "everybody"], "--deny-peer"),
            ([*BASE, "--api-url", "ws://p", "--alternate-server", "relay"], "--alternate-server"),
            (
                [*BASE, "--api-url", "ws://p", *["--alternate-server", "192.0.2.9:1"] * 2],
                "two over IPv4",
            ),
            ([*BASE, "--workers", "0"], "--workers"),
            ([*BASE, "--workers", "33"], "--workers"),
        ],
    )
    def test_named(
        self,
        arguments: list[str],
        named: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("FIREZONE_TOKEN", "token")
        assert run(arguments) == 2
        assert named in capsys.readouterr().err

    def test_short_secret(self, secret: Path, capsys: pytest.CaptureFixture[str]) -> None:
        secret.write_text("short")
        assert run([*BASE, "--auth-secret-path", str(secret)]) == 2
        error = capsys.readouterr().err
        assert "less than 16 characters" in error and "short" not in error.replace(str(secret), "")

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
    def test_secret_that_others_can_read_or_write(
        self, secret: Path, mode: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        secret.chmod(mode)
        assert run([*BASE, "--auth-secret-path", str(secret)]) == 2
        error = capsys.readouterr().err
        assert f"chmod 600 {secret}" in error and "0f0f" not in error

    @pytest.mark.parametrize(
        ("text", "mode", "named"),
        [
            ("alice:secret\n", 0o644, "chmod 600"),
            ("# nobody\n\n", 0o600, "there is none"),
            ("alice:secret\nbob\n", 0o600, "users:2"),
            ("alice:\n", 0o600, "users:1"),
            (":secret\n", 0o600, "users:1"),
            ("alice:secret\nalice:other\n", 0o600, "users:2"),
            ("alice:sec\x00ret\n", 0o600, "users:1"),
            ("a" * 513 + ":secret\n", 0o600, "users:1"),
        ],
    )
    def test_users(
        self, tmp_path: Path, text: str, mode: int, named: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "users"
        path.write_text(text)
        path.chmod(mode)
        assert run([*BASE, "--users-file", str(path)]) == 2
        error = capsys.readouterr().err.replace(str(path), "users")
        assert named in error and "secret" not in error

    @pytest.mark.parametrize("address", ["8080", "host:", ":1", "host:port", "h:99999"])
    def test_health_address(
        self, secret: Path, address: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [*BASE, "--auth-secret-path", str(secret), "--health-check-addr", address]
        assert run(arguments) == 2
        assert "--health-check-addr" in capsys.readouterr().err

    def test_missing_token(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        missing = str(tmp_path / "token")
        assert run([*BASE, "--api-url", "ws://portal", "--token-path", missing]) == 2
        assert "FIREZONE_TOKEN" in capsys.readouterr().err


class Process:
    """The real program, logging JSON."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "firezone", *BASE, "--log-format", "json", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def wait_for(self, event: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            record: dict[str, Any] = json.loads(line)
            if record.get("event") == event:
                return record
        raise AssertionError(f"{event} was not told")


class TestProcess:
    @pytest.fixture
    def process(self, secret: Path) -> Iterator[Process]:
        running = Process(
            *("--listen-port", str(free_port()), "--auth-secret-path", str(secret)),
            *("--health-check-addr", "", "--lowest-port", "20000", "--highest-port", "20100"),
        )
        try:
            yield running
        finally:
            running.process.kill()
            running.process.communicate()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_idle_relay_exits_on_a_signal(self, process: Process, number: int) -> None:
        ready = process.wait_for("ready")
        assert ready["level"] == "INFO" and ready["elapsed_ms"] >= 0
        assert ready["workers"] == min(len(os.sched_getaffinity(0)), 4)
        process.process.send_signal(number)
        assert process.process.wait(10) == 0

    @pytest.mark.parametrize(("limit", "code"), [(8500, None), (8450, 2)])
    def test_limit_of_open_files(self, secret: Path, limit: int, code: int | None) -> None:
        """What it means for allocations is one line; without room for any it is the end."""
        prlimit = ["prlimit", f"--nofile={limit}:{limit}", sys.executable, "-m", "firezone"]
        options = ["--listen-port", str(free_port()), "--auth-secret-path", str(secret)]
        ports = ["--lowest-port", "20000", "--highest-port", "20100", "--health-check-addr", ""]
        # Without CAP_SYS_RESOURCE, by which root could raise the limit.
        weak = ["setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource"]
        drop = weak if os.geteuid() == 0 else []
        running = subprocess.Popen(
            [*drop, *prlimit, *BASE, *ports, *options], stderr=subprocess.PIPE, text=True
        )
        assert running.stderr is not None
        lines = [running.stderr.readline() for _ in range(2 if code is None else 1)]
        running.kill() if code is None else None
        rest = running.communicate(timeout=10)[1]
        told = [line for line in lines if "open files" in line]
        assert len(told) == 1 and f"{limit} are allowed" in told[0], lines
        assert "Traceback" not in rest
        assert code is None or running.returncode == code

    def test_listen_port_that_is_taken(self, secret: Path) -> None:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as taken:
            taken.bind(("", 0))
            port = str(taken.getsockname()[1])
            running = Process(
                *("--auth-secret-path", str(secret), "--listen-port", port),
                *("--lowest-port", "20000", "--highest-port", "20100"),
            )
            _, errors = running.process.communicate(timeout=10)
        assert running.process.returncode == 2
        assert "listen port" in errors and "Traceback" not in errors


def test_users_with_passwords(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("# staff\nalice:wonder:land\n\n  bob:käse \n")
    path.chmod(0o600)
    assert read_users(path, "--users-file") == {"alice": "wonder:land", "bob": "käse"}


@pytest.mark.parametrize(
    ("public", "options", "peer", "allowed"),
    [
        ("192.0.2.1", [], "10.1.1.1", False),
        ("10.0.0.1", [], "10.1.1.1", True),
        ("10.0.0.1", ["--deny-private-peers"], "10.1.1.1", False),
        ("192.0.2.1", ["--allow-private-peers"], "10.1.1.1", True),
        ("192.0.2.1", ["--allow-peer", "10.1.0.0/16"], "10.1.1.1", True),
        ("192.0.2.1", ["--allow-peer", "10.1.0.0/16", "--allow-peer", "::1"], "10.2.1.1", False),
        ("192.0.2.1", ["--deny-peer", "8.0.0.0/8"], "8.8.8.8", False),
    ],
)
def test_peers_of_settings(
    public: str,
    options: list[str],
    peer: str,
    allowed: bool,
    secret: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[RelaySettings] = []

    def run_relay(settings: RelaySettings) -> int:
        told.append(settings)
        return 0

    monkeypatch.setattr(relay_program, "run_relay", run_relay)
    arguments = ["--public-ip4-addr", public, "--auth-secret-path", str(secret)]
    assert run(["relay", *arguments, *options]) == 0
    (settings,) = told
    assert settings.peers.allows(Endpoint.of(peer, 53)) is allowed
    assert settings.quotas == Quotas(per_user=64, total=None, peers_per_user=4096)


def test_hangup_reads_the_users_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "users"

    async def test() -> None:
        path.touch(0o600)
        path.write_text("alice:one\n")
        users = read_users(path, "--users-file")
        program = RelayProgram(settings(None, users=users, users_file=path))
        running = asyncio.create_task(program.run())
        await until(lambda: "ready" in caplog.messages)
        path.write_text("alice:two\nbob:three\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "users read" in caplog.messages)
        assert [r.users for r in caplog.records if r.message == "users read"] == [2]  # type: ignore[attr-defined]
        path.write_text("nonsense\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "users are as before" in caplog.messages)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(running, 5) == 0

    with caplog.at_level("INFO"):
        asyncio.run(test())
    assert "two" not in caplog.text and "nonsense" not in caplog.text


def test_own_addresses_are_no_peers(secret: Path) -> None:
    program = asyncio.run(_made(settings(None)))
    assert V4 in program._server._permissions.peers.host_addresses


def test_own_addresses_are_read_again(
    secret: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And stay as they were where that fails."""
    added = Endpoint.of("192.0.2.99", 22)
    watches: list[Callable[[], bool]] = []

    class Watch:
        def __init__(self, look: Callable[[], bool]) -> None:
            watches.append(look)

        def close(self) -> None:
            watches.clear()

    monkeypatch.setattr(relay_program, "AddressWatch", Watch)

    async def test() -> None:
        program = RelayProgram(settings(None))
        running = asyncio.create_task(program.run())
        await until(lambda: "ready" in caplog.messages)
        (look,) = watches
        permissions = program._server._permissions
        assert permissions.peers.allows(added)
        monkeypatch.setattr(RtNetlink, "all_addresses", lambda self: {added.address})
        assert look() and not permissions.peers.allows(added)
        monkeypatch.setattr(RtNetlink, "all_addresses", _fails)
        assert not look() and not look()
        assert program._server.counters["host_addresses_not_read"] == 2
        assert permissions.peers.host_addresses == {added.address}
        program._handle_signal(program._role.handle_interrupt)
        assert await asyncio.wait_for(running, 5) == 0
        assert not watches

    with caplog.at_level("INFO"):
        asyncio.run(test())
    assert caplog.messages.count("addresses are as before") == 1


def test_hangup_reads_the_peers_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, peer = tmp_path / "peers", Endpoint.of("192.0.2.77", 53)
    path.write_text("# nobody yet\n\n")

    async def test() -> None:
        program = RelayProgram(replace(settings(None), peers_file=path))
        running = asyncio.create_task(program.run())
        await until(lambda: "ready" in caplog.messages)
        assert program._server._permissions.peers.allows(peer)
        path.write_text("deny 192.0.2.0/24\nallow 192.0.2.9\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "peers read" in caplog.messages)
        assert not program._server._permissions.peers.allows(peer)
        path.write_text("deny nonsense\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "peers are as before" in caplog.messages)
        assert not program._server._permissions.peers.allows(peer)
        program._handle_signal(program._role.handle_interrupt)
        assert await asyncio.wait_for(running, 5) == 0

    with caplog.at_level("INFO"):
        asyncio.run(test())
    (record,) = [r for r in caplog.records if r.message == "peers read"]
    assert (record.networks, record.cut_off) == (2, 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("line", ["refuse 192.0.2.1", "deny", "allow 192.0.2.1/24", "deny x y"])
def test_peers_that_cannot_be_read(tmp_path: Path, line: str) -> None:
    path = tmp_path / "peers"
    path.write_text(f"deny 192.0.2.0/24\n{line}\n")
    with pytest.raises(ConfigurationError, match="peers:2"):
        read_peers(path, "--peers-file", PeerPolicy())


def test_does_not_start_without_knowing_own_addresses(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RtNetlink, "all_addresses", _fails)
    with pytest.raises(RelayError, match="cannot tell the addresses of this host: No buffer"):
        asyncio.run(_made(settings(None)))


def _fails(netlink: RtNetlink) -> set[IPAddress]:
    raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


async def _made(settings: RelaySettings) -> RelayProgram:
    return RelayProgram(settings)


class Portal:
    """A scripted portal: what it was asked, and a way to push."""

    def __init__(self) -> None:
        self.port = 0
        self.status: int | None = None
        self.requests: list[Request] = []
        self.frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.connections: list[ServerConnection] = []
        self.closed = asyncio.Event()

    @property
    def url(self) -> LoginUrl:
        address = IPv4Address("127.0.0.1")
        base = f"ws://127.0.0.1:{self.port}"
        return LoginUrl.relay(base, "relay-token", name="lab", ipv4=address, port=3478)

    def check(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if self.status is None:
            return None
        return connection.respond(HTTPStatus(self.status), "no\n")

    async def talk(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        async for text in connection:
            frame = json.loads(text)
            await self.frames.put(frame)
            reply = {"status": "ok", "response": {}}
            fields = {"topic": frame["topic"], "ref": frame["ref"]}
            await connection.send(json.dumps({"event": "phx_reply", "payload": reply, **fields}))
            if frame["event"] == "phx_join":
                init = {"event": "init", "topic": "relay", "ref": None, "payload": {"more": 1}}
                await connection.send(json.dumps(init))
        self.closed.set()


@asynccontextmanager
async def a_portal() -> AsyncIterator[Portal]:
    portal = Portal()
    async with serve(
        portal.talk, "127.0.0.1", 0, process_request=portal.check, ping_interval=None
    ) as server:
        portal.port = next(iter(server.sockets)).getsockname()[1]
        yield portal


def settings(portal: Portal | None, **options: Any) -> RelaySettings:
    return RelaySettings(
        public_ipv4=IPv4Address("127.0.0.1"),
        public_ipv6=None,
        listen_port=free_port(),
        ports=relayed_ports(),
        peers=PeerPolicy(),
        url=None if portal is None else portal.url,
        auth_secret="0f" * 32 if portal is None else None,
        **options,
    )


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


class TestPortal:
    def test_joins_with_a_fresh_secret_and_leaves_on_terminate(self) -> None:
        secrets = []

        async def once() -> None:
            async with a_portal() as portal:
                program = RelayProgram(settings(portal))
                running = asyncio.create_task(program.run())
                join = await asyncio.wait_for(portal.frames.get(), 5)
                assert (join["topic"], join["event"]) == ("relay", "phx_join")
                secrets.append(join["payload"]["stamp_secret"])
                query = parse_qs(urlsplit(portal.requests[0].path).query)
                assert query == {
                    "token": ["relay-token"],
                    "name": ["lab"],
                    "ipv4": ["127.0.0.1"],
                    "port": ["3478"],
                }
                assert portal.requests[0].headers["User-Agent"].startswith("relay/")
                os.kill(os.getpid(), signal.SIGTERM)
                assert await asyncio.wait_for(running, 5) == 0
                await asyncio.wait_for(portal.closed.wait(), 5)

        asyncio.run(once())
        asyncio.run(once())
        assert all(len(secret) == 64 for secret in secrets)
        assert secrets[0] != secrets[1]

    def test_comes_back_with_the_same_secret(self) -> None:
        async def test() -> None:
            async with a_portal() as portal:
                running = asyncio.create_task(RelayProgram(settings(portal)).run())
                first = await asyncio.wait_for(portal.frames.get(), 5)
                await portal.connections[0].close()
                second = await asyncio.wait_for(portal.frames.get(), 5)
                assert first["payload"] == second["payload"]
                os.kill(os.getpid(), signal.SIGINT)
                assert await asyncio.wait_for(running, 5) == 0

        asyncio.run(test())

    def test_refused_token_ends_an_idle_relay_with_1(self) -> None:
        async def test() -> None:
            async with a_portal() as portal:
                portal.status = 401
                assert await asyncio.wait_for(RelayProgram(settings(portal)).run(), 5) == 1

        asyncio.run(test())

    def test_portal_that_is_away_stops_nothing(self) -> None:
        async def test() -> None:
            async with a_portal() as portal:
                portal.status = 503
                port = free_port()
                running = asyncio.create_task(
                    RelayProgram(settings(portal, health=HealthAddress("127.0.0.1", port))).run()
                )
                await until(lambda: len(portal.requests) > 1)
                assert await status(port, "/healthz") == 200
                assert await status(port, "/readyz") == 503
                portal.status = None
                join = await asyncio.wait_for(portal.frames.get(), 5)
                assert join["event"] == "phx_join"
                async with asyncio.timeout(5):
                    while await status(port, "/readyz") != 200:
                        await asyncio.sleep(0.01)
                assert await status(port, "/nothing") == 404
                os.kill(os.getpid(), signal.SIGINT)
                assert await asyncio.wait_for(running, 5) == 0

        asyncio.run(test())


def test_tells_its_status(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        path = tmp_path / "status"
        program = RelayProgram(settings(None, status=StatusAddress(path)))
        running = asyncio.create_task(program.run())
        await until(lambda: "ready" in caplog.messages)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"\xff", ("127.0.0.1", program._settings.listen_port))
        await until(lambda: program._dataplane.counters)
        report = await asyncio.to_thread(ask, path, StatusRequest("status"), RelayReport)
        assert (report.state, report.public, report.portal) == ("serving", ("127.0.0.1",), None)
        assert (report.allocations, report.capacity, report.users) == (0, 100, 0)
        assert report.counters == {"unknown_protocol": 1}
        with pytest.raises(RefusedError, match="cannot say"):
            await asyncio.to_thread(ask, path, StatusRequest("explain"), RelayReport)
        os.kill(os.getpid(), signal.SIGINT)
        assert await asyncio.wait_for(running, 5) == 0
        assert not path.exists()

    with caplog.at_level("INFO"):
        asyncio.run(test())


async def status(port: int, path: str) -> int:
    """The HTTP status that a health check gives."""

    def get() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                code: int = answer.status
                return code
        except urllib.error.HTTPError as error:
            return error.code

    return await asyncio.to_thread(get)


@pytest.mark.parametrize(
    "request_bytes", [b"\r\n\r\n", b"POST /healthz HTTP/1.1\r\n\r\n", b"\xff\r\n\r\n"]
)
def test_health_check_of_something_else(request_bytes: bytes) -> None:
    async def test() -> None:
        port = free_port()
        running = asyncio.create_task(
            RelayProgram(settings(None, health=HealthAddress("127.0.0.1", port))).run()
        )
        await asyncio.sleep(0)
        await until(lambda: _listens(port))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        os.kill(os.getpid(), signal.SIGINT)
        assert await asyncio.wait_for(running, 5) == 0

    asyncio.run(test())


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class TestUnexpected:
    def test_a_terminal_that_closes_does_not_end_it(self, caplog: pytest.LogCaptureFixture) -> None:
        async def test() -> None:
            running = asyncio.create_task(RelayProgram(settings(None)).run())
            await until(lambda: "ready" in caplog.messages)
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: any("SIGHUP" in line for line in caplog.messages))
            os.kill(os.getpid(), signal.SIGTERM)
            assert await asyncio.wait_for(running, 5) == 0

        with caplog.at_level("INFO"):
            asyncio.run(test())

    def test_a_mistake_in_a_timer_ends_it(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(_role: object, _now: int) -> None:
            raise ZeroDivisionError

        async def test() -> None:
            program = RelayProgram(settings(None))
            running = asyncio.create_task(program.run())
            await until(lambda: "ready" in caplog.messages)
            monkeypatch.setattr(RelayRole, "handle_timeout", broken)
            asyncio.get_running_loop().call_soon(program._dataplane._on_timer)
            with pytest.raises(UnexpectedError, match="ZeroDivisionError"):
                await asyncio.wait_for(running, 5)

        with caplog.at_level("INFO"):
            asyncio.run(test())
        assert [r.levelname for r in caplog.records if r.levelno >= 30] == ["ERROR"]
