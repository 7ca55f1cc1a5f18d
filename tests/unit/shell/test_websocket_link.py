import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.server import serve
from websockets.datastructures import Headers

from firezone.durations import SECOND
from firezone.phoenix import Channel, Connected, Failed, Hiccup, Joined, LoginUrl
from firezone.phoenix.messages import client
from firezone.shell.clock import boottime_ns
from firezone.shell.websocket import (
    PortalLink,
    SocketFactory,
    _retry_after,
    local_user_agent,
    tls_context,
)

OK = '{"event":"phx_reply","topic":"client","ref":0,"payload":{"status":"ok","response":{}}}'


def test_it_connects_joins_and_comes_back() -> None:
    async def scenario() -> None:
        requests = []

        async def portal(websocket: Any) -> None:
            requests.append(websocket.request)
            await websocket.recv()
            await websocket.send(OK)

        async with serve(portal, "127.0.0.1", 0) as server:
            events, task = link(f"ws://127.0.0.1:{port_of(server)}")
            kinds = [type(await next_of(events)) for _ in range(4)]
            assert kinds == [Connected, Joined, Hiccup, Connected]
            task.cancel()
        assert requests[0].path == "/client/websocket?token=s3cret&external_id=d&name=n&k=v"
        assert requests[0].headers["User-Agent"] == "Linux connlib/1.5.3"
        assert "Origin" not in requests[0].headers

    run(scenario)


def test_every_socket_is_made_by_the_factory() -> None:
    async def scenario() -> None:
        made: list[int] = []

        def factory(family: int, type: int, protocol: int) -> socket.socket:
            made.append(family)
            return socket.socket(family, type, protocol)

        async with serve(join_all, "127.0.0.1", 0) as server:
            events, task = link(f"ws://127.0.0.1:{port_of(server)}", factory=factory)
            await next_of(events)
            task.cancel()
        assert made == [socket.AF_INET]

    run(scenario)


def test_all_addresses_of_a_name_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with serve(join_all, "127.0.0.1", 0) as server:
            port = port_of(server)

            async def resolve(*_: Any, **__: Any) -> list[Any]:
                return [
                    (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                    for address in ("127.0.0.2", "127.0.0.1")
                ]

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
            events, task = link(f"ws://portal.example:{port}")
            assert await next_of(events) == Connected()
            task.cancel()

    run(scenario)


def test_nobody_there_is_a_hiccup() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        events, task = link(f"ws://127.0.0.1:{port}")
        hiccup = await next_of(events)
        assert isinstance(hiccup, Hiccup)
        assert hiccup.error == "cannot connect to the portal: 127.0.0.1: Connection refused"
        task.cancel()

    run(scenario)


def test_a_name_that_does_not_resolve_is_a_hiccup(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async def fail(*_: Any, **__: Any) -> list[Any]:
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
        events, task = link("ws://portal.example")
        hiccup = await next_of(events)
        assert isinstance(hiccup, Hiccup)
        assert hiccup.error == "cannot connect to the portal: Name or service not known"
        task.cancel()

    run(scenario)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 401 No\r\nContent-Length: 4\r\n\r\ngone", Failed),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", Failed),
        (b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", Hiccup),
        (b"HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", Hiccup),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Hiccup),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Hiccup),
        (b"SSH-2.0-x\r\n\r\n", Hiccup),
        (b"", Hiccup),
    ],
)
def test_answers_that_are_no_upgrade(answer: bytes, expected: type[Any]) -> None:
    async def scenario() -> None:
        async with raw_server(answer) as port:
            events, task = link(f"ws://127.0.0.1:{port}")
            event = await next_of(events)
            assert isinstance(event, expected), event
            if isinstance(event, Failed):
                assert event.is_authentication is (b"401" in answer)
                await asyncio.wait_for(task, 1)
            elif b"Retry-After" in answer:
                assert isinstance(event, Hiccup) and event.delay == 7 * SECOND
            task.cancel()

    run(scenario)


def test_tls_needs_a_certificate_that_we_trust(tmp_path: Path) -> None:
    async def scenario() -> None:
        ca = certificate(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(ca, tmp_path / "key.pem")
        async with serve(join_all, "127.0.0.1", 0, ssl=context) as server:
            url = f"wss://127.0.0.1:{port_of(server)}"
            events, task = link(url)
            failed = await next_of(events)
            assert isinstance(failed, Failed) and not failed.is_authentication
            assert "not trusted" in failed.reason
            await asyncio.wait_for(task, 1)

            events, task = link(url, ssl_context=tls_context(ca))
            assert await next_of(events) == Connected()
            task.cancel()

    run(scenario)


def test_the_token_reaches_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serve(join_all, "127.0.0.1", 0, logger=quiet()) as server:
            events, task = link(f"ws://127.0.0.1:{port_of(server)}")
            await next_of(events)
            task.cancel()

    with caplog.at_level(logging.DEBUG):
        run(scenario)
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), ("", None), ("-1", None), ("soon", None), ("9" * 40, None)],
)
def test_retry_after(text: str, seconds: int | None) -> None:
    expected = None if seconds is None else seconds * SECOND
    assert _retry_after(Headers({"Retry-After": text})) == expected


def test_retry_after_a_date() -> None:
    at = datetime.now(UTC) + timedelta(seconds=100)
    wait = _retry_after(Headers({"Retry-After": f"{at:%a, %d %b %Y %H:%M:%S} GMT"}))
    assert wait is not None and 98 * SECOND <= wait <= 100 * SECOND
    assert _retry_after(Headers({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"})) == 0


def test_the_local_user_agent_names_its_version() -> None:
    assert " connlib/1.4.15 (" in local_user_agent("1.4.15")


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def join_all(websocket: Any) -> None:
    async for _ in websocket:
        await websocket.send(OK)


def link(
    url: str,
    factory: SocketFactory = socket.socket,
    ssl_context: ssl.SSLContext | None = None,
) -> tuple[asyncio.Queue[Any], asyncio.Task[None]]:
    channel: Channel[client.Message] = Channel(
        url=LoginUrl.client(url, "s3cret", device_id="d", name="n"),
        topic="client",
        join_payload=None,
        decode=client.decode,
        max_elapsed=None,
        entropy=os.urandom,
        now=boottime_ns(),
    )
    events: asyncio.Queue[Any] = asyncio.Queue()
    portal_link = PortalLink(
        channel,
        clock=boottime_ns,
        on_event=events.put_nowait,
        socket_factory=factory,
        ssl_context=ssl_context,
    )
    portal_link.connect({"k": "v"})
    return events, asyncio.create_task(portal_link.run())


async def next_of(events: asyncio.Queue[Any]) -> Any:
    return await asyncio.wait_for(events.get(), 5)


def port_of(server: Any) -> int:
    return int(next(iter(server.sockets)).getsockname()[1])


class raw_server:
    """Answers every connection with the same bytes and hangs up."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return port_of(self._server)

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self._answer)
            await writer.drain()
        writer.close()


def quiet() -> logging.Logger:
    logger = logging.getLogger("test.quiet")
    logger.disabled = True
    return logger


def certificate(directory: Path) -> Path:
    """A self-signed one for 127.0.0.1; its key is beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "cert.pem").write_bytes(cert.public_bytes(pem))
    (directory / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory / "cert.pem"
