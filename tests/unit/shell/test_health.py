"""Where health is told, and what happens when the place is taken."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

import pytest

from firezone.errors import ConfigurationError
from firezone.shell import health
from firezone.shell.health import MAX_CONNECTIONS, HealthAddress, serve_health, start_health


@pytest.mark.parametrize("optional", [True, False])
def test_an_address_that_is_taken(optional: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Several programs of one host have the same default: that is nothing to warn of."""
    with socket.socket() as taken, caplog.at_level(logging.INFO, "firezone"):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = HealthAddress(*taken.getsockname(), optional)
        if optional:
            assert asyncio.run(start_health(address, {})) is None
            assert [(r.levelname, r.message) for r in caplog.records] == [
                ("INFO", "no health checks")
            ]
        else:
            with pytest.raises(ConfigurationError, match="HEALTH_CHECK_ADDR"):
                asyncio.run(start_health(address, {}))


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Connection]]


def against_a_server(test: Callable[[Connect], Awaitable[None]]) -> None:
    """Runs it with what opens a connection to a program that is well."""

    async def run() -> None:
        server = await serve_health("127.0.0.1", 0, {"/healthz": lambda: 200})
        host, port = server.sockets[0].getsockname()
        try:
            await asyncio.wait_for(test(lambda: asyncio.open_connection(host, port)), 20)
        finally:
            server.close()

    asyncio.run(run())


async def is_well(connect: Connect) -> bool:
    reader, writer = await connect()
    writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer.startswith(b"HTTP/1.1 200")


def test_strangers_who_hold_connections_cost_neither_descriptors_nor_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "_TIMEOUT_SECONDS", 60.0)

    async def test(connect: Connect) -> None:
        idle = [await connect() for _ in range(3 * MAX_CONNECTIONS)]
        for reader, _ in idle[: 2 * MAX_CONNECTIONS]:
            assert await reader.read() == b""
        assert await is_well(connect)
        assert not any(reader.at_eof() for reader, _ in idle[2 * MAX_CONNECTIONS + 1 :])
        for _, writer in idle:
            writer.close()

    against_a_server(test)


def test_who_asks_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_TIMEOUT_SECONDS", 0.01)

    async def test(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET /healthz")
        assert await reader.read() == b""
        writer.close()

    against_a_server(test)
