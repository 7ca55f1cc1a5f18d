"""The portal's sockets: a WebSocket server around `Accounts`.

Requests are judged before the upgrade, so that a refusal is an HTTP status. No pings are sent
(peers of 2025 take an empty one for a broken message): a peer that says nothing for its idle
limit is dropped, and heartbeats keep the rest. A peer that does not read what it is sent is
dropped as well, before that grows.

An exception that nobody foresaw ends the connection it happened on. One in the timekeeper ends
that, which whoever runs the server must take for its end: policies would expire unnoticed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sqlite3
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import parse_qs, urlsplit
from weakref import WeakKeyDictionary

from websockets import Request as HttpRequest
from websockets import Response, WebSocketException
from websockets.asyncio.server import Server, ServerConnection, serve

from firezone.durations import SECOND
from firezone.errors import ConfigurationError
from firezone.model import Endpoint, IPAddress
from firezone.portal.accounts import Accounts
from firezone.portal.admission import Admission, Refusal, Request
from firezone.portal.config import PortalFile, TokenKind
from firezone.portal.failures import describe, report
from firezone.portal.sessions import CloseConnection, SendText
from firezone.portal.store import AddressesExhausted

IDLE_SECONDS = {TokenKind.CLIENT: 307.0, TokenKind.GATEWAY: 37.0, TokenKind.RELAY: 41.0}
MAX_MESSAGE = 256 * 1024
MAX_OUTBOX = 8 * 1024 * 1024
"""Characters that wait for a peer. A gateway may be due thousands of messages at once."""

_log = logging.getLogger(__name__)


def listen(endpoint: Endpoint) -> socket.socket:
    """A listening socket; `[::]` takes IPv4 as well. Raises ConfigurationError.

    Connections inherit TCP_NODELAY. asyncio sets it itself, but only on sockets whose protocol was
    named, which `create_server` does not; without it a message that follows another one waits for
    the other end's delayed acknowledgement, 40 ms.
    """
    family = socket.AF_INET6 if endpoint.family == 6 else socket.AF_INET
    both = endpoint.family == 6 and endpoint.address.is_unspecified and socket.has_dualstack_ipv6()
    try:
        made = socket.create_server(
            endpoint.sockaddr, family=family, dualstack_ipv6=both, backlog=128
        )
    except OSError as error:
        raise ConfigurationError(
            "listen", str(endpoint), error.strerror or str(error), "listen on another address"
        ) from None
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


class PortalServer:
    """Serves the accounts of a portal file for as long as its context lasts."""

    def __init__(
        self,
        portal: Accounts,
        *,
        sock: socket.socket,
        clock: Callable[[], int],
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._portal = portal
        self._socket = sock
        self._clock = clock
        self._ssl_context = ssl_context
        self._admissions: WeakKeyDictionary[ServerConnection, Admission] = WeakKeyDictionary()
        self._outboxes: dict[int, _Outbox] = {}
        self._changed = asyncio.Event()
        self._server: Server | None = None
        self._timekeeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> PortalServer:
        self._server = await serve(
            self._converse,
            sock=self._socket,
            process_request=self._judge,
            ssl=self._ssl_context,
            ping_interval=None,
            compression=None,
            max_size=MAX_MESSAGE,
            open_timeout=10,
            close_timeout=2,
            server_header="firezone",
            logger=_SILENT,
        )
        self._timekeeper = asyncio.create_task(self._keep_time(), name="timekeeper")
        self._timekeeper.add_done_callback(report)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self.timekeeper.cancel()
        self._server.close()
        await self._server.wait_closed()

    @property
    def timekeeper(self) -> asyncio.Task[None]:
        """Runs for as long as the server does its duty."""
        assert self._timekeeper is not None
        return self._timekeeper

    def apply(self, file: PortalFile) -> None:
        """Put another portal file in force."""
        self._portal.handle_file(file, self._clock())
        self._distribute()

    def _judge(self, connection: ServerConnection, http: HttpRequest) -> Response | None:
        """None lets the upgrade proceed."""
        request = _request(connection, http)
        if request is None:
            return connection.respond(422, "bad request\n")
        if request.path == "/healthz":
            return connection.respond(200, "ok\n")
        try:
            outcome = self._portal.admit(request)
        except (AddressesExhausted, sqlite3.Error) as error:
            _log.error("cannot admit a peer: %s", error)
            return connection.respond(503, "try again later\n")
        except Exception as error:
            _log.error("cannot admit a peer: %s", describe(error))
            return connection.respond(503, "try again later\n")
        if isinstance(outcome, Refusal):
            _log.debug("refused %s: %s", request.path, outcome.reason)
            return connection.respond(outcome.status, f"{outcome.reason}\n")
        self._admissions[connection] = outcome
        return None

    async def _converse(self, websocket: ServerConnection) -> None:
        try:
            await self._attend(websocket, self._admissions.pop(websocket))
        except Exception as error:
            # The library would log it, with a request that holds a token.
            fields = {"event": "connection_failed"}
            _log.error("a connection ended by a fault: %s", describe(error), extra=fields)

    async def _attend(self, websocket: ServerConnection, admission: Admission) -> None:
        connection = self._portal.handle_connected(admission, self._clock())
        outbox = self._outboxes[connection] = _Outbox(websocket)
        self._distribute()
        writer = asyncio.create_task(outbox.write(), name="writer")
        writer.add_done_callback(report)
        try:
            await self._listen(websocket, connection, IDLE_SECONDS[admission.token.kind])
        finally:
            writer.cancel()
            del self._outboxes[connection]
            self._portal.handle_disconnected(connection, self._clock())
            self._distribute()

    async def _listen(self, websocket: ServerConnection, connection: int, idle: float) -> None:
        with suppress(WebSocketException, TimeoutError, OSError):
            while True:
                async with asyncio.timeout(idle):
                    text = await websocket.recv()
                self._portal.handle_text(connection, text, self._clock())
                self._distribute()

    def _distribute(self) -> None:
        """Hand what the control planes have to say to the writers."""
        while (output := self._portal.poll_output()) is not None:
            outbox = self._outboxes.get(output.connection)
            match output:
                case SendText(text=text) if outbox is not None:
                    outbox.put(text)
                case CloseConnection() if outbox is not None:
                    outbox.put(None)
        self._changed.set()

    async def _keep_time(self) -> None:
        while True:
            self._changed.clear()
            seconds = max(0, self._portal.poll_timeout().deadline - self._clock()) / SECOND
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            if self._portal.poll_timeout().deadline <= self._clock():
                self._portal.handle_timeout(self._clock())
                self._distribute()


@dataclass(slots=True, eq=False)
class _Outbox:
    """What one peer is still to be sent; None ends the connection."""

    websocket: ServerConnection
    queue: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)
    waiting: int = 0

    def put(self, text: str | None) -> None:
        size = len(text or "")
        if self.waiting + size > MAX_OUTBOX:
            self.websocket.transport.abort()
        else:
            self.waiting += size
            self.queue.put_nowait(text)

    async def write(self) -> None:
        with suppress(WebSocketException, OSError):
            while (text := await self.queue.get()) is not None:
                await self.websocket.send(text)
                self.waiting -= len(text)
            await self.websocket.close()


def _request(connection: ServerConnection, http: HttpRequest) -> Request | None:
    try:
        parts = urlsplit(http.path)
        values = parse_qs(parts.query, max_num_fields=32)
        agents = http.headers.get_all("User-Agent")
        remote = _address(connection.remote_address[0])
    except (ValueError, TypeError, IndexError):
        return None
    query = {key: value[0] for key, value in values.items()}
    return Request(parts.path, query, " ".join(agents), remote)


def _address(host: str) -> IPAddress:
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if isinstance(mapped, IPv4Address) else address


_SILENT = logging.getLogger("firezone.portal.server.frames")
"""The library logs request lines and frames, and both hold secrets."""
_SILENT.disabled = True
