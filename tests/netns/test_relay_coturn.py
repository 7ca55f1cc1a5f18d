"""The relay program against coturn's own client, over loopback.

`turnutils_uclient` exits with 0 even if nothing comes back, so what counts is its own account of
bytes. Its dual allocation (-Z) asks with an attribute number of a draft and is left out.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import self_signed

from firezone.turn.relay_auth import password_of
from tests.ports import free_port, relayed_ports

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("turnutils_uclient") is None, reason="needs coturn"),
]

SECRET = "c0" * 32
TOTALS = re.compile(r"tot_send_bytes ~ (\d+), tot_recv_bytes ~ (\d+)")


class World:
    """A relay, coturn's echoing peer, and as many clients as wanted."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.peer_port, self.tls_port = free_port(), free_port()
        # Even, as coturn asks for even ports, and with one port there is no other.
        self.listen_port = next(port for port in iter(free_port, 0) if port % 2 == 0)
        ports = relayed_ports(1000)
        certificate = self_signed(directory)
        (directory / "secret").touch(0o600)
        (directory / "secret").write_text(SECRET)
        (directory / "users").write_text("alice:wonderland\n")
        (directory / "users").chmod(0o600)
        self.log = (directory / "log").open("w+")
        settings = {
            "--listen-port": self.listen_port,
            "--public-ip4-addr": "127.0.0.1",
            "--public-ip6-addr": "::1",
            "--lowest-port": ports[0],
            "--highest-port": ports[-1],
            "--health-check-addr": "",
            "--auth-secret-path": directory / "secret",
            "--users-file": directory / "users",
            "--tls-port": self.tls_port,
            "--tls-cert": certificate,
            "--status-socket": directory / "status",
        }
        given = [str(part) for pair in settings.items() for part in pair]
        command = [sys.executable, "-m", "firezone", "relay", "--allow-loopback-peers", *given]
        command += options
        self.relay = subprocess.Popen(command, stderr=self.log)
        peer = ["turnutils_peer", "-L", "127.0.0.1", "-L", "::1", "-p", str(self.peer_port)]
        self.peer = subprocess.Popen(peer, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 10
        while "event=ready" not in (text := Path(self.log.name).read_text()):
            assert time.monotonic() < deadline and self.relay.poll() is None, text
            time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        socket = Path(self.log.name).with_name("status")
        command = [sys.executable, "-m", "firezone", "status", "--relay", "--json"]
        command += ["--status-socket", str(socket)]
        report: dict[str, Any] = json.loads(subprocess.check_output(command, timeout=20))
        return report

    def client(self, *arguments: str) -> subprocess.Popen[str]:
        username = f"{int(time.time()) + 3600}:salt"
        password = password_of(username, SECRET)
        assert password is not None
        settings = ["-u", username, "-w", password, "-n", "30"]
        port = self.tls_port if "-S" in arguments else self.listen_port
        ports = ["-p", str(port), "-r", str(self.peer_port)]
        return subprocess.Popen(
            ["turnutils_uclient", *settings, *ports, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def close(self) -> None:
        for process in (self.relay, self.peer):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self.log.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def totals(client: subprocess.Popen[str]) -> tuple[int, int]:
    """Bytes sent and received, when the client is done."""
    output, _ = client.communicate(timeout=60)
    found = TOTALS.findall(output)
    assert found, output
    sent, received = found[-1]
    return int(sent), int(received)


@pytest.mark.timeout(90)
def test_every_byte_comes_back(world: World) -> None:
    """All at once, for a run takes six seconds however little it does."""
    v4, v6 = ["-e", "127.0.0.1", "127.0.0.1"], ["-x", "-e", "::1", "::1"]
    runs = {
        "channels": ["-m", "2", "-l", "170", "-c", "-X", *v4],
        "Send and Data": ["-s", "-m", "2", "-l", "170", "-c", "-X", *v4],
        "Send and Data over IPv6": ["-s", "-m", "2", "-l", "1200", "-c", *v6],
        "Send and Data over TCP": ["-s", "-t", "-m", "2", "-l", "171", "-c", "-X", *v4],
        "Send between two allocations": ["-s", "-m", "2", "-l", "100", "-c", "-y", *v4],
        "even and reserved ports": ["-m", "2", "-l", "100", "-X", *v4],
        "not to be fragmented": ["-s", "-g", "-m", "2", "-l", "500", "-c", "-X", *v4],
        "padded": ["-m", "2", "-l", "171", "-c", "-X", "-D", *v4],
        "IPv6": ["-m", "2", "-l", "1200", "-c", *v6],
        "between two allocations": ["-m", "2", "-l", "100", "-c", "-y", *v4],
        "TCP": ["-t", "-m", "2", "-l", "171", "-c", "-X", *v4],
        "TCP over IPv6": ["-t", "-m", "2", "-l", "1200", "-c", *v6],
        "TLS": ["-t", "-S", "-m", "2", "-l", "999", "-c", "-X", *v4],
        "a user of the file": ["-u", "alice", "-w", "wonderland", "-m", "2", "-c", "-X", *v4],
        "more permissions and binds": ["-m", "4", "-l", "100", "-c", "-G", *v4],
    }
    clients = {name: world.client(*arguments) for name, arguments in runs.items()}
    results = {name: totals(client) for name, client in clients.items()}
    assert all(sent == received > 0 for sent, received in results.values()), results
    report = world.status()
    by_send = sum(results[name][0] for name, arguments in runs.items() if "-s" in arguments)
    assert report["indication_bytes"] == 2 * by_send, report


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "1", "-l", "170", "-c", "-X", "-e", "127.0.0.1", "127.0.0.1"],
        ["-m", "1", "-l", "1200", "-c", "-x", "-e", "::1", "::1"],
        ["-s", "-m", "1", "-l", "170", "-c", "-X", "-e", "127.0.0.1", "127.0.0.1"],
        ["-t", "-m", "1", "-l", "171", "-c", "-X", "-e", "127.0.0.1", "127.0.0.1"],
    ],
    ids=["channels", "IPv6", "Send and Data", "TCP"],
)
def test_every_byte_comes_back_with_one_port(tmp_path: Path, arguments: list[str]) -> None:
    """For one client at a time: with two, nothing in their data would say whose it is."""
    world = World(tmp_path, "--one-port")
    try:
        sent, received = totals(world.client(*arguments))
        assert sent == received > 0
        report = world.status()
        assert (report["mode"], report["ports"]) == ("one port", str(world.listen_port))
        if "-s" not in arguments:
            assert report["to_clients"]["bytes"] >= received
    finally:
        world.close()


@pytest.mark.timeout(60)
def test_binding_for_the_client_of_coturn(world: World) -> None:
    for host, seen in (("127.0.0.1", "127.0.0.1:"), ("::1", "::1:")):
        command = ["turnutils_stunclient", "-p", str(world.listen_port), host]
        output = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
        assert f"UDP reflexive addr: {seen}" in output


@pytest.mark.timeout(90)
def test_data_flows_on_after_terminate(world: World) -> None:
    client = world.client("-m", "2", "-c", "-X", "-e", "127.0.0.1", "127.0.0.1")
    deadline = time.monotonic() + 20
    while world.status()["allocations"] < 2:  # its data comes later
        assert time.monotonic() < deadline
    world.relay.send_signal(signal.SIGTERM)
    sent, received = totals(client)
    assert sent == received > 0
    assert world.relay.poll() is None
    report = world.status()
    assert (report["state"], report["allocations"]) == ("draining", 2)
    refused = world.client("-m", "1", "-c", "-X", "-e", "127.0.0.1", "127.0.0.1")
    assert "508" in refused.communicate(timeout=60)[0]
    world.relay.send_signal(signal.SIGTERM)
    assert world.relay.wait(5) == 0
