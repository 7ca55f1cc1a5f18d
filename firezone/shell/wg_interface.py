"""A running WireGuard interface: joins its machine to the TUN device, the sockets and wg(8).

Everything but packets is one asyncio thread. Each input goes into the device; then `_pump` carries
out all that it wants and sets the timer to its next deadline.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from firezone import commands
from firezone.commands import losses
from firezone.errors import ConfigurationError, FirezoneError, LocalError
from firezone.model import Endpoint
from firezone.shell.alarm import Alarm
from firezone.shell.clock import boottime_ns, unix_ns
from firezone.shell.dataplane import Dataplane
from firezone.shell.offload import ALL, Offloads, describe
from firezone.shell.signals import ignore_hangup
from firezone.shell.tun import Tun, open_tun
from firezone.shell.unexpected import end_on_error
from firezone.shell.wg_control import ControlSocket, check_unserved
from firezone.shell.wg_routes import WgRoutes
from firezone.shell.wg_sending import SendFailures, why_unreachable
from firezone.shell.wg_sockets import WgSockets
from firezone.shell.workers import choose_workers
from firezone.wireguard import (
    Config,
    Device,
    DeviceChange,
    DeviceStatus,
    InterfaceSection,
    PeerSection,
    ServiceStatus,
    UapiError,
    parse_config,
)
from firezone.wireguard.config import MTU_RANGE, HostPort

DEFAULT_MTU = 1420
"""Ethernet's, less what wraps a packet over IPv6."""

OnUp = Callable[[Callable[[], None]], None]

CONFIG_DIRECTORY = Path("/etc/wireguard")

_HOUSEKEEPING_SECONDS = 1.0
_SWEPT_AFTER_EVENTS = 256  # as many flows as a piece of events can make, and more
_LOOKUPS = 3
_PROBED = 64
_NAME = r"[a-zA-Z0-9_=+.-]{1,15}"


class InterfaceError(FirezoneError):
    """The interface cannot come up, or cannot go on."""


class Interface:
    """A WireGuard interface of this host, up from entering to leaving.

        from firezone.wg import Interface

        async def main() -> None:
            async with Interface.from_file("/etc/wireguard/wg0.conf") as wg0:
                print(wg0.status().listen_port)
                await wg0.wait()        # until wg0.stop(), or `firezone wg down wg0`

    wg(8) sees it and may change it. Raises ConfigurationError, MissingRightsError or
    InterfaceError if it cannot come up; then nothing of it is left.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        offloads: Offloads = ALL,
        workers: int | None = None,
        busy_poll: int = 0,
    ) -> None:
        """`workers` are the pairs of threads that share the work, None for what suits this host;
        `busy_poll` is for how many ns they look for work before they sleep."""
        self.name = name
        self._config = config
        self._offloads = offloads
        self._workers = choose_workers(workers)
        self._busy_poll = busy_poll
        self._device = Device(
            entropy=os.urandom,
            activity=lambda slot: self._dataplane.activity(slot),
            traffic=lambda slot: self._dataplane.traffic(slot),
            workers=self._workers,
            unix_now=unix_ns(),
            now=boottime_ns(),
        )
        self._mtu = config.interface.mtu or DEFAULT_MTU
        self._stopping = asyncio.Event()
        self._failure: FirezoneError | None = None
        self._alarm = Alarm(boottime_ns, self._handle_timer)
        self._housekeeping: asyncio.TimerHandle | None = None
        self._send_failed = 0
        self._sending = SendFailures(self._why_not_sent)
        self._opened = ExitStack()
        self._tun: Tun
        self._dataplane: Dataplane
        self._sockets: WgSockets
        self._control: ControlSocket

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        offloads: Offloads = ALL,
        workers: int | None = None,
        busy_poll: int = 0,
    ) -> Self:
        """As a file of wg-quick(8) says; its name is the interface's. Raises ConfigurationError."""
        return cls(*read_config(Path(path)), offloads, workers, busy_poll)

    async def __aenter__(self) -> Self:
        resolved = await _resolve(self._config.peers)
        try:
            await self._open(self._config.change(resolved))
            await self._run_all(self._config.interface.post_up)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        section = self._config.interface
        try:
            await self._run_all(section.pre_down, strict=False)
        finally:
            self._close()
        await self._run_all(section.post_down, strict=False)

    async def wait(self) -> None:
        """Return when `stop` was called. Raises InterfaceError if the interface broke."""
        await self._stopping.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End `wait`."""
        self._stopping.set()

    def status(self) -> DeviceStatus:
        """Everything that is set and seen, secrets included."""
        self._note_moves(boottime_ns())
        return self._device.status()

    def offloads(self) -> Offloads:
        """What the kernel does of what we wanted it to."""
        return self._dataplane.offloads()

    def workers(self) -> tuple[commands.WorkerStatus, ...]:
        """What each pair of threads has done."""
        return self._dataplane.worker_statuses()

    def service(self) -> ServiceStatus:
        """Workers, offloads, and what was dropped since the interface came up or got a new key."""
        dropped: Counter[str] = Counter()
        for part, counted in (
            ("data plane", losses(self._dataplane.counters())),
            ("interface", self._device.counters),
            ("handshake", self._device.handshake_counters),
            ("socket", self._sockets.counters),
        ):
            dropped.update({f"{part}: {reason}": n for reason, n in counted.items() if n})
        return ServiceStatus(
            self.workers(), tuple(describe(self.offloads())), dict(dropped.most_common())
        )

    def configure(self, change: DeviceChange) -> None:
        """Change settings and peers, as `wg set` does. Raises UapiError or SettingsError."""
        now = boottime_ns()
        self._device.check(change)
        self._note_moves(now)
        self._configure_sockets(change)
        key = self._device.public_key
        self._device.configure(change, now)
        self._device.listen_port = self._sockets.port
        if self._device.public_key != key:
            self._replace_dataplane(now)
        self._pump()

    # Coming up and going down.

    async def _open(self, change: DeviceChange) -> None:
        section = self._config.interface
        opened = self._opened
        self._tun = self._open_tun()
        opened.callback(self._tun.close)
        routes = WgRoutes(self.name)
        opened.callback(routes.close)
        self._control = ControlSocket(
            self.name,
            status=self.status,
            configure=self.configure,
            service=self.service,
            on_removed=self._handle_removal,
        )
        opened.callback(lambda: self._control.close())
        await self._run_all(section.pre_up)
        networks = [n for peer in self._config.peers for n in peer.allowed_ips]
        mark = section.fwmark or routes.choose_mark(section.table, networks)
        self._sockets = _sockets(section, mark, self._workers)
        opened.callback(lambda: self._sockets.close())
        # The data plane needs our key, and the peers need the data plane.
        self._device.configure(replace(change, peers=()), boottime_ns())
        self._dataplane = self._make_dataplane()
        opened.callback(lambda: self._close_dataplane())
        self._device.configure(change, boottime_ns())
        self._device.listen_port, self._device.fwmark = self._sockets.port, mark
        routes.set_addresses(section.addresses, self._mtu)
        self._start_dataplane()
        await self._control.start()
        routes.set_routes(section.table, networks, mark, section.addresses)
        self._pump()

    def _open_tun(self) -> Tun:
        try:
            return open_tun(self.name, self._offloads, self._workers)
        except ConfigurationError:
            check_unserved(self.name)  # knows better who has the name
            raise

    def _close(self) -> None:
        self._alarm.cancel()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        self._opened.close()

    async def _run_all(self, lines: Iterable[str], *, strict: bool = True) -> None:
        """Run commands of the file by a shell, one after the other."""
        for line in lines:
            text = line.replace("%i", self.name)
            shown = _without_keys(text)
            logger.info("running a command", extra={"command": shown})
            process = await asyncio.create_subprocess_shell(text, executable=_shell())
            code = await process.wait()
            if code and strict:
                raise InterfaceError(f"{self.name}: exit code {code} of: {shown}")
            if code:
                logger.warning("a command failed", extra={"command": shown, "exit_code": code})

    # Inputs.

    def _handle_dataplane(self) -> None:
        now = boottime_ns()
        # First of all: what moved before a handshake must not undo where that came from.
        self._note_moves(now)
        for event in self._dataplane.poll_events():
            match event:
                case commands.DatagramReceived(local, source, payload):
                    self._device.handle_datagram(local, source, payload, now)
                case commands.FlowMissed(direction, slot, packet):
                    self._device.handle_flow_missed(direction, slot, packet, now)
                case commands.PacketUnroutable(slot, packet):
                    self._device.handle_unroutable(slot, packet, now)
                case commands.SessionConfirmed(slot, local_index):
                    self._device.handle_session_confirmed(slot, local_index, now)
            self._carry_out(now)
        self._dataplane.sweep(now, _SWEPT_AFTER_EVENTS)
        self._plan_housekeeping()
        failure = self._dataplane.failure()
        if failure is not None:
            self._fail(InterfaceError(f"{self.name}: the data plane has stopped: {failure}"))
        self._pump()

    def _handle_timer(self) -> None:
        now = boottime_ns()
        self._note_moves(now)
        self._device.handle_timeout(now)
        self._pump()

    def _handle_removal(self) -> None:
        logger.info("the control socket was removed: going down")
        self.stop()

    def _plan_housekeeping(self) -> None:
        """An interface without flows, events and commands is not woken for it."""
        if self._housekeeping is None:
            loop = asyncio.get_running_loop()
            self._housekeeping = loop.call_later(_HOUSEKEEPING_SECONDS, self._keep_house)

    def _keep_house(self) -> None:
        self._housekeeping = None
        now = boottime_ns()
        self._dataplane.sweep(now)
        self._note_moves(now)
        self._note_failures(now)
        self._pump()
        if self._dataplane.flow_count:
            self._plan_housekeeping()

    def _note_moves(self, now: int) -> None:
        for move in self._dataplane.moved():
            self._device.handle_roamed(move.slot, move.local, move.remote, now)

    def _note_failures(self, now: int) -> None:
        """Packets fail to be sent when the local address that they are to come from is gone."""
        counted = self._dataplane.counters()
        failed = counted["send_failed"]
        if failed != self._send_failed:
            self._send_failed = failed
            self._device.forget_sources()
            self._plan_housekeeping()
        total = failed + self._sockets.failed
        if self._sending.look(total, counted["udp_sent_packets"], now):
            self._plan_housekeeping()

    def _why_not_sent(self) -> str:
        peers = self._device.status().peers
        endpoints = [peer.endpoint for peer in peers[:_PROBED] if peer.endpoint is not None]
        error = self._sockets.last_error
        return why_unreachable(endpoints, self._device.fwmark) or (
            os.strerror(error) if error else "unknown"
        )

    # Outputs.

    def _pump(self) -> None:
        """Do all that the device wants, then wait for its next deadline."""
        self._carry_out(boottime_ns())
        self._alarm.set(self._device.poll_timeout())

    def _carry_out(self, now: int) -> None:
        while (command := self._device.poll_command()) is not None:
            self._plan_housekeeping()
            try:
                self._dataplane.apply(command, now)
            except LocalError as error:
                logger.error("data plane refused a command", extra={"error": str(error)})
        while (transmit := self._device.poll_transmit()) is not None:
            if not self._sockets.send(transmit):
                self._device.handle_send_failed(transmit)
                self._plan_housekeeping()

    def _fail(self, error: FirezoneError) -> None:
        self._failure = self._failure or error
        self.stop()

    # Sockets and data plane.

    def _configure_sockets(self, change: DeviceChange) -> None:
        """What can fail comes first."""
        mark = self._device.fwmark if change.fwmark is None else change.fwmark
        try:
            if change.listen_port is not None and change.listen_port != self._sockets.port:
                fresh = WgSockets(change.listen_port, mark, self._workers)
                try:
                    self._dataplane.set_udp(fresh.fds(4), fresh.fds(6))
                except BaseException:
                    fresh.close()
                    raise
                self._sockets.close()
                self._sockets = fresh
            elif change.fwmark is not None:
                self._sockets.set_mark(mark)
        except OSError as error:
            raise UapiError(str(error.strerror), error.errno or 0) from None

    def _make_dataplane(self) -> Dataplane:
        made = Dataplane(
            tun=self._tun,
            udp4_fd=self._sockets.fds(4),
            udp6_fd=self._sockets.fds(6),
            # Nobody can reach an interface without a key, so any one will do.
            own_public_key=self._device.public_key or os.urandom(32),
            cookie_secret=self._device.cookie_secret,
            mtu=MTU_RANGE[-1],
            pass_fragments=True,
            takes_stun=False,
            offloads=self._offloads,
            busy_poll=self._busy_poll,
        )
        made.pad_packets(self._mtu)
        return made

    def _start_dataplane(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._dataplane.events_fd, self._handle_dataplane)
        self._dataplane.start()

    def _close_dataplane(self) -> None:
        asyncio.get_running_loop().remove_reader(self._dataplane.events_fd)
        self._dataplane.close()

    def _replace_dataplane(self, now: int) -> None:
        """One that knows our new key, and of the peers nothing but what the device says again."""
        self._close_dataplane()
        self._dataplane = self._make_dataplane()
        self._send_failed = 0
        self._device.replay(now)
        self._start_dataplane()


def read_config(path: Path) -> tuple[str, Config]:
    """The interface's name and settings. Raises ConfigurationError."""
    match = re.fullmatch(rf"({_NAME})\.conf", path.name)
    if match is None:
        raise ConfigurationError(
            "file name", path.name, "gives no interface name", "use 1 to 15 characters and .conf"
        )
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        raise ConfigurationError("file", str(path), "is not text", "write it as UTF-8") from None
    except OSError as error:
        raise ConfigurationError("file", str(path), str(error.strerror), "create it") from None
    return match[1], parse_config(text, str(path))


def run_interface(
    name: str,
    config: Config,
    on_up: OnUp | None = None,
    offloads: Offloads = ALL,
    workers: int | None = None,
    busy_poll: int = 0,
) -> None:
    """Serve an interface until SIGTERM, SIGINT or `firezone wg down`. Raises FirezoneError.

    `on_up` is given what logs once more that the interface is up, for a log that it changed.
    """

    async def serve() -> None:
        interface = Interface(name, config, offloads, workers, busy_poll)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, interface.stop)
        ignore_hangup()
        end_on_error(interface._fail)
        async with interface:
            told = {
                "interface": name,
                "offloads": describe(interface.offloads()),
                "workers": len(interface.workers()),
            }
            tell = partial(logger.info, "interface is up", extra=told)
            tell()
            if on_up is not None:
                on_up(tell)
            await interface.wait()

    asyncio.run(serve())


logger = logging.getLogger(__name__)


def _shell() -> str:
    """wg-quick's commands are meant for bash."""
    return next((path for path in ("/bin/bash", "/usr/bin/bash") if Path(path).exists()), "/bin/sh")


def _without_keys(text: str) -> str:
    return re.sub(r"[A-Za-z0-9+/]{42,}=*", "(hidden)", text)


def _sockets(section: InterfaceSection, mark: int, workers: int) -> WgSockets:
    port = section.listen_port
    try:
        return WgSockets(port, mark, workers)
    except OSError as error:
        raise ConfigurationError(
            "[Interface] ListenPort",
            section.places.get("listen_port", "any free port"),
            f"port {port}: {error.strerror}",
            "choose another port",
        ) from None


async def _resolve(peers: Iterable[PeerSection]) -> dict[HostPort, Endpoint]:
    return {
        peer.endpoint: await _look_up(peer.endpoint, peer.places.get("endpoint", "peer"))
        for peer in peers
        if peer.endpoint is not None
    }


async def _look_up(wanted: HostPort, place: str) -> Endpoint:
    loop = asyncio.get_running_loop()
    for attempt in range(_LOOKUPS):
        try:
            found = await loop.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_DGRAM)
        except socket.gaierror as error:
            problem = f"[Peer] Endpoint ({place}): {wanted.host!r}: {error.strerror}"
            if error.errno != socket.EAI_AGAIN or attempt == _LOOKUPS - 1:
                raise InterfaceError(problem) from None
            logger.info("a name is looked up again", extra={"problem": problem})
            await asyncio.sleep(1 << attempt)
        else:
            host, port, *rest = found[0][4]
            if rest and rest[1]:
                problem = "is link-local: such endpoints are not supported"
                raise InterfaceError(f"[Peer] Endpoint ({place}): {wanted.host!r} {problem}")
            return Endpoint.of(str(host), int(port))
    raise AssertionError("unreachable")
