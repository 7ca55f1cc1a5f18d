"""`firezone wg` with several workers: a hub and its peers, each in a namespace.

hub 10.98.0.1, several workers
│ veth 192.0.2.0/24, by a bridge
├── 10.98.0.2  firezone, one worker
├── 10.98.0.3  firezone, three workers
├── 10.98.0.4  wireguard-go, or firezone where it is missing
└── 10.98.0.5  firezone, two workers
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from firezone.lab import netns, registry
from firezone.noise import StaticKeypair
from firezone.shell.wg_control import DIRECTORY
from tests.netns.test_wg import FIREZONE, PING, wait_until

FLOWS = str(Path(__file__).with_name("wg_flows.py"))
SPOKES = (2, 3, 4, 5)
WORKERS = {3: 3, 5: 2}


@pytest.mark.parametrize("workers", [2, 3])
def test_flows_of_many_peers_stay_in_order(star: Star, workers: int) -> None:
    star.up(workers)
    star.start(1, sys.executable, FLOWS, "echo")
    wait_until(lambda: ":7000" in star.run(1, "ss", "-lun"))
    with ThreadPoolExecutor(len(SPOKES)) as executor:
        told = list(executor.map(star.send_flows, SPOKES))
    for each in told:
        assert each["late"] == 0
        assert each["returned"] >= each["sent"] * 0.98
    shown = star.show(1)
    assert len(shown["workers"]) == workers
    # Peers are dealt out evenly: no worker is without.
    assert all(worker["received_packets"] > 500 for worker in shown["workers"])
    assert sum(worker["sent_packets"] for worker in shown["workers"]) > 4000
    # The kernel knows whose they are.
    assert all(worker["handed_over_packets"] == 0 for worker in shown["workers"])


def test_streams_both_ways_and_another_port(star: Star, tmp_path: Path) -> None:
    star.up(2)
    (tmp_path / "page").write_bytes(os.urandom(3_000_000))
    for number in (1, 3, 4):
        star.start(number, sys.executable, "-m", "http.server", "--bind", "::", "8000")
        wait_until(lambda: ":8000" in star.run(number, "ss", "-ltn"))  # noqa: B023
    with ThreadPoolExecutor(4) as executor:
        downloads = [(2, 1), (3, 1), (4, 1), (1, 3), (1, 3), (1, 4)]
        assert list(executor.map(lambda ends: star.fetch(*ends), downloads)) == ["3000000"] * 6
    if shutil.which("wg"):
        star.run(1, "wg", "set", star.name(1), "listen-port", "4444")
        assert star.fetch(1, 3) == "3000000"
        star.run(1, sys.executable, PING, "8", "10.98.0.2", "10.98.0.4", "10.98.0.5")


def test_one_of_them_is_not_enough_for_a_second_interface(star: Star, tmp_path: Path) -> None:
    """Queues and ports can be shared, but not with another program."""
    star.up(2, spokes=())
    own = star.name(1)
    for workers in ("1", "2"):
        again = tmp_path / f"{own}.conf"
        code, told = star.fails(1, *FIREZONE, "up", str(again), "--workers", workers)
        assert code == 2 and "another" in told
        other = tmp_path / f"{own}x.conf"
        other.write_text(again.read_text())
        code, told = star.fails(1, *FIREZONE, "up", str(other), "--workers", workers)
        assert code == 2 and "ListenPort" in told


def test_nothing_is_left_after_a_kill(star: Star) -> None:
    before = star.traces()
    star.up(2, spokes=(2,))
    star.run(2, sys.executable, PING, "8", "10.98.0.1")
    hub = star.processes[-2]
    hub.send_signal(SIGKILL)
    hub.wait(5)
    star.up(3, spokes=())
    star.run(1, sys.executable, PING, "8", "10.98.0.2")
    star.processes[-1].terminate()
    assert star.processes[-1].wait(5) == 0
    assert star.traces() == before


@pytest.fixture
def star(tmp_path: Path) -> Iterator[Star]:
    claim = registry.claim()
    made = Star(tmp_path, claim.name)
    try:
        made.build()
        yield made
    finally:
        made.close()
        claim.release()


@dataclass
class Star:
    directory: Path
    prefix: str
    keys: dict[int, bytes] = field(
        default_factory=lambda: {number: os.urandom(32) for number in (1, *SPOKES)}
    )
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def name(self, number: int) -> str:
        return f"{self.prefix}{number}"

    def namespace(self, number: int) -> str:
        return f"{self.prefix}-{number}"

    def build(self) -> None:
        """The hub's namespace has the bridge."""
        namespaces = [self.namespace(number) for number in (1, *SPOKES)]
        netns.ip_batch([f"netns add {each}" for each in namespaces])
        hub = self.namespace(1)
        netns.ip_batch(
            ["link set lo up", "link add br0 type bridge", "link set br0 up",
             "address add 192.0.2.1/24 dev br0"],
            hub,
        )  # fmt: skip
        for number in SPOKES:
            spoke = self.namespace(number)
            netns.ip_batch(
                [f"link add v{number} netns {hub} type veth peer name eth0 netns {spoke}"]
            )
            netns.ip_batch([f"link set v{number} master br0 up"], hub)
            netns.ip_batch(
                ["link set lo up", f"address add 192.0.2.{number}/24 dev eth0",
                 "link set eth0 up"],
                spoke,
            )  # fmt: skip

    def up(self, workers: int, spokes: tuple[int, ...] = SPOKES) -> None:
        self.firezone(1, workers)
        for number in spokes:
            if number == 4 and shutil.which("wireguard-go") and shutil.which("wg"):
                self.wireguard_go(number)
            else:
                self.firezone(number, WORKERS.get(number, 1))

    def firezone(self, number: int, workers: int) -> None:
        path = self.write(number)
        process = self.start(number, *FIREZONE, "up", str(path), "--workers", str(workers))
        assert process.stderr is not None
        seen = ""
        while "interface is up" not in seen:
            line = process.stderr.readline()
            assert line, f"it ended: {seen}"
            seen += line

    def wireguard_go(self, number: int) -> None:
        name = self.name(number)
        self.start(number, "env", "LOG_LEVEL=error", "wireguard-go", "-f", name)
        wait_until((DIRECTORY / f"{name}.sock").exists)
        path = self.write(number)
        path.write_text(path.read_text().replace("Address", "# Address"))
        self.run(number, "wg", "setconf", name, str(path))
        netns.ip_batch(
            [f"address add 10.98.0.{number}/24 dev {name}", f"link set {name} mtu 1420 up"],
            self.namespace(number),
        )

    def write(self, number: int) -> Path:
        private = base64.b64encode(self.keys[number]).decode()
        text = f"""[Interface]
PrivateKey = {private}
Address = 10.98.0.{number}/24
ListenPort = 51820
"""
        for other in SPOKES if number == 1 else (1,):
            public = StaticKeypair.from_private(self.keys[other]).public
            text += f"""[Peer]
PublicKey = {base64.b64encode(public).decode()}
AllowedIPs = 10.98.0.{other}/32
Endpoint = 192.0.2.{other}:51820
"""
        path = self.directory / f"{self.name(number)}.conf"
        path.touch(0o600)
        path.write_text(text)
        return path

    def start(self, number: int, *argv: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*netns.prefix_argv(self.namespace(number)), *argv],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.directory,
        )
        self.processes.append(process)
        return process

    def fails(self, number: int, *argv: str) -> tuple[int, str]:
        process = self.start(number, *argv)
        _, errors = process.communicate(timeout=20)
        return process.returncode, errors

    def run(self, number: int, *argv: str) -> str:
        return netns.run(self.namespace(number), argv).strip()

    def send_flows(self, number: int) -> dict[str, int]:
        told = self.run(number, sys.executable, FLOWS, "send", "10.98.0.1", "12", "200")
        found: dict[str, int] = json.loads(told)
        return found

    def fetch(self, number: int, server: int) -> str:
        return self.run(
            number, "curl", "-sS", "-m", "30", "-o", "/dev/null", "-w", "%{size_download}",
            f"http://10.98.0.{server}:8000/page",
        )  # fmt: skip

    def show(self, number: int) -> dict[str, Any]:
        told = self.run(number, *FIREZONE, "show", self.name(number), "--json")
        shown: dict[str, Any] = json.loads(told)
        return shown

    def traces(self) -> str:
        """What an interface may leave in the hub's namespace, and outside."""
        left = self.run(1, "sh", "-c", "ip -br link | grep -v veth; ip rule; nft list ruleset")
        journals = sorted(Path("/run/firezone").glob(f"wg-{self.name(1)}*"))
        return f"{left} {journals} {sorted(DIRECTORY.glob(f'{self.name(1)}*'))}"

    def close(self) -> None:
        with ExitStack() as stack:
            stack.callback(netns.remove, [self.namespace(number) for number in (1, *SPOKES)])
            for process in self.processes:
                if process.poll() is None:
                    process.terminate()
            for process in self.processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                if process.stderr is not None:
                    process.stderr.close()
