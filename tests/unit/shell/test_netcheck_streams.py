"""Whether relays are reached by streams, over loopback."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from firezone import stun
from firezone.model import Endpoint
from firezone.netcheck import StreamReport
from firezone.shell.netcheck_streams import check_streams
from tests.certificates import self_signed
from tests.ports import free_port

Answer = Callable[[bytes], bytes]


@contextmanager
def stream_server(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Answers one connection, and holds it until the other end closes; its port."""
    with socket.create_server(("127.0.0.1", 0)) as serving:

        def serve() -> None:
            connection, _ = serving.accept()
            with connection, suppress(OSError):
                spoken = connection
                if context is not None:
                    spoken = context.wrap_socket(connection, server_side=True)
                spoken.sendall(answer(spoken.recv(4096)))
                spoken.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        yield serving.getsockname()[1]
        thread.join()


def success(request: bytes) -> bytes:
    return stun.decode(request).success().encode()


def another(_request: bytes) -> bytes:
    return stun.Message.request(stun.Method.BINDING, bytes).success().encode()


def check(port: int, tls_port: int, timeout: float = 10) -> tuple[StreamReport, ...]:
    return check_streams([Endpoint.of("127.0.0.1", port)], timeout, tls_port)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(self_signed(tmp_path_factory.mktemp("tls")))
    return made


def test_a_relay_that_takes_both(context: ssl.SSLContext) -> None:
    with stream_server(success) as port, stream_server(success, context) as tls_port:
        tcp, tls = check(port, tls_port)
    assert tcp == StreamReport(f"127.0.0.1:{port}", True)
    assert tls == StreamReport(f"127.0.0.1:{tls_port}", True)


@pytest.mark.parametrize("answer", [another, bytes, lambda _: b"HTTP/1.1 400 Bad\r\n\r\n"])
def test_something_else_answers(answer: Answer) -> None:
    with stream_server(answer) as port, stream_server(answer) as tls_port:
        tcp, tls = check(port, tls_port)
    assert (tcp.error, tcp.reachable) == ("no relay answers there", False)
    assert tls.error is not None and tls.error.startswith("TLS failed: ")


def test_nobody_serves() -> None:
    assert [s.error for s in check(free_port(), free_port())] == ["Connection refused"] * 2


def test_silence_ends() -> None:
    with stream_server(lambda _: b"") as port, stream_server(lambda _: b"") as tls_port:
        assert [s.error for s in check(port, tls_port, 0.05)] == ["no answer in time"] * 2


def test_each_address_is_asked_once() -> None:
    address = Endpoint.of("127.0.0.1", free_port())
    assert len(check_streams([address, address], 10, free_port())) == 2
