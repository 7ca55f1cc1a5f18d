"""Takes TURN over TCP and TLS for the relay (RFC 8656 section 3.1).

Each stream is joined by a `Bridge` with the relay's own UDP port on the loopback interface, so the
relay's machine and its compiled data path serve it as they serve anybody; they are told only whom
it stands for. A stream costs at most `MAX_BACKLOG`, one incomplete message and two descriptors.

Who may keep one open: whoever has an allocation, and others for `QUIET`, whatever they send: that
costs a stranger nothing. Streams are limited in all and per source network, and count from the
moment they are accepted: a TLS handshake that is never finished costs more than a stream. Where all
places are taken, a newcomer gets that of the oldest stream without an allocation.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from ipaddress import IPv4Address, IPv6Network

from firezone.durations import SECOND
from firezone.errors import ConfigurationError
from firezone.model import Endpoint, IPAddress
from firezone.shell.turn_bridge import Bridge, loopback_of

MAX_STREAMS = 4096
DESCRIPTORS_OF_STREAM = 2
MAX_STREAMS_OF_SOURCE = 256
"""From one IPv4 address or IPv6 /64: a large office behind one NAT."""
MAX_STREAMS_OF_SITE = 1024
"""From one IPv6 /48, which anybody may have to himself."""
QUIET = 60 * SECOND
"""Without an allocation, from the opening or from when the last one was seen."""
SWEEP_SECONDS = 10.0
TLS_HANDSHAKE_SECONDS = 10.0
BACKLOG = 512
_PAUSE_SECONDS = 1.0
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

logger = logging.getLogger("firezone.relay")

Sources = tuple[IPv4Address | IPv6Network, ...]


class StreamListener:
    """Listens on streams for a relay whose UDP port is `port` on this host.

    `on_opened` is told the address under which the relay will see a stream, and that of the client;
    `on_closed` the former. `has_allocation` says whether the client under that address has one.
    """

    def __init__(
        self,
        *,
        public: Iterable[IPAddress],
        port: int,
        clock: Callable[[], int],
        on_opened: Callable[[Endpoint, Endpoint], None],
        on_closed: Callable[[Endpoint], None],
        has_allocation: Callable[[Endpoint], bool],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._public = {address.version: address for address in public}
        self._port = port
        self._clock = clock
        self._on_opened = on_opened
        self._on_closed = on_closed
        self._has_allocation = has_allocation
        self._listening: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._bridges: set[_Bridge] = set()
        self._places: dict[_Bridge, Sources] = {}
        """Streams and those that are to become one, and the sources that each counts for."""
        self._idle: dict[_Bridge, None] = {}
        """Of these all without an allocation, the oldest first, and some that have one by now. Who
        has lost it is back within SWEEP_SECONDS."""
        self._sources: Counter[object] = Counter()
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        """Streams that are open."""
        return len(self._bridges)

    async def listen(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Take streams on this port too, with TLS if there is a context for it.

        Raises ConfigurationError if the port is taken.
        """
        for family in self._public:
            try:
                listening = _listen(family, port)
            except OSError as error:
                self.close()
                what = "TLS" if tls is not None else "TCP"
                raise ConfigurationError(
                    f"{what} port",
                    "--tls-port" if tls is not None else "--listen-port or LISTEN_PORT",
                    f"cannot listen on TCP port {port} over IPv{family}: {error.strerror}",
                    "stop what uses it, choose another port, or switch streams off: --no-streams",
                ) from None
            self._listening.append(listening)
            self._start(self._accept(listening, tls))
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def close(self) -> None:
        """Stop listening, and end every stream."""
        for task in self._tasks:
            task.cancel()
        for listening in self._listening:
            listening.close()
        self._listening.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for bridge in [*self._bridges]:
            bridge.close("relay_stops")

    # From the connection to the stream.

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:  # else the client was gone before
                self.counters["stream_not_accepted"] += 1
                if error.errno in _EXHAUSTED:
                    await asyncio.sleep(_PAUSE_SECONDS)
                continue
            bridge = _Bridge(self, self._partner())
            if self._admit(bridge, _sources(Endpoint.of(*address[:2]).address)):
                bridge.opening = self._start(self._open(bridge, accepted, tls))
            else:
                accepted.close()

    def _admit(self, bridge: _Bridge, sources: Sources) -> bool:
        if any(self._sources[source] >= _limit(source) for source in sources) or (
            len(self._places) >= MAX_STREAMS and not self._make_place()
        ):
            self.counters["too_many_streams"] += 1
            return False
        self._places[bridge] = sources
        self._idle[bridge] = None
        self._sources.update(sources)
        return True

    def _make_place(self) -> bool:
        """Whether there was somebody without an allocation. Everybody who has one is passed over
        but once, however many newcomers there are."""
        while self._idle:
            bridge = next(iter(self._idle))
            if bridge.local is None or not self._has_allocation(bridge.local):
                self.counters["stream_gave_way"] += 1
                self._leave(bridge)
                bridge.give_way()
                return True
            del self._idle[bridge]
        return False

    def _leave(self, bridge: _Bridge) -> None:
        self._idle.pop(bridge, None)
        for source in self._places.pop(bridge, ()):
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]

    async def _open(
        self, bridge: _Bridge, accepted: socket.socket, tls: ssl.SSLContext | None
    ) -> None:
        timeout = None if tls is None else TLS_HANDSHAKE_SECONDS
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: bridge, accepted, ssl=tls, ssl_handshake_timeout=timeout
            )
        except OSError:  # SSLError and TimeoutError are, too
            self.counters["tls_handshake_failed"] += 1
            self._leave(bridge)

    # One stream.

    def _partner(self) -> Endpoint:
        """Where the bridge of a stream reaches the relay: not every relay serves IPv4."""
        family = min(self._public)
        return Endpoint.of(loopback_of(self._public[family]), self._port)

    def _take(self, bridge: _Bridge) -> bool:
        client, local = bridge.remote, bridge.local
        if client is None or local is None or bridge not in self._places:
            return False
        self._bridges.add(bridge)
        self._on_opened(local, client)
        return True

    def _ended(self, bridge: Bridge, reason: str) -> None:
        if not isinstance(bridge, _Bridge) or bridge not in self._bridges:
            return
        self._bridges.remove(bridge)
        self.counters[f"stream_ended_{reason.replace(' ', '_')}"] += 1
        self.counters.update(bridge.counters)
        if bridge.local is not None:
            self._on_closed(bridge.local)

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        now = self._clock()
        for bridge in [*self._places]:  # in the order in which they came
            if bridge.local is None:
                continue
            if self._has_allocation(bridge.local):
                bridge.in_use_at = now
                self._idle.pop(bridge, None)
                continue
            self._idle.setdefault(bridge)
            if now - bridge.in_use_at > QUIET:
                bridge.close("without_allocation")


class _Bridge(Bridge):
    """One that is entered in the listener's books while it is open."""

    def __init__(self, listener: StreamListener, partner: Endpoint) -> None:
        super().__init__(partner, clock=listener._clock, on_closed=listener._ended)
        self._listener = listener
        self.opening: asyncio.Task[None] | None = None
        self.in_use_at = listener._clock()
        """When it was accepted, or last seen to have an allocation."""

    def give_way(self) -> None:
        """To a newcomer: an open stream is closed, a handshake is given up."""
        if self.opening is not None:
            self.opening.cancel()
        self.close("gave_way")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._listener._take(self):
            self.close("refused")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._listener._leave(self)


def _listen(family: int, port: int) -> socket.socket:
    made = socket.create_server(
        ("" if family == 4 else "::", port),
        family=socket.AF_INET if family == 4 else socket.AF_INET6,
        backlog=BACKLOG,
    )
    made.setblocking(False)
    return made


def _sources(address: IPAddress) -> Sources:
    if address.version == 4:
        return (address,)
    return tuple(IPv6Network((address, length), strict=False) for length in (64, 48))


def _limit(source: IPv4Address | IPv6Network) -> int:
    is_site = isinstance(source, IPv6Network) and source.prefixlen == 48
    return MAX_STREAMS_OF_SITE if is_site else MAX_STREAMS_OF_SOURCE
