"""Tries the streams by which relays are reached where no UDP gets through.

Each address is asked once over TCP, at the port that it has for UDP, and once over TLS, at 443, as
a client would: a Binding request that is answered shows that a relay is there, and not a proxy or
a web server.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterable

from firezone.model import Endpoint
from firezone.netcheck import StreamReport
from firezone.shell.relay_streams import TLS_PORT, without_names
from firezone.shell.sockets import set_mark
from firezone.stun import Message, Method

TIMEOUT_SECONDS = 5.0
MAX_ADDRESSES = 4

_HEADER_SIZE = 20
_RESPONSE = 1
"""The first byte of any response to a Binding request."""
_NO_RELAY = "no relay answers there"


def check_streams(
    servers: Iterable[Endpoint], timeout: float = TIMEOUT_SECONDS, tls_port: int = TLS_PORT
) -> tuple[StreamReport, ...]:
    """All at the same time, past the tunnel. Never raises for what the network does."""
    addresses = [*dict.fromkeys(servers)][:MAX_ADDRESSES]

    async def check() -> list[StreamReport]:
        return await asyncio.gather(
            *(
                _check(address, over_tls, timeout, tls_port)
                for address in addresses
                for over_tls in (False, True)
            )
        )

    return tuple(asyncio.run(check()))


async def _check(server: Endpoint, over_tls: bool, timeout: float, tls_port: int) -> StreamReport:
    destination = Endpoint(server.address, tls_port) if over_tls else server
    error = None
    try:
        async with asyncio.timeout(timeout):
            if not await _is_answered(destination, over_tls):
                error = _NO_RELAY
    except TimeoutError:
        error = "no answer in time"
    except ssl.SSLError as problem:
        error = f"TLS failed: {problem.reason or 'unknown'}"
    except OSError as problem:
        # asyncio has texts of its own.
        error = os.strerror(problem.errno) if problem.errno else type(problem).__name__
    return StreamReport(str(destination), error is None, error)


async def _is_answered(destination: Endpoint, over_tls: bool) -> bool:
    family = socket.AF_INET if destination.family == 4 else socket.AF_INET6
    opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        set_mark(opened)
        await asyncio.get_running_loop().sock_connect(opened, destination.sockaddr)
        reader, writer = await asyncio.open_connection(
            sock=opened,
            ssl=without_names() if over_tls else None,
            server_hostname=str(destination.address) if over_tls else None,
        )
    except BaseException:
        opened.close()
        raise
    try:
        request = Message.request(Method.BINDING, os.urandom)
        writer.write(request.encode())
        return await _answers(reader, request)
    finally:
        writer.transport.abort()


async def _answers(reader: asyncio.StreamReader, request: Message) -> bool:
    """Whether what comes first is a response to the request (RFC 8489 section 5)."""
    try:
        header = await reader.readexactly(_HEADER_SIZE)
    except asyncio.IncompleteReadError:
        return False
    return header[0] == _RESPONSE and header[8:] == request.transaction_id
