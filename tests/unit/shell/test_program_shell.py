"""A client or gateway as a program, on made-up devices: what ends it, and what it leaves behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from packets import udp

from firezone.client import Client
from firezone.commands import NOBODY, Action, BumpGeneration, Direction, FlowKey, InstallFlow
from firezone.durations import MILLISECOND, SECOND
from firezone.errors import FirezoneError
from firezone.gateway import Gateway
from firezone.model import Endpoint, Timeout
from firezone.phoenix import Inbound, Joined, LoginUrl
from firezone.phoenix.messages import gateway as messages
from firezone.roles import ConfigureTun, Role
from firezone.shell import flow_sweeper, tunnel_interface
from firezone.shell import program as shell
from firezone.shell.clock import boottime_ns
from firezone.shell.netlink import NetlinkError
from firezone.shell.program import Program, ProgramError
from firezone.shell.program_settings import Profile, Settings
from firezone.shell.sockets import PORT, UdpSockets
from firezone.shell.tun import Tun
from firezone.shell.unexpected import UnexpectedError

URL = LoginUrl.gateway("ws://127.0.0.1:1", "token", device_id="id", name="me")


class Host:
    """What the program would find on a real one, and the portal."""

    def __init__(self) -> None:
        self.tun, self.device = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.routes = Routes()
        self.portal: asyncio.Queue[object] = asyncio.Queue()
        self.opened: list[UdpSockets] = []

    def open_tun(self, name: str, *_: object) -> Tun:
        return Tun(os.dup(self.device.fileno()), name)

    def open_sockets(self, port: int = PORT, **_: object) -> UdpSockets:
        self.opened.append(UdpSockets(port))
        return self.opened[-1]

    def link(self, _channel: object, *, on_event: Callable[[object], None], **_: object) -> Link:
        return Link(self.portal, on_event)

    @property
    def is_left_clean(self) -> bool:
        """Every socket, the device and the routes are closed again."""
        ports = [s.fileno() for sockets in self.opened for s in sockets.all()]
        return self.routes.closed and set(ports) <= {-1}


class Routes:
    error: Exception | None = None
    closed = False

    def set_addresses(self, _ipv4: IPv4Address, _ipv6: IPv6Address) -> None:
        if self.error is not None:
            raise self.error

    def add_routes(self, _routes: object) -> set[object]:
        return set()

    def close(self) -> None:
        self.closed = True


class Link:
    """A link to a portal that says what the test says."""

    def __init__(self, events: asyncio.Queue[object], on_event: Callable[[object], None]) -> None:
        self._events = events
        self._on_event = on_event

    async def run(self) -> None:
        while True:
            self._on_event(await self._events.get())

    def connect(self, _payload: object) -> None: ...

    def send(self, _event: str, _payload: object) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host()
    monkeypatch.setattr(tunnel_interface, "open_tun", made.open_tun)
    monkeypatch.setattr(tunnel_interface, "TunnelRoutes", lambda _interface: made.routes)
    monkeypatch.setattr(shell, "UdpSockets", made.open_sockets)
    monkeypatch.setattr(shell, "PortalLink", made.link)
    yield made
    made.tun.close()
    made.device.close()


def run(
    role: type[Role],
    scenario: Callable[[Program], Awaitable[None]],
    **chosen: Any,
) -> FirezoneError | None:
    """Run a program beside a scenario, to its end; what ended it."""
    profile = Profile(role, "topic", messages.decode, "1.0.0", None)

    async def both() -> None:
        program = Program(profile, URL, Settings(**chosen))
        beside = asyncio.ensure_future(scenario(program))
        async with asyncio.timeout(10):
            try:
                await program.run()
            finally:
                await beside

    try:
        asyncio.run(both())
    except FirezoneError as error:
        return error
    return None


async def nothing(_program: Program) -> None: ...


async def stop(program: Program) -> None:
    program.stop()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


class Idle(Gateway):
    """Its clock does not tick."""

    def poll_timeout(self) -> Timeout | None:
        return None


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_it_ends_when_told_and_leaves_nothing(host: Host) -> None:
    assert run(Gateway, stop) is None
    assert host.is_left_clean


def test_a_mistake_in_a_timer_ends_it(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Gateway):
        def poll_timeout(self) -> Timeout:
            return Timeout(1, "test")

        def handle_timeout(self, now: int) -> None:
            raise ZeroDivisionError

    async def portal_speaks(program: Program) -> None:
        program._pump()

    assert isinstance(run(Broken, portal_speaks), UnexpectedError)
    assert len(told(caplog, logging.ERROR)) == 1
    assert host.is_left_clean


def test_a_mistake_over_a_packet_ends_it(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Idle):
        def handle_flow_missed(self, direction: object, slot: int, packet: bytes, now: int) -> None:
            raise KeyError(slot)

    host.tun.send(udp("100.64.0.2", "10.0.0.1", 1, 2))
    assert isinstance(run(Broken, nothing), UnexpectedError)
    assert len(told(caplog, logging.ERROR)) == 1
    assert host.is_left_clean


def test_an_interface_that_cannot_be_set_up_is_named(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    class Configured(Idle):
        def handle_message(self, _message: object, now: int) -> None:
            addresses = IPv4Address("100.64.0.1"), IPv6Address("fd00:2021:1111::1")
            self._events.append(ConfigureTun(*addresses, frozenset()))

    host.routes.error = NetlinkError("the kernel takes no address on tun0")
    host.portal.put_nowait(Inbound(object()))
    ended = run(Configured, nothing)
    assert str(ended) == "the kernel takes no address on tun0"
    assert not told(caplog, logging.ERROR)
    assert host.is_left_clean


def test_a_data_plane_that_does_not_start_leaves_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_plane: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(shell.Dataplane, "start", start)
    ended = run(Gateway, nothing)
    assert str(ended) == "the data plane does not start: can't start new thread"
    assert host.is_left_clean


def test_a_reset_moves_to_another_port_each_time(host: Host) -> None:
    async def reset_twice(program: Program) -> None:
        await asyncio.sleep(0.01)
        program.reset()
        program.reset()
        program.stop()

    assert run(Client, reset_twice) is None
    ports = [sockets.v4.port for sockets in host.opened if sockets.v4 is not None]
    assert len(set(ports)) == 3 and PORT not in ports[1:]
    assert host.is_left_clean


class Told(Idle):
    """Remembers what it is told of its host."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.hosts: list[list[Endpoint]] = []

    def set_host_addresses(self, addresses: Iterable[Endpoint], now: int) -> None:
        self.hosts.append([*addresses])
        super().set_host_addresses(self.hosts[-1], now)


class Interfaces:
    """What `HostCandidates` would find; a change is seen at the next look."""

    addresses = (ip_address("10.7.0.2"), ip_address("fd07::2"))
    closed = False

    def __init__(self, _tunnel: str = "") -> None:
        self.forgotten = 0

    def look(self, ports: Mapping[int, int]) -> list[Endpoint] | None:
        return [Endpoint(a, ports[a.version]) for a in self.addresses if a.version in ports]

    def forget(self) -> None:
        self.forgotten += 1

    def close(self) -> None:
        self.closed = True


def test_a_role_is_told_the_addresses_of_its_host_with_the_ports_of_its_sockets(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    interfaces = Interfaces()
    monkeypatch.setattr(shell, "HostCandidates", lambda _tunnel: interfaces)
    roles: list[Told] = []

    async def moves(program: Program) -> None:
        assert isinstance(program._role, Told)
        roles.append(program._role)
        program._handle_network_change()
        assert program._role.hosts == []
        program._handle_portal_event(Joined())
        interfaces.addresses = interfaces.addresses[:1]
        program._handle_network_change()
        program.reset()
        program.stop()

    assert run(Told, moves) is None
    first, changed, after = roles[0].hosts
    old, new = (sockets.v4.port for sockets in host.opened if sockets.v4 is not None)
    assert Endpoint.parse(f"10.7.0.2:{old}") in first
    assert changed == [Endpoint.parse(f"10.7.0.2:{old}")]
    assert after == [Endpoint.parse(f"10.7.0.2:{new}")]
    assert interfaces.forgotten == 1 and interfaces.closed


def test_nobody_looks_at_the_interfaces_when_told_not_to(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "HostCandidates", None)
    roles: list[Told] = []

    async def moves(program: Program) -> None:
        assert isinstance(program._role, Told)
        roles.append(program._role)
        program._handle_portal_event(Joined())
        program._handle_network_change()
        program.reset()
        program.stop()

    assert run(Told, moves, host_candidates=False) is None
    assert roles[0].hosts == []


def test_a_reset_without_new_sockets_ends_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(port: int = PORT, **_: object) -> UdpSockets:
        raise OSError(24, "Too many open files")

    async def reset(program: Program) -> None:
        monkeypatch.setattr(shell, "UdpSockets", none_left)
        program.reset()

    ended = run(Client, reset)
    assert isinstance(ended, ProgramError) and "Too many open files" in str(ended)
    assert host.is_left_clean


def test_a_gateway_goes_on_when_its_terminal_closes(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang_up(program: Program) -> None:
        await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: any("SIGHUP" in line for line in told(caplog, logging.INFO)))
        program.stop()

    with caplog.at_level(logging.INFO):
        assert run(Gateway, hang_up) is None


def test_it_sweeps_when_a_flow_may_have_ended_and_sleeps_until_then(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_sweeper, "SWEEP_INTERVAL", 10 * MILLISECOND)
    key = FlowKey(Direction.UP, NOBODY, 17, ip_address("10.0.0.1"), ip_address("10.0.0.2"), 1, 2)

    async def flows_come_and_go(program: Program) -> None:
        await asyncio.sleep(0.01)
        program._dataplane.sweep(boottime_ns())
        program._pump()
        assert program._sweeper.due_at is None
        program._dataplane.apply(InstallFlow(key, Action.DROP, NOBODY, NOBODY, 0, 0, None))
        program._pump()
        assert program._sweeper.due_at is not None
        assert program._sweeper.due_at - boottime_ns() > 200 * SECOND
        await asyncio.sleep(0.05)
        assert program._dataplane.flow_count == 1 and program._sweeper.due_at is not None
        program._dataplane.apply(BumpGeneration(NOBODY))
        program._pump()
        await until(lambda: program._dataplane.flow_count == 0)
        await until(lambda: program._sweeper.due_at is None)
        program.stop()

    assert run(Idle, flows_come_and_go) is None


def test_the_wall_clock_is_read_for_each_message_and_now_and_then(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    class Watched(Idle):
        def handle_wall_clock(self, unix_now: int, now: int) -> None:
            read.append(unix_now - now)

        def handle_message(self, _message: object, now: int) -> None:
            assert read, "the message may name a time"

    async def wake_up(program: Program) -> None:
        host.portal.put_nowait(Inbound(object()))
        await until(lambda: len(read) == 1)
        program._handle_timer()
        assert len(read) == 1
        monkeypatch.setattr(shell, "WALL_CLOCK_INTERVAL", 0)
        program._handle_timer()
        assert len(read) == 2
        program.stop()

    assert run(Watched, wake_up) is None
