"""Streams to relays, for a client or gateway that cannot send UDP.

By convention a relay takes TCP on the port where it takes UDP, and TLS on port 443. TLS is there to
pass networks that let nothing else through; it adds no trust, for relays are known by address only
and have no certificate that says so. It does not have to: TURN messages are authenticated by the
relay's credentials (RFC 8489 section 9.2), and all data is WireGuard's.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial

from firezone.errors import FirezoneError
from firezone.model import Endpoint, RelayId
from firezone.node import StreamKind, StreamUnwanted, StreamWanted
from firezone.shell.turn_bridge import LOOPBACK, Bridge

TLS_PORT = 443
CONNECT_SECONDS = 5.0
STAGGER_SECONDS = 0.25
"""Between the first address of a relay and the next (RFC 8305 section 5)."""

logger = logging.getLogger("firezone.relays")

OpenSocket = Callable[[int, int, int], socket.socket]
"""Makes a socket of a family, kind and protocol, whose traffic stays out of the tunnel."""


class RelayStreams:
    """Opens and closes streams as the role wants. `port` is that of the data plane's UDP socket.

    `on_opened` and `on_closed` bring the answers to the role.
    """

    def __init__(
        self,
        *,
        port: int,
        clock: Callable[[], int],
        open_socket: OpenSocket,
        on_opened: Callable[[RelayId, Endpoint], None],
        on_closed: Callable[[RelayId], None],
        tls_port: int = TLS_PORT,
    ) -> None:
        self._partner = Endpoint.of(LOOPBACK, port)
        self._clock = clock
        self._open_socket = open_socket
        self._on_opened = on_opened
        self._on_closed = on_closed
        self._tls_port = tls_port
        self._opening: dict[RelayId, asyncio.Task[None]] = {}
        self._bridges: dict[RelayId, Bridge] = {}

    def handle(self, event: StreamWanted | StreamUnwanted) -> None:
        """Do as the role says."""
        self._forget(event.relay)
        match event:
            case StreamWanted(relay):
                task = asyncio.get_running_loop().create_task(self._open(event))
                self._opening[relay] = task
            case StreamUnwanted():
                pass

    def close(self) -> None:
        """Close everything, without a word to the role."""
        for relay in [*self._opening, *self._bridges]:
            self._forget(relay)

    def _forget(self, relay: RelayId) -> None:
        task, bridge = self._opening.pop(relay, None), self._bridges.pop(relay, None)
        if task is not None:
            task.cancel()
        if bridge is not None:
            bridge.close("not needed any more")

    async def _open(self, wanted: StreamWanted) -> None:
        relay = wanted.relay
        bridge = await self._first(wanted)
        del self._opening[relay]
        if bridge is None or bridge.local is None:
            self._on_closed(relay)
        else:
            self._bridges[relay] = bridge
            self._on_opened(relay, bridge.local)

    async def _first(self, wanted: StreamWanted) -> Bridge | None:
        """Over the family that answers first, as RFC 8305 has it: one that swallows what is sent
        must not hold up the other."""
        waiting = deque(wanted.servers)
        running: set[asyncio.Task[Bridge | None]] = set()
        try:
            while waiting or running:
                if waiting:
                    running.add(asyncio.create_task(self._attempt(waiting.popleft(), wanted)))
                done, running = await asyncio.wait(
                    running,
                    timeout=STAGGER_SECONDS if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                bridges = [b for task in done if (b := task.result()) is not None]
                for late in bridges[1:]:
                    late.close("not needed any more")
                if bridges:
                    return bridges[0]
            return None
        finally:
            for task in running:
                task.cancel()
                task.add_done_callback(_discard)  # it may have been done already

    async def _attempt(self, server: Endpoint, wanted: StreamWanted) -> Bridge | None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                bridge = await self._connect(server, wanted.kind, wanted.relay)
        except (OSError, FirezoneError) as error:  # TimeoutError and SSLError are OSErrors
            reason = str(error) or type(error).__name__
            self._log("no stream to a relay", wanted, server, error=reason)
            return None
        self._log("reaching a relay over a stream", wanted, server)
        return bridge

    async def _connect(self, server: Endpoint, kind: StreamKind, relay: RelayId) -> Bridge:
        loop = asyncio.get_running_loop()
        over_tls = kind is StreamKind.TLS
        destination = Endpoint(server.address, self._tls_port if over_tls else server.port)
        family = socket.AF_INET if server.family == 4 else socket.AF_INET6
        opened = self._open_socket(family, socket.SOCK_STREAM, 0)
        try:
            opened.setblocking(False)
            await loop.sock_connect(opened, destination.sockaddr)
            make = partial(
                Bridge, self._partner, clock=self._clock, on_closed=partial(self._ended, relay)
            )
            context = without_names() if over_tls else None
            name = str(server.address) if over_tls else None
            _, bridge = await loop.create_connection(
                make, sock=opened, ssl=context, server_hostname=name
            )
        except BaseException:
            opened.close()
            raise
        return bridge

    def _ended(self, relay: RelayId, bridge: Bridge, reason: str) -> None:
        if self._bridges.get(relay) is bridge:
            del self._bridges[relay]
            logger.info("a stream to a relay ended", extra={"relay": relay, "reason": reason})
            self._on_closed(relay)

    def _log(self, text: str, wanted: StreamWanted, server: Endpoint, **fields: str) -> None:
        extra = {"relay": wanted.relay, "stream": wanted.kind.value, "server": str(server)}
        logger.info(text, extra={**extra, **fields})


def _discard(attempt: asyncio.Task[Bridge | None]) -> None:
    """Nobody waits for its outcome any more."""
    if not attempt.cancelled() and (bridge := attempt.result()) is not None:
        bridge.close("not needed any more")


def without_names() -> ssl.SSLContext:
    """TLS to whoever is there: a relay has no name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
