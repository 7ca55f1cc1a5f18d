"""Our TURN client at coturn's server, over loopback: a relay that goes by the book.

It signs no challenge, wants its first Allocate unsigned, and takes no REQUESTED-TRANSPORT in a
Refresh. Nobody told the client: it finds out.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from certificates import self_signed
from click.testing import CliRunner
from turn_client import TurnClient, clock

from firezone.cli.netcheck import netcheck
from firezone.durations import SECOND
from firezone.model import Endpoint
from firezone.netcheck import Filtering, NetcheckReport
from firezone.stun import Method
from firezone.turn import AllocationState, CandidateAdded

pytestmark = pytest.mark.skipif(shutil.which("turnserver") is None, reason="needs coturn")


class Coturn:
    """The server, and a socket on the other side of it."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port, self.tls_port = free_port(), free_port()
        self._log = (directory / "log").open("w+")
        certificate = str(self_signed(directory))
        settings = ["-n", "--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1"]
        settings += ["-p", str(self.port), "--tls-listening-port", str(self.tls_port)]
        settings += ["--lt-cred-mech", "--user", "user:secret", "--realm", "firezone"]
        settings += ["--cert", certificate, "--pkey", certificate, "--no-cli", "--no-dtls"]
        settings += ["--allow-loopback-peers", "--log-file", "stdout", "--simple-log"]
        self._command = ["turnserver", *settings, "--pidfile", str(directory / "pid"), *options]
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.1", 0))
        self.peer.settimeout(5)
        self.start()

    @property
    def peer_address(self) -> Endpoint:
        return Endpoint.of(*self.peer.getsockname())

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while not (accepts(self.port) and accepts(self.tls_port)):
            assert time.monotonic() < deadline and self._process.poll() is None, self.log()
            time.sleep(0.05)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def log(self) -> str:
        return Path(self._log.name).read_text()

    def client(self, over: str = "UDP", password: str = "secret") -> TurnClient:
        port = self.tls_port if over == "TLS" else self.port
        return TurnClient(over, Endpoint.of("127.0.0.1", port), "user", password)

    def close(self) -> None:
        self.stop()
        self.peer.close()
        self._log.close()


@pytest.fixture
def coturn(tmp_path: Path) -> Iterator[Coturn]:
    coturn = Coturn(tmp_path)
    yield coturn
    coturn.close()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def allocated(coturn: Coturn, over: str = "UDP") -> TurnClient:
    client = coturn.client(over)
    assert client.run(lambda: client.allocation.has_allocation), client.allocation.counters
    return client


def bound(coturn: Coturn, over: str = "UDP") -> TurnClient:
    client = allocated(coturn, over)
    client.allocation.bind_channel(coturn.peer_address, clock())
    assert client.run(lambda: client.allocation.channels() == 1), client.allocation.counters
    return client


def exchange(coturn: Coturn, client: TurnClient, payload: bytes) -> None:
    """One datagram each way."""
    (relayed,) = client.allocation.relayed_addresses()
    client.send(payload, coturn.peer_address)
    received, source = coturn.peer.recvfrom(2048)
    assert (received, Endpoint.of(*source)) == (payload, relayed)
    before = len(client.received)
    coturn.peer.sendto(payload[::-1], relayed.sockaddr)
    assert client.run(lambda: len(client.received) > before)
    inner = client.received[-1]
    assert (inner.peer, inner.relayed) == (coturn.peer_address, relayed)
    assert inner.payload == payload[::-1]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("over", ["UDP", "TCP", "TLS"])
def test_data_passes_both_ways(coturn: Coturn, over: str) -> None:
    client = bound(coturn, over)
    for size in (1, 4, 171, 1316):
        exchange(coturn, client, bytes(i % 256 for i in range(size)))
    candidates = [e for e in client.events if isinstance(e, CandidateAdded)]
    kinds = ["relay"] if over != "UDP" else ["host", "srflx", "relay"]
    assert [c.kind for c in candidates] == kinds
    client.close()


@pytest.mark.timeout(60)
def test_what_is_refreshed_stays(coturn: Coturn) -> None:
    """The allocation by Refresh, the channel by another bind; the client's clock runs ahead."""
    client = bound(coturn)
    exchange(coturn, client, b"before")
    granted, refused = client.granted.copy(), client.allocation.counters.copy()
    later = clock() + 301 * SECOND
    client.allocation.handle_channel_activity(0x4000, later - SECOND)
    client.allocation.handle_timeout(later)
    due = [Method.BINDING, Method.CHANNEL_BIND, Method.REFRESH]
    assert client.run(lambda: sorted((client.granted - granted).elements()) == sorted(due))
    assert client.allocation.counters == refused
    exchange(coturn, client, b"after")
    client.close()


@pytest.mark.timeout(60)
def test_a_nonce_that_became_stale_is_replaced(tmp_path: Path) -> None:
    coturn = Coturn(tmp_path, "--stale-nonce=1")
    client = bound(coturn)
    client.run(lambda: False, 2 * SECOND)
    client.allocation.refresh(clock())
    assert client.run(lambda: client.allocation.counters["error_438"] > 0)
    exchange(coturn, client, b"still there")
    assert client.allocation.state is AllocationState.ALLOCATED
    client.close()
    coturn.close()


@pytest.mark.timeout(60)
def test_a_relay_that_lost_its_state_is_allocated_at_anew(coturn: Coturn) -> None:
    client = bound(coturn)
    before = client.allocation.relayed_addresses()
    coturn.stop()
    coturn.start()
    client.allocation.refresh(clock())
    assert client.run(lambda: client.allocation.relayed_addresses() not in ([], before))
    client.allocation.bind_channel(coturn.peer_address, clock())
    assert client.run(lambda: client.allocation.channels() == 1)
    exchange(coturn, client, b"again")
    client.close()


@pytest.mark.timeout(60)
def test_a_wrong_password_gets_no_allocation(coturn: Coturn) -> None:
    """Coturn cannot sign that, so it is as if it did not answer."""
    client = coturn.client(password="wrong")
    assert client.run(lambda: client.allocation.counters["unauthenticated_response"] > 0)
    assert not client.run(lambda: client.allocation.has_allocation, 2 * SECOND)
    assert client.allocation.state is AllocationState.ALLOCATING
    client.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("password", "filtering", "note"),
    [
        ("secret", Filtering.NOT_BY_PORT, "name a second relay, at another address"),
        ("wrong", Filtering.UNKNOWN, "relay 127.0.0.1: has another password or realm"),
    ],
)
def test_it_tells_how_the_network_filters(
    coturn: Coturn, tmp_path: Path, password: str, filtering: Filtering, note: str
) -> None:
    """As much as one relay can: on loopback nothing is filtered."""
    users = tmp_path / "users"
    users.write_text(f"user:{password}\n")
    users.chmod(0o600)
    options = ["--json", "--stun", f"127.0.0.1:{coturn.port}", "--users-file", str(users)]
    result = CliRunner().invoke(netcheck, options)
    report = msgspec.json.decode(result.output, type=NetcheckReport)
    four = report.families[0]
    assert (four.filtering, four.filtering_note) == (filtering, note)
