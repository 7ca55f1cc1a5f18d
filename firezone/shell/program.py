"""Runs a role: joins its state machine to the TUN device, the sockets, the portal and the clock.

Everything is one asyncio thread. Each input goes into the role; then `_pump` carries out all that
the role wants, and sets the timer to its next deadline. Packets take the data plane's two threads
and come here only when they are undecided.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from firezone import commands
from firezone.durations import MILLISECOND, SECOND
from firezone.errors import FirezoneError, LocalError
from firezone.model import Endpoint, RelayId
from firezone.nat64 import Prefix
from firezone.node import StreamUnwanted, StreamWanted
from firezone.phoenix import Channel, Failed, Hiccup, Inbound, Joined, LoginUrl
from firezone.roles import ConfigureTun, Progress, Rebind, ReconnectPortal, Role, TellPortal
from firezone.shell.alarm import Alarm
from firezone.shell.clock import boottime_ns, unix_ns
from firezone.shell.dataplane import Dataplane
from firezone.shell.flow_sweeper import FlowSweeper
from firezone.shell.health import start_health
from firezone.shell.host_candidates import HostCandidates
from firezone.shell.introspection import Introspection, PortalWatch
from firezone.shell.nat64 import PrefixDiscovery
from firezone.shell.netlink import NetlinkError
from firezone.shell.network_watch import NetworkWatch
from firezone.shell.offload import describe
from firezone.shell.program_settings import Profile, Settings
from firezone.shell.relay_streams import RelayStreams
from firezone.shell.signals import ignore_hangup
from firezone.shell.sockets import UdpSockets, set_mark
from firezone.shell.status_socket import StatusServer, start_status
from firezone.shell.tunnel_interface import Closeable, TunnelInterface
from firezone.shell.unexpected import UnexpectedError, end_on_error
from firezone.shell.websocket import PortalLink, local_user_agent

WALL_CLOCK_INTERVAL = 30 * SECOND
"""How long the wall clock may go unread while something else wakes the program."""
_SWEPT_AFTER_EVENTS = 256  # as many flows as a piece of events can make, and more
_FAREWELL_SECONDS = 0.05

logger = logging.getLogger("firezone")


class ProgramError(FirezoneError):
    """The program cannot go on."""


class Program:
    """One running client or gateway. `run` returns when `stop` is called, else raises."""

    def __init__(self, profile: Profile, url: LoginUrl, settings: Settings) -> None:
        self.on_ready: Callable[[], None] | None = None
        """Called once, when the tunnel interface stands."""
        self._started = boottime_ns()
        self._profile = profile
        self._settings = settings
        self._stopping = asyncio.Event()
        self._failure: FirezoneError | None = None
        self._watch = PortalWatch(url.display, self._started)
        self._is_known = False
        self._alarm = Alarm(boottime_ns, self._handle_timer)
        self._sweeper = FlowSweeper(lambda: self._dataplane)
        self._clock_read_at = self._started
        self._role = self._make_role()
        self._discovery = PrefixDiscovery(self._handle_nat64)
        self._portal = self._make_link(url)
        self._introspection = Introspection(
            role=self._role,
            interface=settings.interface,
            portal=self._watch,
            counters=self._counters,
            started_at=self._started,
        )
        end_on_error(self._fail)
        self._handle_signals()
        with ExitStack() as opened:
            self._open_host(opened)
            self._closing = opened.pop_all()

    async def run(self) -> None:
        """Serve until `stop`. Raises FirezoneError for what ends it before."""
        link: asyncio.Future[None] | None = None
        moves: NetworkWatch | None = None
        servers: list[Closeable | None] = []
        try:
            self._start_dataplane()
            link = asyncio.ensure_future(self._portal.run())
            link.add_done_callback(self._handle_link_ended)
            servers.append(await self._serve_health())
            servers.append(await self._serve_status())
            self._connect()
            moves = self._watch_network()
            await self._stopping.wait()
            await self._say_goodbye()
        finally:
            self._portal.close()
            self._discovery.close()
            if moves is not None:
                moves.close()
            if link is not None:
                link.cancel()
                await asyncio.gather(link, return_exceptions=True)
            for server in servers:
                if server is not None:
                    server.close()
            self._close()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()

    def reset(self) -> None:
        """The network changed: connect anew, with a new key."""
        self._role.reset(boottime_ns())  # type: ignore[attr-defined]
        self._pump()

    # Inputs.

    def _handle_signals(self) -> None:
        """Before anything is changed in the host, so that no signal leaves it changed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        if self._profile.resets_on_hangup:
            loop.add_signal_handler(signal.SIGHUP, self.reset)
        else:
            ignore_hangup()

    def _handle_portal_event(self, event: object) -> None:
        self._watch.handle_event(event, boottime_ns())
        match event:
            case Joined():
                self._log_progress("portal_connected", {})
                self._is_known = True
                self._tell_host_addresses()
            case Inbound(message):
                now = boottime_ns()
                self._read_wall_clock(now)
                self._role.handle_message(message, now)
                self._pump()
            case Hiccup(error, delay):
                retry = {"error": error, "retry_in_ms": delay // MILLISECOND}
                logger.warning("portal unreachable", extra=retry)
            case Failed(reason):
                self._fail(ProgramError(reason))

    def _handle_link_ended(self, link: asyncio.Future[None]) -> None:
        """A link that ended in good order said so before."""
        if not link.cancelled() and (error := link.exception()) is not None:
            logger.error("the portal link broke", exc_info=error)
            self._fail(ProgramError(f"the portal link broke: {type(error).__name__}"))

    def _handle_dataplane(self) -> None:
        """A bounded piece of what waits; the loop comes back for the rest after everyone else."""
        now = boottime_ns()
        self._look_at_wall_clock(now)
        for event in self._dataplane.poll_events():
            match event:
                case commands.DatagramReceived(local, source, payload):
                    self._role.handle_datagram(local, source, payload, now)
                case commands.FlowMissed(direction, slot, packet):
                    self._role.handle_flow_missed(direction, slot, packet, now)
                case commands.PacketUnroutable(slot, packet):
                    self._role.handle_unroutable(slot, packet, now)
                case commands.SessionConfirmed(slot, local_index):
                    self._role.handle_session_confirmed(slot, local_index, now)
            self._carry_out()
        self._dataplane.sweep(now, _SWEPT_AFTER_EVENTS)
        failure = self._dataplane.failure()
        if failure is not None:
            self._fail(ProgramError(f"the data plane has stopped: {failure}"))
        self._pump()

    def _handle_stream_opened(self, relay: RelayId, local: Endpoint) -> None:
        self._role.handle_stream_opened(relay, local, boottime_ns())
        self._pump()

    def _handle_stream_closed(self, relay: RelayId) -> None:
        self._role.handle_stream_closed(relay, boottime_ns())
        self._pump()

    def _handle_timer(self) -> None:
        now = boottime_ns()
        self._look_at_wall_clock(now)
        self._role.handle_timeout(now)
        self._dataplane.sweep(now, _SWEPT_AFTER_EVENTS)
        self._pump()

    def _look_at_wall_clock(self, now: int) -> None:
        """Whatever woke us: a clock that was set is no reason to wake up by itself."""
        if now - self._clock_read_at >= WALL_CLOCK_INTERVAL:
            self._read_wall_clock(now)

    def _read_wall_clock(self, now: int) -> None:
        self._clock_read_at = now
        self._role.handle_wall_clock(unix_ns(), now)

    # Outputs.

    def _pump(self) -> None:
        """Do all that the role wants, then wait for its next deadline."""
        self._carry_out()
        self._alarm.set(self._role.poll_timeout())
        self._sweeper.arm(boottime_ns())

    def _carry_out(self) -> None:
        while (command := self._role.poll_command()) is not None:
            try:
                self._dataplane.apply(command)
            except LocalError as error:
                logger.error("data plane refused a command", extra={"error": str(error)})
        while (transmit := self._role.poll_transmit()) is not None:
            self._sockets.send(transmit)
        while (event := self._role.poll_event()) is not None:
            self._handle_role_event(event)

    def _handle_role_event(self, event: object) -> None:
        match event:
            case TellPortal(name, payload):
                self._portal.send(name, payload)
            case ConfigureTun():
                self._configure_tun(event)
            case Progress(name, fields):
                self._log_progress(name, dict(fields))
            case ReconnectPortal(reason):
                logger.info("reconnecting to the portal", extra={"reason": reason})
                self._connect()
            case Rebind():
                self._rebind()
            case StreamWanted() | StreamUnwanted():
                self._handle_stream_event(event)

    def _handle_stream_event(self, event: StreamWanted | StreamUnwanted) -> None:
        if self._streams is not None:
            self._streams.handle(event)
        elif isinstance(event, StreamWanted):
            # Not at once: the role is in the middle of something.
            loop = asyncio.get_running_loop()
            loop.call_soon(self._handle_stream_closed, event.relay)

    def _configure_tun(self, wanted: ConfigureTun) -> None:
        try:
            self._interface.configure(wanted)
        except NetlinkError as error:
            self._fail(error)
            return
        told = {
            "ipv4": wanted.ipv4,
            "ipv6": wanted.ipv6,
            "routes": sorted(str(route) for route in wanted.routes),
            "offloads": describe(self._dataplane.offloads()),
        }
        self._log_progress("tunnel_configured", told)
        if self.on_ready is not None:
            self.on_ready()
            self.on_ready = None

    def _log_progress(self, name: str, fields: dict[str, Any]) -> None:
        elapsed = (boottime_ns() - self._started) // MILLISECOND
        text = name.replace("_", " ")
        logger.info(text, extra={"event": name, "elapsed_ms": elapsed, **fields})

    # Parts.

    def _connect(self) -> None:
        key = base64.b64encode(self._role.node.public_key).decode()
        self._portal.connect({"public_key": key})

    def _make_link(self, url: LoginUrl) -> PortalLink[Any]:
        profile = self._profile
        self._channel: Channel[Any] = Channel(
            url=url,
            topic=profile.topic,
            join_payload=None,
            decode=profile.decode,
            max_elapsed=profile.max_partition,
            entropy=os.urandom,
            user_agent=local_user_agent(profile.version),
            now=self._started,
        )
        return PortalLink(
            self._channel,
            clock=boottime_ns,
            on_event=self._handle_portal_event,
            socket_factory=_marked_socket,
            ssl_context=self._settings.ssl_context,
        )

    def _make_role(self) -> Role:
        return self._profile.role(
            entropy=os.urandom,
            activity=lambda slot: self._dataplane.activity(slot),
            channel_received_at=lambda relay, n: self._dataplane.channel_received_at(relay, n),
            workers=self._settings.workers,
            unix_now=unix_ns(),
            now=self._started,
        )

    def _open_host(self, opened: ExitStack) -> None:
        """Set up this host. What is done so far is undone by closing `opened`."""
        chosen = self._settings
        self._interface = TunnelInterface(
            chosen.interface, chosen.offloads, chosen.workers, self._profile.prepare_host
        )
        opened.callback(self._interface.close)
        self._sockets = UdpSockets(workers=chosen.workers)
        opened.callback(lambda: self._sockets.close())
        self._streams = self._make_streams()
        opened.callback(self._close_streams)
        self._hosts = HostCandidates(chosen.interface) if chosen.host_candidates else None
        if self._hosts is not None:
            opened.callback(self._hosts.close)
        self._dataplane = self._make_dataplane()
        opened.callback(self._close_dataplane)

    def _watch_network(self) -> NetworkWatch | None:
        """None where the kernel does not tell."""
        try:
            return NetworkWatch(
                self._handle_move,
                self._handle_family_lost,
                self._discovery.handle_network,
                self._handle_network_change,
            )
        except OSError as error:
            logger.warning("changes of network go unnoticed", extra={"error": str(error)})
            return None

    def _handle_move(self) -> None:
        self._log_progress("network_changed", {})
        self.reset()

    def _handle_network_change(self) -> None:
        self._tell_host_addresses()
        self._pump()

    def _tell_host_addresses(self, *, anew: bool = False) -> None:
        """Before the portal has ever taken us in there is nobody to meet."""
        if self._hosts is None or not self._is_known:
            return
        if anew:
            self._hosts.forget()
        found = self._hosts.look({each.family: each.port for each in self._sockets.all()})
        if found is not None:
            told = [str(endpoint.address) for endpoint in found]
            self._log_progress("host_addresses", {"addresses": told})
            self._role.set_host_addresses(found, boottime_ns())

    def _handle_nat64(self, prefix: Prefix | None) -> None:
        self._log_progress("nat64_prefix", {"prefix": None if prefix is None else str(prefix)})
        self._role.handle_nat64(prefix, boottime_ns())
        self._pump()

    def _handle_family_lost(self) -> None:
        self._log_progress("address_family_lost", {})
        self._role.lose_family()
        self._pump()

    async def _serve_health(self) -> asyncio.Server | None:
        checks = {"/healthz": lambda: 200, "/readyz": lambda: 200 if self._watch.is_joined else 503}
        return await start_health(self._settings.health, checks)

    async def _serve_status(self) -> StatusServer | None:
        return await start_status(
            self._settings.status,
            lambda asked: self._introspection.answer(asked, self._dataplane, boottime_ns()),
        )

    def _counters(self) -> Mapping[str, Mapping[str, int]]:
        sockets = {f"socket v{s.family}": s.counters for s in self._sockets.all()}
        return {**sockets, "sockets": self._sockets.counters, "portal": self._channel.counters}

    def _make_streams(self) -> RelayStreams | None:
        """None where they are not wanted, or there is no IPv4 to join them with the data plane."""
        v4 = self._sockets.v4
        if v4 is None or not self._settings.streams:
            return None
        return RelayStreams(
            port=v4.port,
            clock=boottime_ns,
            open_socket=_marked_socket,
            on_opened=self._handle_stream_opened,
            on_closed=self._handle_stream_closed,
        )

    def _close_streams(self) -> None:
        if self._streams is not None:
            self._streams.close()

    def _make_dataplane(self) -> Dataplane:
        return Dataplane(
            tun=self._interface.tun,
            udp4_fd=self._sockets.fds(4),
            udp6_fd=self._sockets.fds(6),
            own_public_key=self._role.node.public_key,
            cookie_secret=self._role.node.cookie_secret,
            offloads=self._settings.offloads,
            busy_poll=self._settings.busy_poll,
        )

    def _start_dataplane(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._dataplane.events_fd, self._handle_dataplane)
        try:
            self._dataplane.start()
        except (OSError, RuntimeError) as error:
            raise ProgramError(f"the data plane does not start: {error}") from None

    def _rebind(self) -> None:
        """New sockets, and a data plane that knows the new key. Their ports differ from the old
        ones: relays know an allocation by its 5-tuple, and still hold those of the old key."""
        try:
            fresh = UdpSockets(port=0, workers=self._settings.workers)
            self._close_dataplane()
            self._close_streams()
            self._sockets.close()
            self._sockets = fresh
            self._streams = self._make_streams()
            self._dataplane = self._make_dataplane()
            self._start_dataplane()
            self._tell_host_addresses(anew=True)
        except OSError as error:
            self._fail(ProgramError(f"no new sockets after a change of network: {error}"))
        except ProgramError as error:
            self._fail(error)

    def _close_dataplane(self) -> None:
        asyncio.get_running_loop().remove_reader(self._dataplane.events_fd)
        self._dataplane.close()

    async def _say_goodbye(self) -> None:
        """Peers that hear it need not wait for a timeout. The data plane gets a moment to send.
        After a mistake of our own nobody knows what the role would say."""
        if isinstance(self._failure, UnexpectedError):
            return
        self._role.shut_down(boottime_ns())
        self._carry_out()
        await asyncio.sleep(_FAREWELL_SECONDS)

    def _fail(self, error: FirezoneError) -> None:
        self._failure = self._failure or error
        self.stop()

    def _close(self) -> None:
        self._alarm.cancel()
        self._sweeper.cancel()
        self._closing.close()


def run_program(
    profile: Profile, url: LoginUrl, settings: Settings, *, exit_when_ready: bool = False
) -> None:
    """Run a role until it is told to stop. Raises FirezoneError for what makes it impossible."""

    async def serve() -> None:
        program = Program(profile, url, settings)
        if exit_when_ready:
            program.on_ready = program.stop
        await program.run()

    asyncio.run(serve())


def _marked_socket(family: int, kind: int, protocol: int) -> socket.socket:
    """One whose traffic stays out of the tunnel."""
    made = socket.socket(family, kind, protocol)
    set_mark(made)
    return made
