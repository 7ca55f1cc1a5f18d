"""Runs a portal `Channel` over WebSockets on asyncio.

Each Connect resolves the host anew and dials all its addresses, one more every 250 ms until the
first answers. A TCP connection may take 5 s, the whole attempt 15 s. Redirects, proxies, WebSocket
pings and compression are off: the channel has its own retries and heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers

from firezone.durations import SECOND
from firezone.errors import ConfigurationError
from firezone.phoenix import (
    Channel,
    Close,
    Closed,
    Connect,
    Event,
    Failed,
    SendText,
)
from firezone.phoenix.user_agent import connlib_user_agent

Message = TypeVar("Message")
SocketFactory = Callable[[int, int, int], socket.socket]
"""Makes a socket of (family, type, protocol): the place to set SO_MARK, so that what we say to
the portal never enters the tunnel."""

TCP_TIMEOUT_SECONDS = 5.0
ATTEMPT_TIMEOUT_SECONDS = 15.0
STAGGER_SECONDS = 0.25
MAX_MESSAGE = 16 * 1024 * 1024


class PortalLink(Generic[Message]):
    """A channel at work. `on_event` is called with every event of the channel, in order.

    Call its methods from the event loop's thread only, also from within `on_event`.
    """

    def __init__(
        self,
        channel: Channel[Message],
        *,
        clock: Callable[[], int],
        on_event: Callable[[Event[Message]], None],
        socket_factory: SocketFactory = socket.socket,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._channel = channel
        self._clock = clock
        self._on_event = on_event
        self._dialer = _Dialer(socket_factory, ssl_context)
        self._changed = asyncio.Event()
        self._session: _Session[Message] | None = None
        self._ended = False

    async def run(self) -> None:
        """Drive the channel until it failed or was closed. Call `connect` before or meanwhile."""
        try:
            while True:
                self._changed.clear()
                self._carry_out()
                self._report()
                if self._ended:
                    break
                await self._wait()
            if self._session is not None:
                await self._session.finished()
        finally:
            self._drop()

    def connect(self, query: Mapping[str, str]) -> None:
        """Connect at once; `query` changes from time to time, as `public_key`."""
        self._channel.connect(query, self._clock())
        self._changed.set()

    def send(self, event: str, payload: object) -> None:
        """Send a message, as soon as the channel is joined."""
        self._channel.send(event, payload, self._clock())
        self._changed.set()

    def close(self) -> None:
        """Close in good order; `run` returns then."""
        self._channel.close(self._clock())
        self._changed.set()

    def _carry_out(self) -> None:
        while (action := self._channel.poll_action()) is not None:
            match action:
                case Connect():
                    self._drop()
                    self._session = _Session(self._dialer, action, self._handle)
                case SendText(text):
                    if self._session is not None:
                        self._session.send(text)
                case Close():
                    if self._session is not None:
                        self._session.close()

    def _report(self) -> None:
        while (event := self._channel.poll_event()) is not None:
            if isinstance(event, Failed | Closed):
                self._ended = True
                self._carry_out()
            self._on_event(event)

    async def _wait(self) -> None:
        timeout = self._channel.poll_timeout()
        seconds = None if timeout is None else max(0, timeout.deadline - self._clock()) / SECOND
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        now = self._clock()
        if timeout is not None and timeout.deadline <= now:
            self._channel.handle_timeout(now)

    def _handle(self, session: _Session[Message], outcome: Outcome) -> None:
        """What a session saw; one that was replaced is not heard."""
        if session is not self._session:
            return
        outcome(self._channel, self._clock())
        self._changed.set()

    def _drop(self) -> None:
        if self._session is not None:
            self._session.drop()
            self._session = None


Outcome = Callable[[Channel[Any], int], None]
"""Tells the channel what happened, at a time."""


class _Session(Generic[Message]):
    """One Connect: the attempt, then the open WebSocket with what is to be sent on it."""

    def __init__(
        self,
        dialer: _Dialer,
        target: Connect,
        report: Callable[[_Session[Message], Outcome], None],
    ) -> None:
        self._report = report
        self._outbox: asyncio.Queue[str | None] = asyncio.Queue()
        self._websocket: ClientConnection | None = None
        self._task = asyncio.create_task(self._run(dialer, target))

    def send(self, text: str) -> None:
        self._outbox.put_nowait(text)

    def close(self) -> None:
        """After what was sent; an attempt that is under way is dropped."""
        if self._websocket is None:
            self._task.cancel()
        self._outbox.put_nowait(None)

    def drop(self) -> None:
        """Without a close frame."""
        self._task.cancel()

    async def finished(self) -> None:
        await asyncio.wait([self._task], timeout=TCP_TIMEOUT_SECONDS)

    async def _run(self, dialer: _Dialer, target: Connect) -> None:
        try:
            self._websocket = await dialer.open(target)
        except Exception as error:
            self._report(self, _outcome_of(error))
            return
        self._report(self, lambda channel, now: channel.handle_connected(now))
        await self._converse(self._websocket)

    async def _converse(self, websocket: ClientConnection) -> None:
        writer = asyncio.create_task(self._write(websocket))
        reason = "the portal closed the connection"
        try:
            async for text in websocket:
                self._report(self, _received(text))
        except (websockets.WebSocketException, OSError) as error:
            reason = f"the connection to the portal broke: {error}"
        finally:
            writer.cancel()
            websocket.transport.abort()
        self._report(self, lambda channel, now: channel.handle_disconnected(reason, now))

    async def _write(self, websocket: ClientConnection) -> None:
        with suppress(websockets.WebSocketException, OSError):
            while (text := await self._outbox.get()) is not None:
                await websocket.send(text)
            await websocket.close()


class _Dialer:
    """Opens WebSockets."""

    def __init__(self, factory: SocketFactory, ssl_context: ssl.SSLContext | None) -> None:
        self._factory = factory
        self._ssl_context = ssl_context

    async def open(self, target: Connect) -> ClientConnection:
        """Raises whatever the system, TLS or the upgrade raise."""
        async with asyncio.timeout(ATTEMPT_TIMEOUT_SECONDS):
            sock = await self._dial(target.url.host, target.url.port)
            try:
                return await self._upgrade(target, sock)
            except BaseException:
                sock.close()
                raise

    async def _upgrade(self, target: Connect, sock: socket.socket) -> ClientConnection:
        url, options = target.url, dict[str, Any]()
        if url.scheme == "wss":
            options["ssl"] = self._ssl_context or tls_context(None)
            options["server_hostname"] = url.host
        headers = dict(target.headers)
        return await connect(
            url.text,
            sock=sock,
            proxy=None,
            compression=None,
            ping_interval=None,
            open_timeout=None,
            close_timeout=2,
            max_size=MAX_MESSAGE,
            user_agent_header=headers.pop("User-Agent", None),
            additional_headers=headers,
            logger=_SILENT,
            **options,
        )

    async def _dial(self, host: str, port: int) -> socket.socket:
        """A connected socket to the first address that answers."""
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        waiting = deque(dict.fromkeys(infos))
        running: set[asyncio.Task[socket.socket]] = set()
        errors: list[str] = []
        try:
            while waiting or running:
                if waiting:
                    running.add(asyncio.create_task(self._dial_one(*waiting.popleft())))
                done, running = await asyncio.wait(
                    running,
                    timeout=STAGGER_SECONDS if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if winner := _first_connected(done, errors):
                    return winner
        finally:
            for task in running:
                task.cancel()
        raise OSError("; ".join(errors) or f"{host} has no address")

    async def _dial_one(
        self, family: int, type: int, protocol: int, _name: str, address: Any
    ) -> socket.socket:
        sock = self._factory(family, type, protocol)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(TCP_TIMEOUT_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, address)
        except TimeoutError:
            sock.close()
            raise OSError(f"{address[0]} does not answer") from None
        except OSError as error:
            sock.close()
            raise OSError(f"{address[0]}: {_reason(error)}") from None
        except BaseException:
            sock.close()
            raise
        return sock


def _first_connected(
    done: Iterable[asyncio.Task[socket.socket]], errors: list[str]
) -> socket.socket | None:
    winner: socket.socket | None = None
    for task in done:
        error = task.exception()
        if error is not None:
            errors.append(str(error))
        elif winner is None:
            winner = task.result()
        else:
            task.result().close()
    return winner


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Trust the operating system's roots, or only those in the PEM file `ca`.

    Raises ConfigurationError.
    """
    try:
        return ssl.create_default_context(cafile=str(ca) if ca else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            "ca",
            "--ca or FIREZONE_CA",
            f"{ca}: {error}",
            "give a PEM file with the certificates to trust",
        ) from None


def local_user_agent(version: str) -> str:
    """This host's user agent for a peer of that connlib version."""
    system, release = platform.system() or "Unknown", None
    with suppress(OSError):
        os_release = platform.freedesktop_os_release()
        system, release = os_release.get("NAME", system), os_release.get("VERSION_ID")
    name = system.partition(" ")[0]
    return connlib_user_agent(version, name, release, platform.machine(), platform.release())


def _outcome_of(error: Exception) -> Outcome:
    """What a failed attempt means to the channel. URLs hold the token, so none is quoted."""
    match error:
        case websockets.InvalidStatus(response=response):
            body = (response.body or b"")[:1000].decode(errors="replace")
            wait = _retry_after(response.headers)
            return lambda channel, now: channel.handle_http_error(
                response.status_code, body, wait, now
            )
        case ssl.SSLCertVerificationError():
            reason = error.verify_message
            return lambda channel, now: channel.handle_untrusted(reason, now)
        case TimeoutError():
            return _transient("the portal does not answer")
        case websockets.WebSocketException():
            return _transient(f"the portal answered with no WebSocket: {type(error).__name__}")
        case OSError():
            return _transient(f"cannot connect to the portal: {_reason(error)}")
        case _:
            return _transient(f"cannot connect to the portal: {type(error).__name__}")


def _reason(error: OSError) -> str:
    """For people: asyncio has texts of its own, with numbers, for what the system says."""
    number = error.errno or 0
    told = os.strerror(number) if number > 0 else error.strerror
    return told or str(error) or type(error).__name__


def _received(text: str | bytes) -> Outcome:
    return lambda channel, now: channel.handle_text(text, now)


def _transient(reason: str) -> Outcome:
    return lambda channel, now: channel.handle_disconnected(reason, now)


def _retry_after(headers: Headers) -> int | None:
    """Nanoseconds from `Retry-After`, which holds seconds or a date (RFC 9110 10.2.3)."""
    try:
        text = headers.get("Retry-After", "")
        if text.isdecimal() and len(text) < 10:
            return int(text) * SECOND
        ahead = parsedate_to_datetime(text) - datetime.now(UTC)
        return max(0, int(ahead.total_seconds()) * SECOND)
    except (ValueError, TypeError, LookupError):
        return None


_SILENT = logging.getLogger("firezone.shell.websocket.frames")
"""The library logs request lines and frames, and both hold secrets."""
_SILENT.disabled = True
