"""Runs a relay: joins its role to the sockets, the portal link, health checks and signals."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import ssl
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from firezone.durations import MILLISECOND
from firezone.errors import ConfigurationError, FirezoneError
from firezone.explain.relay import RelayReport
from firezone.model import Endpoint, Entropy, IPAddress
from firezone.phoenix import Event, Failed, LoginUrl
from firezone.phoenix.messages import relay as messages
from firezone.relay import LeavePortal, Progress, RelayRole, RoleEvent, Stop, portal_channel
from firezone.shell import loopback_forwarding
from firezone.shell.address_watch import AddressWatch
from firezone.shell.clock import boottime_ns, unix_ns
from firezone.shell.health import HealthAddress, start_health
from firezone.shell.introspection import PortalWatch
from firezone.shell.open_files import make_room
from firezone.shell.relay_dataplane import RelayDataplane
from firezone.shell.relay_introspection import RelayIntrospection
from firezone.shell.relay_listener import DESCRIPTORS_OF_STREAM, MAX_STREAMS, StreamListener
from firezone.shell.relay_peers_file import read_peers
from firezone.shell.relay_streams import TLS_PORT
from firezone.shell.relay_users import read_users
from firezone.shell.rtnetlink import RtNetlink
from firezone.shell.signals import ignore_hangup
from firezone.shell.status_socket import Request, StatusAddress, start_status
from firezone.shell.unexpected import end_on_error
from firezone.shell.websocket import PortalLink
from firezone.shell.xdp import XdpSettings, XdpTier
from firezone.turn.relay import Relay
from firezone.turn.relay_allocate import Quotas
from firezone.turn.relay_auth import make_stamp_secret
from firezone.turn.relay_peers import PeerPolicy

SOFTWARE = "firezone-relay"
MAX_DEFAULT_WORKERS = 4

logger = logging.getLogger("firezone.relay")


class RelayError(FirezoneError):
    """The relay cannot go on."""


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What a relay program is told. Without `url` it serves on its own: whoever has credentials
    from `auth_secret`, or is one of `users` (passwords by name)."""

    public_ipv4: IPv4Address | None
    public_ipv6: IPv6Address | None
    listen_port: int
    ports: range
    """Of allocations, unless `one_port`."""
    peers: PeerPolicy
    one_port: bool = False
    """Whether all allocations have the port that the relay listens on."""
    quotas: Quotas = field(default_factory=Quotas)
    alternates: Mapping[int, Endpoint] = field(default_factory=dict)
    """By family: where clients go when there is no room here."""
    url: LoginUrl | None = None
    ssl_context: ssl.SSLContext | None = None
    auth_secret: str | None = field(default=None, repr=False)
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    users_file: Path | None = None
    """From where they are read again at SIGHUP."""
    peers_file: Path | None = None
    """From where more networks are read, now and at SIGHUP, than `peers` has."""
    realm: str = "firezone"
    health: HealthAddress | None = None
    status: StatusAddress | None = None
    """Where to answer `firezone status --relay`."""
    streams: bool = True
    """Whether to serve clients over TCP, too, on the same port."""
    tls: ssl.SSLContext | None = None
    """To serve clients over TLS with, on `tls_port`."""
    tls_port: int = TLS_PORT
    workers: int = 1
    """Threads that forward data."""
    max_sockets: int | None = None
    """Of allocations, one in each family; None is as many as there are ports."""
    gso: bool = True
    gro: bool = True
    """Whether the kernel may split and merge datagrams, where it can."""
    xdp: XdpSettings | None = None
    """Where the kernel itself shall move what it can."""
    seed: int | None = None
    """Makes secret, nonces and ports predictable: for tests only."""

    @property
    def public(self) -> list[IPAddress]:
        """The public addresses there are, IPv4 first."""
        return [a for a in (self.public_ipv4, self.public_ipv6) if a is not None]

    @property
    def ports_text(self) -> str:
        """The ports of allocations, for people."""
        return str(self.listen_port) if self.one_port else f"{self.ports[0]}-{self.ports[-1]}"


class RelayProgram:
    """One running relay. `run` returns the exit code."""

    def __init__(self, settings: RelaySettings) -> None:
        self._settings = settings
        self._started = boottime_ns()
        self._exit_code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        entropy = _entropy(settings.seed)
        secret = settings.auth_secret
        if secret is None and settings.url is not None:
            secret = make_stamp_secret(entropy)
        self._server = _make_server(settings, secret, entropy, self._started)
        has_portal = settings.url is not None
        self._role = RelayRole(self._server, has_portal=has_portal, now=self._started)
        self._dataplane = self._make_dataplane()
        self._streams = self._make_streams()
        self._address_watch: AddressWatch | None = None
        self._portal: PortalLink[messages.Message] | None = None
        self._watch: PortalWatch | None = None
        if settings.url is not None and secret is not None:
            self._portal = self._link(settings.url, secret, entropy)
            self._watch = PortalWatch(settings.url.display, self._started)
        self._introspection = RelayIntrospection(
            self._role,
            self._dataplane,
            self._streams,
            public=settings.public,
            listen_port=settings.listen_port,
            ports=settings.ports_text,
            one_port=settings.one_port,
            started_at=self._started,
        )

    async def run(self) -> int:
        """Serve until told to stop. Raises ConfigurationError for ports that are taken, another
        FirezoneError for what ends it before."""
        end_on_error(self._fail)
        health = link = status = None
        try:
            health = await self._serve_health()
            self._dataplane.open()
            self._attach_xdp()
            status = await start_status(self._settings.status, self._answer)
            self._handle_signals()
            self._watch_addresses()
            await self._listen_on_streams()
            self._announce()
            if self._portal is not None:
                link = asyncio.create_task(self._portal.run())
                link.add_done_callback(self._handle_link_ended)
                self._portal.connect({})
            return await self._exit_code
        finally:
            if self._address_watch is not None:
                self._address_watch.close()
            await self._leave(link)
            self._streams.close()
            self._dataplane.close()
            for server in (health, status):
                if server is not None:
                    server.close()

    # Parts.

    def _make_dataplane(self) -> RelayDataplane:
        settings = self._settings
        return RelayDataplane(
            self._role,
            public=settings.public,
            listen_port=settings.listen_port,
            clock=boottime_ns,
            on_event=self._handle_role_event,
            on_failure=self._handle_failure,
            workers=settings.workers,
            max_sockets=settings.max_sockets,
            one_port=settings.one_port,
            gso=settings.gso,
            gro=settings.gro,
        )

    def _make_streams(self) -> StreamListener:
        return StreamListener(
            public=self._settings.public,
            port=self._settings.listen_port,
            clock=boottime_ns,
            on_opened=self._dataplane.handle_stream_opened,
            on_closed=self._dataplane.handle_stream_closed,
            has_allocation=self._server.has_allocation,
        )

    def _link(self, url: LoginUrl, secret: str, entropy: Entropy) -> PortalLink[messages.Message]:
        return PortalLink(
            portal_channel(url, secret, entropy=entropy, now=self._started),
            clock=boottime_ns,
            on_event=self._handle_portal_event,
            ssl_context=self._settings.ssl_context,
        )

    async def _serve_health(self) -> asyncio.Server | None:
        role = self._role
        checks: dict[str, Callable[[], int]] = {
            "/healthz": lambda: 200 if role.is_healthy(boottime_ns()) else 400,
            "/readyz": lambda: 200 if role.is_ready else 503,
        }
        return await start_health(self._settings.health, checks)

    def _attach_xdp(self) -> None:
        settings = self._settings
        if settings.xdp is None:
            if given_back := loopback_forwarding.give_back():
                self._log("forwarding_given_back", parameters=sorted(given_back))
        else:
            tier = XdpTier(settings.xdp, listen_port=settings.listen_port, ports=settings.ports)
            self._dataplane.use_xdp(tier)
            self._log("xdp_attached", interface=tier.interface, mode=tier.mode.name.lower())

    def _answer(self, request: Request) -> RelayReport:
        now = boottime_ns()
        portal = None if self._watch is None else self._watch.status(now)
        return self._introspection.answer(request, portal, now)

    async def _listen_on_streams(self) -> None:
        if self._settings.streams:
            await self._streams.listen(self._settings.listen_port)
        if self._settings.tls is not None:
            await self._streams.listen(self._settings.tls_port, self._settings.tls)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._handle_signal, self._role.handle_terminate)
        loop.add_signal_handler(signal.SIGINT, self._handle_signal, self._role.handle_interrupt)
        if self._settings.users_file is None and self._settings.peers_file is None:
            ignore_hangup()
        else:
            loop.add_signal_handler(signal.SIGHUP, self._read_files)

    def _read_files(self) -> None:
        if self._settings.users_file is not None:
            self._read_users(self._settings.users_file)
        if self._settings.peers_file is not None:
            self._read_peers(self._settings.peers_file)

    def _read_users(self, path: Path) -> None:
        """A file that cannot be used changes nothing."""
        try:
            users = read_users(path, "--users-file")
        except ConfigurationError as error:
            logger.error("users are as before", extra={"error": str(error)})
        else:
            self._server.handle_users(users)
            self._log("users_read", users=len(users))

    def _read_peers(self, path: Path) -> None:
        """A file that cannot be used changes nothing. What is not allowed any more ends at once."""
        try:
            peers = read_peers(path, "--peers-file", self._settings.peers)
        except ConfigurationError as error:
            logger.error("peers are as before", extra={"error": str(error)})
            return
        before = self._revoked
        self._server.handle_peer_networks(peers.allow, peers.deny, boottime_ns())
        self._dataplane.flush()
        networks = len(peers.allow) + len(peers.deny)
        self._log("peers_read", networks=networks, cut_off=self._revoked - before)

    def _watch_addresses(self) -> None:
        """And read them once more: they may have changed since the start."""
        try:
            self._address_watch = AddressWatch(self._read_addresses)
        except OSError as error:
            raise RelayError(f"cannot watch the addresses of this host: {error.strerror}") from None
        self._read_addresses()

    def _read_addresses(self) -> bool:
        """If it fails, the last ones stay this host's; one line says so, a counter how often."""
        before = self._revoked
        try:
            self._server.handle_host_addresses(_host_addresses(), boottime_ns())
        except RelayError as error:
            self._server.counters["host_addresses_not_read"] += 1
            if self._server.counters["host_addresses_not_read"] == 1:
                logger.warning("addresses are as before", extra={"error": str(error)})
            return False
        self._dataplane.flush()
        if self._revoked > before:
            self._log("own_addresses_changed", cut_off=self._revoked - before)
        return True

    @property
    def _revoked(self) -> int:
        """Channels and permissions whose peer stopped being allowed."""
        counters = self._server.counters
        return counters["channel_revoked"] + counters["permission_revoked"]

    def _handle_signal(self, handle: Callable[[int], None]) -> None:
        handle(boottime_ns())
        self._dataplane.flush()

    def _announce(self) -> None:
        settings = self._settings
        self._log(
            "ready",
            public=[str(address) for address in settings.public],
            listen_port=settings.listen_port,
            tcp=settings.streams,
            tls_port=None if settings.tls is None else settings.tls_port,
            ports=settings.ports_text,
            workers=settings.workers,
            private_peers=settings.peers.allow_private,
            user_quota=settings.quotas.per_user,
            users=len(settings.users),
            portal=settings.url.display if settings.url is not None else None,
        )

    def _handle_portal_event(self, event: Event[messages.Message]) -> None:
        self._role.handle_portal_event(event, boottime_ns())
        if self._watch is not None:
            self._watch.handle_event(event, boottime_ns())
        self._dataplane.flush()

    def _handle_failure(self, error: OSError) -> None:
        self._fail(RelayError(f"the data path has stopped: {error.strerror}"))

    def _fail(self, error: FirezoneError) -> None:
        if not self._exit_code.done():
            self._exit_code.set_exception(error)

    def _handle_link_ended(self, link: asyncio.Task[None]) -> None:
        """A link that ended in good order said so before."""
        if not link.cancelled() and (error := link.exception()) is not None:
            logger.error("the portal link broke", exc_info=error)
            self._handle_portal_event(Failed(f"{type(error).__name__}: {error}", False))

    def _handle_role_event(self, event: RoleEvent) -> None:
        match event:
            case Progress(name, fields):
                self._log(name, **fields)
                if name == "statistics":
                    self._log_drops()
            case LeavePortal():
                if self._portal is not None:
                    self._portal.close()
            case Stop(exit_code):
                if not self._exit_code.done():
                    self._exit_code.set_result(exit_code)

    async def _leave(self, link: asyncio.Task[None] | None) -> None:
        if link is None or self._portal is None:
            return
        self._portal.close()
        await asyncio.wait([link], timeout=_FAREWELL_SECONDS)
        link.cancel()
        await asyncio.gather(link, return_exceptions=True)

    def _log(self, name: str, **fields: object) -> None:
        elapsed = (boottime_ns() - self._started) // MILLISECOND
        extra = {"event": name, "elapsed_ms": elapsed, **fields}
        logger.log(_LEVELS.get(name, logging.INFO), name.replace("_", " "), extra=extra)

    def _log_drops(self) -> None:
        loads = {f"worker_{i}_packets": n for i, n in enumerate(self._dataplane.loads)}
        counters = self._server.counters + self._dataplane.answered
        counters += self._dataplane.counters + self._streams.counters
        logger.debug("counters", extra={**counters, **loads})


_COLLECT_AFTER = 20_000
"""Objects that were made and not freed again."""
_FAREWELL_SECONDS = 1.0
_LEVELS = {"portal_refused": logging.ERROR, "portal_lost": logging.WARNING}


def run_relay(settings: RelaySettings) -> int:
    """Run a relay to its end; the exit code. Raises FirezoneError for what makes it impossible."""
    serves_streams = settings.streams or settings.tls is not None
    room = make_room(
        sockets=0 if settings.one_port else len(settings.ports) * len(settings.public),
        others=DESCRIPTORS_OF_STREAM * MAX_STREAMS if serves_streams else 0,
    )
    settings = replace(settings, max_sockets=room)

    async def serve() -> int:
        return await RelayProgram(settings).run()

    _collect_seldom()
    return asyncio.run(serve())


def _collect_seldom() -> None:
    """An allocation is two dozen objects that stay, and leaves next to no cycles. By its own rule
    the interpreter would look through all there are time and again while clients come."""
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 10, 10)


def default_workers() -> int:
    """One for each CPU that this process may use, as far as that has been measured to help."""
    return min(len(os.sched_getaffinity(0)), MAX_DEFAULT_WORKERS)


def _make_server(settings: RelaySettings, secret: str | None, entropy: Entropy, now: int) -> Relay:
    return Relay(
        public_ipv4=settings.public_ipv4,
        public_ipv6=settings.public_ipv6,
        listen_port=settings.listen_port,
        ports=settings.ports,
        one_port=settings.one_port,
        auth_secret=secret,
        users=settings.users,
        realm=settings.realm,
        software=SOFTWARE,
        peers=_peers(settings),
        quotas=settings.quotas,
        alternates=settings.alternates,
        entropy=entropy,
        unix_now=unix_ns(),
        now=now,
    )


def _peers(settings: RelaySettings) -> PeerPolicy:
    """As of the start. Raises ConfigurationError, RelayError."""
    peers = settings.peers
    if settings.peers_file is not None:
        peers = read_peers(settings.peers_file, "--peers-file", peers)
    return replace(peers, host_addresses=_host_addresses())


def _host_addresses() -> frozenset[IPAddress]:
    """As they are now: no client shall reach this host's own services by any of them. Raises
    RelayError if the kernel does not tell: then nothing would keep clients from them."""
    try:
        with closing(RtNetlink()) as netlink:
            return frozenset(netlink.all_addresses())
    except OSError as error:
        raise RelayError(f"cannot tell the addresses of this host: {error.strerror}") from None


def _entropy(seed: int | None) -> Entropy:
    if seed is None:
        return os.urandom
    logger.warning("secret, nonces and ports are predictable: for tests only")
    return random.Random(seed).randbytes
