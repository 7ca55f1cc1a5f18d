"""`firezone wg` between two namespaces: against itself, against wireguard-go, under wg(8).

"a" 192.0.2.1 ─── veth ─── 192.0.2.2 "b"
    10.99.0.1 ── tunnel ── 10.99.0.2
    fd99::1                fd99::2
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from firezone.lab import LabError, netns, registry
from firezone.noise import StaticKeypair
from firezone.shell.wg_control import DIRECTORY

FIREZONE = [sys.executable, "-m", "firezone", "wg"]
PING = str(Path(__file__).with_name("wg_ping.py"))
PRESHARED = base64.b64encode(bytes(range(32))).decode()

needs_wg = pytest.mark.skipif(not shutil.which("wg"), reason="needs wireguard-tools")
needs_wireguard_go = pytest.mark.skipif(
    not shutil.which("wireguard-go"), reason="needs wireguard-go"
)


def test_both_families_both_ways(net: Net) -> None:
    net.a.up()
    net.b.up()
    net.a.ping("10.99.0.2", "fd99::2")
    net.b.ping("10.99.0.1", "fd99::1")
    with net.b.web_server():
        for address in ("10.99.0.2", "[fd99::2]"):
            assert net.a.run("curl", "-sS", "-m", "5", f"http://{address}:8000/page") == "hello"


def test_fragments(net: Net) -> None:
    net.a.up(interface="MTU = 1420")
    net.b.up(interface="MTU = 1420")
    net.a.ping("10.99.0.2/8000", "fd99::2/8000")


def test_over_ipv6(net: Net) -> None:
    net.a.up(outer="2001:db8::")
    net.b.up()
    net.a.ping("10.99.0.2", "fd99::2")
    (peer,) = net.b.show()["peers"]
    assert peer["endpoint"] == "[2001:db8::1]:51820"


def test_large_transfer_over_the_interfaces_mtu(net: Net) -> None:
    net.a.up(interface="MTU = 1420")
    net.b.up(interface="MTU = 1420")
    (net.directory / "page").write_bytes(os.urandom(3_000_000))
    with net.b.web_server():
        size = net.a.run(
            "curl", "-sS", "-m", "30", "-o", "/dev/null", "-w", "%{size_download}",
            "http://10.99.0.2:8000/page",
        )  # fmt: skip
    assert size == "3000000"


@needs_wg
@needs_wireguard_go
@pytest.mark.parametrize("theirs_first", [False, True])
def test_against_wireguard_go(net: Net, theirs_first: bool) -> None:
    net.a.up(peer=f"PresharedKey = {PRESHARED}")
    with net.b.wireguard_go(f"PresharedKey = {PRESHARED}"):
        if theirs_first:
            net.b.ping("10.99.0.1", "fd99::1")
        net.a.ping("10.99.0.2", "fd99::2")
        net.b.ping("10.99.0.1")
        with net.b.web_server():
            page = net.a.run("curl", "-sS", "-m", "5", "http://10.99.0.2:8000/page")
        assert page == "hello"


@needs_wg
def test_wg_shows_what_we_are(net: Net) -> None:
    net.a.up(interface="FwMark = 0x77", peer=f"PresharedKey = {PRESHARED}\nPersistentKeepalive=25")
    net.b.up(peer=f"PresharedKey = {PRESHARED}")
    net.a.ping("10.99.0.2")
    own, peer = (line.split("\t") for line in net.a.wg("show", net.a.name, "dump").splitlines())
    assert own[1:] == [net.a.public, "51820", "0x77"]
    assert peer[:4] == [net.b.public, PRESHARED, "192.0.2.2:51820", "10.99.0.2/32,fd99::2/128"]
    assert abs(int(peer[4]) - time.time()) < 10
    assert int(peer[5]) > 32 and int(peer[6]) > 32 and peer[7] == "25"
    shown = json.loads(net.a.run(*FIREZONE, "show", net.a.name, "--json"))
    assert (shown["public_key"], shown["listen_port"]) == (net.a.public, 51820)
    text = net.a.run(*FIREZONE, "show", net.a.name)
    assert net.b.public in text and net.a.private not in text and PRESHARED not in text
    assert (DIRECTORY / f"{net.a.name}.sock").stat().st_mode & 0o777 == 0o600


@needs_wg
def test_wg_sets_what_we_are(net: Net) -> None:
    net.a.up()
    net.b.up()
    net.a.ping("10.99.0.2")
    net.a.wg("set", net.a.name, "peer", net.b.public, "allowed-ips", "10.99.0.3/32")
    net.a.silent("10.99.0.2")
    net.a.wg("set", net.a.name, "peer", net.b.public, "allowed-ips", "10.99.0.2/32,fd99::2/128")
    net.a.ping("10.99.0.2")
    net.b.wg("set", net.b.name, "listen-port", "4444")
    assert net.b.wg("show", net.b.name, "listen-port") == "4444"
    net.b.ping("10.99.0.1")
    assert net.a.wg("show", net.a.name, "endpoints").endswith("192.0.2.2:4444")
    net.a.wg("set", net.a.name, "peer", net.b.public, "remove")
    net.a.silent("10.99.0.2")
    assert net.a.wg("show", net.a.name, "peers") == ""


@needs_wg
def test_wg_syncconf_keeps_the_session(net: Net) -> None:
    net.a.up()
    net.b.up()
    net.a.ping("10.99.0.2")
    before = net.a.wg("show", net.a.name, "latest-handshakes")
    stripped = net.a.config(peer="PersistentKeepalive = 7").replace("Address", "# Address")
    path = net.directory / "sync"
    path.write_text(stripped)
    net.a.wg("syncconf", net.a.name, str(path))
    net.a.ping("10.99.0.2")
    assert net.a.wg("show", net.a.name, "latest-handshakes") == before
    assert net.a.wg("show", net.a.name, "persistent-keepalive").endswith("7")
    path.write_text(stripped.partition("[Peer]")[0])
    net.a.wg("syncconf", net.a.name, str(path))
    assert net.a.wg("show", net.a.name, "peers") == ""


@needs_wg
def test_wg_hears_why_not(net: Net) -> None:
    net.a.up()
    taken = "import socket, time; s = socket.socket(2, 2); s.bind(('', 5555)); time.sleep(60)"
    with net.a.background(sys.executable, "-c", taken):
        time.sleep(0.3)
        with pytest.raises(LabError, match="Address already in use"):
            net.a.wg("set", net.a.name, "listen-port", "5555", "fwmark", "5")
    assert net.a.wg("show", net.a.name, "listen-port") == "51820"
    assert net.a.wg("show", net.a.name, "fwmark") == "off"
    with pytest.raises(LabError, match="Invalid argument"):
        net.a.wg("set", net.a.name, "peer", base64.b64encode(bytes(32)).decode())


@needs_wg
def test_another_private_key(net: Net) -> None:
    net.a.up()
    net.b.up()
    net.a.ping("10.99.0.2")
    key = os.urandom(32)
    fresh = StaticKeypair.from_private(key)
    path = net.directory / "key"
    path.write_text(base64.b64encode(key).decode())
    net.a.wg("set", net.a.name, "private-key", str(path))
    net.a.silent("10.99.0.2")
    public = base64.b64encode(fresh.public).decode()
    net.b.wg("set", net.b.name, "peer", net.a.public, "remove")
    net.b.wg("set", net.b.name, "peer", public, "allowed-ips", "10.99.0.1/32")
    net.a.ping("10.99.0.2")


def test_a_bad_file_leaves_the_running_interface(net: Net) -> None:
    running = net.a.up()
    net.b.up()
    net.a.ping("10.99.0.2")
    path = net.a.write(net.a.config(interface="ListenPort = many"))
    code, errors = net.a.fails(*FIREZONE, "up", str(path))
    assert code == 2 and len(errors.splitlines()) == 1
    assert "[Interface] ListenPort" in errors and net.a.private not in errors
    path = net.a.write(net.a.config())
    code, errors = net.a.fails(*FIREZONE, "up", str(path))
    assert code == 2 and f"process {running.pid} serves it already" in errors
    net.a.ping("10.99.0.2")


def test_a_peer_that_roams_is_followed_by_its_data(net: Net) -> None:
    net.a.up()
    net.b.up()
    net.a.ping("10.99.0.2")
    (peer,) = net.b.show()["peers"]
    assert peer["endpoint"] == "192.0.2.1:51820"
    handshake = peer["latest_handshake"]
    netns.ip_batch(
        ["address del 192.0.2.1/24 dev eth0", "address add 192.0.2.77/24 dev eth0"],
        net.a.namespace,
    )
    net.a.ping("10.99.0.2")
    (peer,) = net.b.show()["peers"]
    assert (peer["endpoint"], peer["latest_handshake"]) == ("192.0.2.77:51820", handshake)
    net.b.ping("10.99.0.1")


def test_down_leaves_nothing(net: Net) -> None:
    before = net.a.traces()
    process = net.a.up(allowed="0.0.0.0/0, ::/0")
    assert net.a.traces() != before
    net.a.run(*FIREZONE, "down", net.a.name)
    assert process.wait(5) == 0
    assert net.a.traces() == before
    code, errors = net.a.fails(*FIREZONE, "down", net.a.name)
    assert code == 1 and "no such interface is up" in errors


def test_everything_through_the_tunnel(net: Net) -> None:
    net.a.up(allowed="0.0.0.0/0, ::/0")
    net.b.up()
    net.b.run("ip", "address", "add", "203.0.113.5/32", "dev", "lo")
    net.a.ping("203.0.113.5", "10.99.0.2", "fd99::2")
    assert "203.0.113.5 dev " + net.a.name in net.a.run("ip", "route", "get", "203.0.113.5")
    assert "192.0.2.2 dev eth0" in net.a.run("ip", "route", "get", "192.0.2.2")
    assert net.a.show()["fwmark"] == 51820


@pytest.mark.parametrize("table", ["off", "1234"])
def test_other_tables(net: Net, table: str) -> None:
    net.a.up(interface=f"Table = {table}", allowed="10.5.0.0/16, 0.0.0.0/0")
    main = net.a.run("ip", "route", "show")
    assert "10.5.0.0/16" not in main and "default" not in main
    assert "10.99.0.0/24" in main
    if table != "off":
        routes = net.a.run("ip", "route", "show", "table", table)
        assert "10.5.0.0/16" in routes and "default" in routes


def test_what_a_crash_left_is_undone(net: Net) -> None:
    before = net.a.traces()
    process = net.a.up(allowed="0.0.0.0/0")
    process.send_signal(SIGKILL)
    process.wait(5)
    assert net.a.traces() != before, "rules outlive the process"
    net.a.up()
    net.a.run(*FIREZONE, "down", net.a.name)
    assert net.a.traces() == before


def test_commands_of_the_file(net: Net) -> None:
    log = net.directory / "commands"
    lines = "\n".join(
        f"{hook} = echo {hook} %i $(ip -br link show %i | wc -l) >> {log}"
        for hook in ("PreUp", "PostUp", "PreDown", "PostDown")
    )
    net.a.up(interface=lines)
    net.a.run(*FIREZONE, "down", net.a.name)
    wait_until(lambda: log.read_text().count("\n") == 4)
    name = net.a.name
    assert log.read_text() == (
        f"PreUp {name} 1\nPostUp {name} 1\nPreDown {name} 1\nPostDown {name} 0\n"
    )


@needs_wg
def test_a_key_set_by_a_command(net: Net) -> None:
    """A common way to keep the key out of the file."""
    path = net.directory / "other"
    path.write_text(base64.b64encode(bytes([9]) * 32).decode())
    net.a.up(interface=f"PostUp = wg set %i private-key {path}")
    assert net.a.show()["public_key"] != net.a.public


def test_a_failing_command_takes_all_back(net: Net) -> None:
    before = net.a.traces()
    command = f"PostUp = exit 7; echo {PRESHARED}"
    path = net.a.write(net.a.config(interface=command, allowed="::/0"))
    code, errors = net.a.fails(*FIREZONE, "up", str(path))
    assert code == 1 and "exit code 7 of: exit 7; echo (hidden)" in errors
    assert PRESHARED not in errors
    assert net.a.traces() == before


def test_detached(net: Net) -> None:
    net.a.run(*FIREZONE, "up", str(net.a.write(net.a.config())), "--detach")
    net.b.up()
    net.a.ping("10.99.0.2")
    net.a.run(*FIREZONE, "down", net.a.name)
    code, errors = net.a.fails(
        *FIREZONE, "up", str(net.a.write(net.a.config(interface="PreUp = false"))), "--detach"
    )
    assert code == 1 and "exit code 1 of: false" in errors


def test_what_a_detached_one_dies_of_is_in_its_log(net: Net) -> None:
    log = net.directory / "log"
    path = str(net.a.write(net.a.config()))
    net.a.run(*FIREZONE, "up", path, "--detach", "--log-file", str(log))
    assert log.stat().st_mode & 0o777 == 0o600
    assert "interface is up" in log.read_text()
    netns.ip_batch([f"link del {net.a.name}"], net.a.namespace)
    wait_until(lambda: "ERROR" in log.read_text())
    _, line = log.read_text().splitlines()
    assert "the interface has ended" in line and "the interface was deleted" in line


def test_from_python(net: Net) -> None:
    net.b.up()
    path = net.a.write(net.a.config(peer="PersistentKeepalive = 1"))
    script = f"""
import asyncio
from firezone.wg import Interface

async def main():
    async with Interface.from_file({str(path)!r}) as interface:
        while not interface.status().peers[0].last_handshake:
            await asyncio.sleep(0.05)
        print(interface.name, interface.status().listen_port)

asyncio.run(main())
"""
    before = net.a.traces()
    assert net.a.run(sys.executable, "-c", script) == f"{net.a.name} 51820"
    assert net.a.traces() == before


def test_a_deleted_interface_is_told_in_words(net: Net) -> None:
    process = net.a.up()
    netns.ip_batch([f"link del {net.a.name}"], net.a.namespace)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    last = errors.splitlines()[-1]
    assert last.endswith("the data plane has stopped: the interface was deleted"), errors
    assert not (DIRECTORY / f"{net.a.name}.sock").exists()


def test_a_network_that_is_down_is_told_once(net: Net) -> None:
    process = net.a.up()
    net.b.up()
    net.a.ping("10.99.0.2")
    netns.ip_batch(["link set eth0 down"], net.a.namespace)
    for _ in range(2):
        net.a.silent("10.99.0.2")
        time.sleep(1)
    process.terminate()
    _, errors = process.communicate(timeout=10)
    told = [line for line in errors.splitlines() if "cannot be sent" in line]
    assert len(told) == 1, errors
    assert "WARN" in told[0] and "192.0.2.2:51820: Network is unreachable" in told[0]


@needs_wg
def test_an_idle_interface_sleeps(net: Net) -> None:
    """While its session lives that session's timer wakes it, every ten seconds at the latest."""
    processes = [net.a.up(), net.b.up()]
    net.a.ping("10.99.0.2")
    for host in (net.a, net.b):
        # No more multicasts of the host's own; no more flows of the ping.
        host.run("ip", "address", "flush", "dev", host.name)
        host.wg("set", host.name, "peer", host.other.public, "allowed-ips", "")

    def slept() -> bool:
        before = [switches(process.pid) for process in processes]
        time.sleep(4)
        after = [switches(process.pid) for process in processes]
        return all(b - a <= 1 for a, b in zip(before, after, strict=True))

    wait_until(slept, 20)


def test_a_removed_socket_ends_the_interface(net: Net) -> None:
    process = net.a.up()
    (DIRECTORY / f"{net.a.name}.sock").unlink()
    assert process.wait(5) == 0


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    claim = registry.claim()
    namespaces = [f"{claim.name}-a", f"{claim.name}-b"]
    made = Net(tmp_path, *(Host(tmp_path, claim.name, side, number) for number, side in _SIDES))
    made.a.other, made.b.other = made.b, made.a
    (tmp_path / "page").write_text("hello")
    try:
        netns.ip_batch(
            [f"netns add {name}" for name in namespaces]
            + ["link add eth0 netns {} type veth peer name eth0 netns {}".format(*namespaces)]
        )
        for number, namespace in enumerate(namespaces, 1):
            netns.ip_batch(
                [
                    "link set lo up",
                    f"address add 192.0.2.{number}/24 dev eth0",
                    f"address add 2001:db8::{number}/64 dev eth0 nodad",
                    "link set eth0 up",
                ],
                namespace,
            )
        yield made
    finally:
        for host in (made.a, made.b):
            host.close()
        netns.remove(namespaces)
        claim.release()


_SIDES = ((1, "a"), (2, "b"))


@dataclass
class Net:
    directory: Path
    a: Host
    b: Host


@dataclass
class Host:
    """A namespace with one interface."""

    directory: Path
    prefix: str
    side: str
    number: int
    key: bytes = field(default_factory=lambda: os.urandom(32))
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    other: Host = field(init=False, repr=False)

    @property
    def name(self) -> str:
        return f"{self.prefix}{self.side}"

    @property
    def namespace(self) -> str:
        return f"{self.prefix}-{self.side}"

    @property
    def private(self) -> str:
        return base64.b64encode(self.key).decode()

    @property
    def public(self) -> str:
        return base64.b64encode(StaticKeypair.from_private(self.key).public).decode()

    def config(
        self, *, interface: str = "", peer: str = "", allowed: str = "", outer: str = "192.0.2."
    ) -> str:
        other = self.other
        return f"""
[Interface]
PrivateKey = {self.private}
Address = 10.99.0.{self.number}/24, fd99::{self.number}/64
ListenPort = 51820
{interface}
[Peer]
PublicKey = {other.public}
AllowedIPs = {allowed or f"10.99.0.{other.number}/32, fd99::{other.number}/128"}
Endpoint = {f"{outer}{other.number}" if "." in outer else f"[{outer}{other.number}]"}:51820
{peer}
"""

    def write(self, text: str) -> Path:
        path = self.directory / f"{self.name}.conf"
        path.touch(0o600)
        path.write_text(text)
        return path

    def up(self, **settings: str) -> subprocess.Popen[str]:
        """Runs in the foreground; returns when it is up."""
        path = self.write(self.config(**settings))
        process = self.start(*FIREZONE, "up", str(path))
        assert process.stderr is not None
        seen = ""
        while "interface is up" not in seen:
            line = process.stderr.readline()
            assert line, f"it ended: {seen}"
            seen += line
        return process

    def start(self, *argv: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*netns.prefix_argv(self.namespace), *argv],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.directory,
        )
        self.processes.append(process)
        return process

    def background(self, *argv: str) -> Background:
        return Background(self.start(*argv))

    def web_server(self) -> Background:
        serving = self.background(sys.executable, "-m", "http.server", "--bind", "::", "8000")
        wait_until(lambda: ":8000" in self.run("ss", "-ltn"))
        return serving

    def wireguard_go(self, peer: str) -> Background:
        argv = ["wireguard-go", "-f", self.name]
        serving = self.background("env", "LOG_LEVEL=error", "WG_PROCESS_FOREGROUND=1", *argv)
        wait_until((DIRECTORY / f"{self.name}.sock").exists)
        stripped = self.config(peer=peer).replace("Address", "# Address")
        self.wg("setconf", self.name, str(self.write(stripped)))
        netns.ip_batch(
            [
                f"address add 10.99.0.{self.number}/24 dev {self.name}",
                f"address add fd99::{self.number}/64 dev {self.name} nodad",
                f"link set {self.name} mtu 1420 up",
            ],
            self.namespace,
        )
        return serving

    def run(self, *argv: str) -> str:
        return netns.run(self.namespace, argv).strip()

    def fails(self, *argv: str) -> tuple[int, str]:
        """Exit code and stderr of what should not succeed."""
        process = self.start(*argv)
        _, errors = process.communicate(timeout=20)
        assert process.returncode != 0
        return process.returncode, errors

    def wg(self, *arguments: str) -> str:
        return self.run("wg", *arguments)

    def show(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.run(*FIREZONE, "show", self.name, "--json"))
        return shown

    def ping(self, *addresses: str) -> None:
        self.run(sys.executable, PING, "8", *addresses)

    def silent(self, address: str) -> None:
        with pytest.raises(LabError, match="no answer"):
            self.run(sys.executable, PING, "1", address)

    def traces(self) -> str:
        """What an interface changes in a host. IPv6 takes its time on eth0 whatever we do."""
        commands = (
            "ip -br link; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all;"
            "nft list ruleset; cat /proc/sys/net/ipv4/conf/all/src_valid_mark"
        )
        journals = sorted(Path("/run/firezone").glob(f"wg-{self.name}*"))
        sockets = sorted(DIRECTORY.glob(f"{self.name}*"))
        lines = self.run("sh", "-c", commands).splitlines()
        kept = "\n".join(line for line in lines if "eth0" not in line)
        return f"{kept} {journals} {sockets}"

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            process.wait(10)
            if process.stderr is not None:
                process.stderr.close()


@dataclass
class Background:
    """A process that ends with its block."""

    process: subprocess.Popen[str]

    def __enter__(self) -> subprocess.Popen[str]:
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)


def switches(pid: int) -> int:
    """How often the threads of a process went to sleep."""
    statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    found = [re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.M) for text in statuses]
    assert found and all(found)
    return sum(int(match[1]) for match in found if match)


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
