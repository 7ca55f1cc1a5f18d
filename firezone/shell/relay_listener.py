"""Takes TURN over TCP and TLS for the relay (RFC 8656 section 3.1).

Each stream is joined by a `Bridge` with the relay's own UDP port on the loopback interface, so the
relay's machine and its compiled data path serve it as they serve anybody; they are told only whom
it stands for. A stream costs at most `MAX_BACKLOG`, one incomplete message and two descriptors.

Who may keep one open: whoever sends a whole message within `QUIET` of opening it, or of the last
one; longer only with an allocation. Streams are limited in all and per source network, and count
from the moment they are accepted: a TLS handshake that is never finished costs more than a stream.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from ipaddress import IPv6Network

from firezone.durations import SECOND
from firezone.errors import ConfigurationError
from firezone.model import Endpoint, IPAddress
from firezone.shell.turn_bridge import Bridge, loopback_of

MAX_STREAMS = 4096
DESCRIPTORS_OF_STREAM = 2
MAX_STREAMS_OF_SOURCE = 256
"""From one IPv4 address or IPv6 /64: a large office behind one NAT."""
QUIET = 60 * SECOND
SWEEP_SECONDS = 10.0
TLS_HANDSHAKE_SECONDS = 10.0
BACKLOG = 512
_PAUSE_SECONDS = 1.0
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

logger = logging.getLogger("firezone.relay")


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
        self._bridges: set[Bridge] = set()
        self._places: dict[Bridge, object] = {}
        """Streams and those that are to become one, and the source that each counts for."""
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

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
            if self._admit(bridge, _source(Endpoint.of(*address[:2]).address)):
                self._start(self._open(bridge, accepted, tls))
            else:
                accepted.close()

    def _admit(self, bridge: Bridge, source: object) -> bool:
        if len(self._places) >= MAX_STREAMS or self._sources[source] >= MAX_STREAMS_OF_SOURCE:
            self.counters["too_many_streams"] += 1
            return False
        self._places[bridge] = source
        self._sources[source] += 1
        return True

    def _leave(self, bridge: Bridge) -> None:
        source = self._places.pop(bridge, None)
        if source is not None:
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]

    async def _open(
        self, bridge: Bridge, accepted: socket.socket, tls: ssl.SSLContext | None
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

    def _take(self, bridge: Bridge) -> bool:
        client, local = bridge.remote, bridge.local
        if client is None or local is None:
            return False
        self._bridges.add(bridge)
        self._on_opened(local, client)
        return True

    def _ended(self, bridge: Bridge, reason: str) -> None:
        if bridge not in self._bridges:
            return
        self._bridges.remove(bridge)
        self.counters[f"stream_ended_{reason.replace(' ', '_')}"] += 1
        self.counters.update(bridge.counters)
        if bridge.local is not None:
            self._on_closed(bridge.local)

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        now = self._clock()
        for bridge in [*self._bridges]:
            local, silence = bridge.local, now - bridge.last_message
            if local is not None and silence > QUIET and not self._has_allocation(local):
                bridge.close("silent")


class _Bridge(Bridge):
    """One that is entered in the listener's books while it is open."""

    def __init__(self, listener: StreamListener, partner: Endpoint) -> None:
        super().__init__(partner, clock=listener._clock, on_closed=listener._ended)
        self._listener = listener

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


def _source(address: IPAddress) -> object:
    if address.version == 4:
        return address
    return IPv6Network((address, 64), strict=False)
