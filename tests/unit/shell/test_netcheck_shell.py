"""The check of the network over loopback, and what the portal's health check may say."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from firezone import stun
from firezone.errors import ConfigurationError
from firezone.model import Endpoint
from firezone.netcheck import Mapping
from firezone.shell.netcheck import check_network, check_portal, health_url, resolve
from tests.ports import free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def stun_server() -> Iterator[str]:
    """Answers on loopback until the block ends; its address as `--stun` takes it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as serving:
        serving.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                data, source = serving.recvfrom(65536)
                if not data:
                    return
                answer = stun.decode(data).success()
                answer = answer.with_(stun.XOR_MAPPED_ADDRESS, Endpoint.of(*source))
                serving.sendto(answer.encode(), source)

        thread = threading.Thread(target=serve)
        thread.start()
        host, port = serving.getsockname()
        yield f"{host}:{port}"
        serving.sendto(b"", (host, port))
        thread.join()


@contextmanager
def web_server(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Answers one connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as serving:

        def serve() -> None:
            connection, _ = serving.accept()
            with connection:
                try:
                    spoken = context.wrap_socket(connection, server_side=True) if context else None
                    (spoken or connection).recv(4096)
                    (spoken or connection).sendall(answer)
                    if spoken:
                        spoken.close()
                except OSError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield serving.getsockname()[1]
        thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30, hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def serving_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_check_over_loopback() -> None:
    with stun_server() as server, web_server(OK) as port:
        report = check_network([resolve(server)], f"ws://127.0.0.1:{port}")
    four, six = report.families
    assert four.reachable
    assert four.mapping is Mapping.NO_NAT
    assert six.reachable is None
    (asked,) = report.servers
    assert (asked.answered, asked.path_mtu, asked.error) == (5, 1500, None)
    assert report.portal is not None
    assert report.portal.reachable
    assert report.findings == () and report.streams == ()


def test_where_udp_is_not_answered_streams_are_tried() -> None:
    port = free_port()
    report = check_network([resolve(f"127.0.0.1:{port}")], None)
    tried, tls = report.streams
    assert (tried.address, tried.error) == (f"127.0.0.1:{port}", "Connection refused")
    assert tls.address == "127.0.0.1:443" and not tls.reachable
    assert "nor over TCP or TLS" in report.findings[0]


def test_names_and_ports_of_servers() -> None:
    assert [str(e) for e in resolve("127.0.0.1").addresses] == ["127.0.0.1:3478"]
    assert [str(e) for e in resolve("127.0.0.1:53").addresses] == ["127.0.0.1:53"]
    assert [str(e) for e in resolve("::1").addresses] == ["[::1]:3478"]
    assert [str(e) for e in resolve("[::1]:53").addresses] == ["[::1]:53"]
    assert resolve("no such host").addresses == ()


@pytest.mark.parametrize("text", ["", ":53", "host:", "host:x", "host:0", "host:65536"])
def test_what_names_no_server(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--stun"):
        resolve(text)


@pytest.mark.parametrize(
    ("api_url", "url"),
    [
        ("wss://portal", "https://portal:443/healthz"),
        ("ws://portal:8080/", "http://portal:8080/healthz"),
        ("wss://[::1]:1/base", "https://[::1]:1/base/healthz"),
    ],
)
def test_where_the_portal_answers(api_url: str, url: str) -> None:
    assert health_url(api_url) == url


@pytest.mark.parametrize("api_url", ["portal", "ftp://portal", "ws://", "ws://[", "ws://p:x"])
def test_what_is_no_portal(api_url: str) -> None:
    with pytest.raises(ConfigurationError, match="--api-url"):
        health_url(api_url)


def test_a_portal_that_is_ill() -> None:
    with web_server(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n") as port:
        report = check_portal(f"http://127.0.0.1:{port}/healthz", None)
    assert (report.reachable, report.status, report.error) == (False, 503, "HTTP status 503")


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200"])
def test_a_portal_that_is_none(answer: bytes) -> None:
    with web_server(answer) as port:
        report = check_portal(f"http://127.0.0.1:{port}/healthz", None)
    assert not report.reachable or report.status == 200


def test_a_portal_that_nobody_serves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    report = check_portal(f"http://127.0.0.1:{port}/healthz", None)
    assert (report.reachable, report.error) == (False, "Connection refused")
    gone = check_portal("http://no such host:1/healthz", None)
    assert not gone.reachable


def test_a_certificate_that_is_trusted(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    with web_server(OK, serving_context(certificate)) as port:
        report = check_portal(f"https://127.0.0.1:{port}/healthz", trusting)
    assert report.reachable, report
    assert report.tls is not None
    assert report.tls.startswith("trusted, valid until ")
    assert report.tls.endswith("(30 days)")


def test_a_certificate_that_is_not_trusted(certificate: Path) -> None:
    with web_server(OK, serving_context(certificate)) as port:
        report = check_portal(f"https://127.0.0.1:{port}/healthz", None)
    assert (report.reachable, report.tls) == (False, "not trusted")
    assert report.error is not None
    assert "self-signed" in report.error


def test_no_tls_where_there_should_be() -> None:
    with web_server(OK) as port:
        report = check_portal(f"https://127.0.0.1:{port}/healthz", None)
    assert not report.reachable
    assert report.error
