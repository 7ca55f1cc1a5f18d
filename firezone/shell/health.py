"""Answers `GET /healthz` and the like over HTTP/1.1, one request per connection.

It may stand open to strangers, who are to cost neither descriptors nor the answer: of many
connections the oldest goes, as whoever wants to know asks at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from firezone.errors import ConfigurationError

Check = Callable[[], int]
"""The status that a path deserves now: 200, or what says otherwise."""

MAX_CONNECTIONS = 32
_TIMEOUT_SECONDS = 2.0
_MAX_REQUEST = 8192
logger = logging.getLogger(__name__)

_PHRASES = {200: "OK", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class HealthAddress:
    """Where to answer. An `optional` one, which nobody chose, may be taken already."""

    host: str
    port: int
    optional: bool = False


async def start_health(
    address: HealthAddress | None, checks: Mapping[str, Check]
) -> asyncio.Server | None:
    """Serve these paths until the server is closed; None for nowhere.

    Raises ConfigurationError if the address cannot be had, unless it is optional: several programs
    of one host have the same default, and only one of them can have it.
    """
    if address is None:
        return None
    try:
        return await serve_health(address.host, address.port, checks)
    except ConfigurationError as error:
        if not address.optional:
            raise
        logger.info("no health checks", extra={"error": str(error)})
        return None


async def serve_health(host: str, port: int, checks: Mapping[str, Check]) -> asyncio.Server:
    """Serve these paths until the server is closed. Raises ConfigurationError if it cannot."""
    answer = _Connections(checks).serve
    try:
        # What is accepted at once is bounded by the backlog, too.
        return await asyncio.start_server(
            answer, host, port, limit=_MAX_REQUEST, backlog=MAX_CONNECTIONS
        )
    except (OSError, socket.gaierror) as error:
        raise ConfigurationError(
            "health check address",
            "--health-check-addr or HEALTH_CHECK_ADDR",
            f"cannot listen on {host}:{port}: {error.strerror}",
            "choose an address that is free",
        ) from None


class _Connections:
    """Those that are open, the oldest first."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._open: dict[asyncio.StreamWriter, None] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        self._open[writer] = None
        try:
            await self._converse(reader, writer)
        finally:
            self._open.pop(writer, None)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(
            OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(request, self._checks))
                await writer.drain()


def _response(request: bytes, checks: Mapping[str, Check]) -> bytes:
    words = request.partition(b"\r\n")[0].decode("latin-1").split(" ")
    status = 400
    if len(words) == 3 and words[0] in ("GET", "HEAD"):
        check = checks.get(words[1].partition("?")[0])
        status = 404 if check is None else check()
    body = b"" if words[0] == "HEAD" else f"{_PHRASES.get(status, '')}\n".encode()
    head = f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: text/plain\r\nConnection: close\r\n\r\n".encode() + body
