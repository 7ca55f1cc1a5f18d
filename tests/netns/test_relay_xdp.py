"""The relay program with its tier in the kernel, over a veth pair between two namespaces.

clients and peers  wx ════ rx  relay
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from netns.conftest import enter_fresh_netns
from netns.xdp_kit import ip, let_pass, need_bpf

from firezone import stun
from firezone.explain.relay import RelayReport
from firezone.model import Endpoint
from firezone.shell.bpf import XdpLink, XdpMode
from firezone.shell.status_socket import Request, ask
from firezone.stun import Message, Method
from firezone.turn.relay_auth import password_of

SECRET, USERNAME = "0f" * 32, "4000000000:salt"
RELAY = {4: "192.0.2.1", 6: "2001:db8::1"}
HERE = {4: ("192.0.2.2", "192.0.2.3"), 6: ("2001:db8::2", "2001:db8::3")}
AF = {4: socket.AF_INET, 6: socket.AF_INET6}

T = TypeVar("T")


class World:
    """Both namespaces, and a relay in one of them."""

    def __init__(self, directory: Path, *options: str, other_end: bool = True) -> None:
        self._outside = ThreadPoolExecutor(1, initializer=enter_fresh_netns)
        self._inside = ThreadPoolExecutor(1, initializer=enter_fresh_netns)
        self.directory = directory
        self.status_socket = directory / "status.sock"
        self._sockets: list[socket.socket] = []
        self._links: list[XdpLink] = []
        inside = self.inside(threading.get_native_id)
        self.outside(
            ip, f"link add wx type veth peer name rx netns {inside}", *addresses("wx", HERE)
        )
        self.inside(ip, *addresses("rx", {v: (a,) for v, a in RELAY.items()}))
        # A veth takes what the other end sends from its driver only if it has a program, too.
        if other_end:
            self.outside(self._let_pass)
        self.relay = self.inside(self.start, ("--xdp", "rx", *options))

    def outside(self, run: Callable[..., T], *arguments: Any) -> T:
        return self._outside.submit(run, *arguments).result(30)

    def inside(self, run: Callable[..., T], *arguments: Any) -> T:
        return self._inside.submit(run, *arguments).result(30)

    def socket(self, family: int, host: str = "") -> socket.socket:
        made: socket.socket = self.outside(socket.socket, AF[family], socket.SOCK_DGRAM)
        made.settimeout(5)
        made.bind((host or HERE[family][0], 0))
        self._sockets.append(made)
        return made

    def report(self) -> RelayReport:
        return ask(self.status_socket, Request("status"), RelayReport)

    def moved(self) -> tuple[int, int]:
        """Packets that the kernel has moved, to peers and to clients."""
        xdp = self.report().xdp
        assert xdp is not None
        return xdp.to_peers.packets, xdp.to_clients.packets

    def close(self) -> None:
        self.relay.kill()
        self.relay.wait()
        for each in self._sockets + self._links:
            each.close()
        for pool in (self._outside, self._inside):
            pool.shutdown()

    def _let_pass(self) -> None:
        with closing(let_pass()) as program:
            self._links.append(XdpLink(program, socket.if_nametoindex("wx"), XdpMode.NATIVE))

    def start(self, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
        (self.directory / "secret").touch(0o600)
        (self.directory / "secret").write_text(SECRET)
        settings = {
            "--public-ip4-addr": RELAY[4],
            "--public-ip6-addr": RELAY[6],
            "--health-check-addr": "",
            "--auth-secret-path": self.directory / "secret",
            "--status-socket": self.status_socket,
            "--log-format": "json",
        }
        command = [sys.executable, "-m", "firezone", "relay"]
        command += [str(part) for pair in settings.items() for part in pair]
        command += options
        log = self.directory / "log"
        with log.open("w") as output:
            relay = subprocess.Popen(command, stderr=output)
        deadline = time.monotonic() + 20
        while '"ready"' not in log.read_text():
            assert time.monotonic() < deadline and relay.poll() is None, log.read_text()
            time.sleep(0.05)
        return relay


def addresses(device: str, hosts: dict[int, tuple[str, ...]]) -> list[str]:
    lines = [f"address add {a}/24 dev {device}" for a in hosts[4]]
    lines += [f"address add {a}/64 dev {device} nodad" for a in hosts[6]]
    return [*lines, f"link set {device} up"]


class Client:
    """A TURN client with an allocation for one family."""

    def __init__(self, world: World, family: int, relayed: int) -> None:
        self.socket = world.socket(family)
        self._relay = (RELAY[family], 3478)
        self._nonce = ""
        values: list[tuple[stun.Attribute[Any], Any]] = [(stun.REQUESTED_TRANSPORT, 17)]
        if relayed == 6:
            values.append((stun.REQUESTED_ADDRESS_FAMILY, 6))
        self._nonce = self.ask(Method.ALLOCATE, *values).get(stun.NONCE) or ""
        found = self.ask(Method.ALLOCATE, *values).get(stun.XOR_RELAYED_ADDRESS)
        assert found is not None
        self.relayed = found

    def ask(self, method: Method, *values: tuple[stun.Attribute[Any], Any]) -> Message:
        message = Message.request(method, os.urandom)
        for attribute, value in values:
            message = message.with_(attribute, value)
        key = None
        if self._nonce:
            password = password_of(USERNAME, SECRET) or ""
            message = message.with_(stun.USERNAME, USERNAME).with_(stun.NONCE, self._nonce)
            key = stun.long_term_key(USERNAME, "firezone", password)
        self.socket.sendto(message.encode(key), self._relay)
        return stun.decode(self.socket.recv(2048))

    def bind(self, number: int, peer: socket.socket) -> None:
        self.bind_to(number, Endpoint.of(*peer.getsockname()[:2]))

    def bind_to(self, number: int, peer: Endpoint) -> None:
        values = ((stun.CHANNEL_NUMBER, number), (stun.XOR_PEER_ADDRESS, peer))
        assert self.ask(Method.CHANNEL_BIND, *values).class_ is stun.Class.SUCCESS

    def send(self, number: int, payload: bytes) -> None:
        self.socket.sendto(struct.pack(">HH", number, len(payload)) + payload, self._relay)

    def receive(self) -> tuple[int, bytes]:
        data, source = self.socket.recvfrom(2048)
        assert source[:2] == self._relay
        number, length = struct.unpack_from(">HH", data)
        assert length == len(data) - 4
        return number, data[4:]


def both_ways(client: Client, number: int, peer: socket.socket, payload: bytes) -> None:
    """A datagram to the peer and one back, each as it should be."""
    client.send(number, payload)
    data, source = peer.recvfrom(2048)
    assert (data, source[:2]) == (payload, client.relayed.sockaddr)
    peer.sendto(payload[::-1], client.relayed.sockaddr)
    assert client.receive() == (number, payload[::-1])


def payloads(count: int = 50) -> list[bytes]:
    return [os.urandom(size) for size in (0, 1, 2, 3, 100, 1400, *[200] * (count - 6))]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    need_bpf()
    with contextlib.ExitStack() as opened:

        def make(*options: str, other_end: bool = True) -> World:
            made = World(tmp_path, *options, other_end=other_end)
            opened.callback(made.close)
            return made

        yield make


@pytest.mark.parametrize("mode", ["driver", "generic"])
def test_the_kernel_moves_data_of_channels(world: Callable[..., World], mode: str) -> None:
    """Over all pairs of families; what it does not know, user space moves as ever."""
    running = world("--xdp-mode", mode)
    total = 0
    for client_family, peer_family in ((4, 4), (6, 6), (4, 6), (6, 4)):
        client = Client(running, client_family, peer_family)
        peer = running.socket(peer_family, HERE[peer_family][1])
        client.bind(0x4001, peer)
        both_ways(client, 0x4001, peer, b"the kernel may have to learn first where the peer is")
        before = running.moved()
        for payload in payloads():
            both_ways(client, 0x4001, peer, payload)
        total += 51
        if mode == "driver":
            assert running.moved() == (before[0] + 50, before[1] + 50)
    report = running.report()
    xdp = report.xdp
    assert xdp is not None
    assert (xdp.interface, xdp.channels) == ("rx", 4)
    assert xdp.mode == ("native" if mode == "driver" else "generic")
    assert report.to_peers.packets + xdp.to_peers.packets == total
    assert report.to_clients.packets + xdp.to_clients.packets == total
    if mode == "generic":  # our own sockets leave checksums to the device
        assert xdp.passed["unfinished_checksum"] >= 400


@pytest.mark.parametrize("families", [(4, 4), (6, 4), (6, 6)])
def test_from_one_client_to_another(world: Callable[..., World], families: tuple[int, int]) -> None:
    """Each is the other's peer, by an allocation here: what one sends comes on the other's channel,
    until one of them is gone."""
    running = world("--xdp-mode", "driver")
    one, other = (Client(running, family, families[1]) for family in families)
    one.bind_to(0x4001, other.relayed)
    other.bind_to(0x7FFF, one.relayed)
    one.send(0x4001, b"first")
    assert other.receive() == (0x7FFF, b"first")
    before = running.moved()
    for payload in payloads():
        one.send(0x4001, payload)
        assert other.receive() == (0x7FFF, payload)
        other.send(0x7FFF, payload[::-1])
        assert one.receive() == (0x4001, payload[::-1])
    assert running.moved() == (before[0] + 100, before[1] + 100)
    other.ask(Method.REFRESH, (stun.LIFETIME, 0))
    one.send(0x4001, b"nobody is there")
    other.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        other.socket.recv(2048)
    assert running.moved() == (before[0] + 100, before[1] + 100)


@pytest.mark.parametrize("mode", ["driver", "generic"])
def test_datagrams_that_come_merged_stay_apart(world: Callable[..., World], mode: str) -> None:
    """A sender leaves it to its device to split them; they are of one channel, or of one peer."""
    running = world("--xdp-mode", mode)
    client, peer = Client(running, 4, 4), running.socket(4, HERE[4][1])
    client.bind(0x4001, peer)
    both_ways(client, 0x4001, peer, b"first")
    for size in (300, 1200):
        sent = [bytes([number]) * size for number in range(4)]
        merged = b"".join(struct.pack(">HH", 0x4001, size) + each for each in sent)
        send_merged(client.socket, merged, 4 + size, (RELAY[4], 3478))
        assert [peer.recv(65536) for _ in sent] == sent
        send_merged(peer, b"".join(sent), size, client.relayed.sockaddr)
        assert [client.receive() for _ in sent] == [(0x4001, each) for each in sent]


def send_merged(sender: socket.socket, data: bytes, size: int, where: tuple[str, int]) -> None:
    split = [(socket.IPPROTO_UDP, 103, struct.pack("=H", size))]  # UDP_SEGMENT
    sender.sendmsg([data], split, 0, where)


def test_a_veth_whose_other_end_has_no_program(world: Callable[..., World]) -> None:
    """Its driver would throw away all that we send, so nobody gets that without asking for it."""
    running = world(other_end=False)
    client, peer = Client(running, 4, 4), running.socket(4, HERE[4][1])
    client.bind(0x4001, peer)
    for payload in payloads(10):
        both_ways(client, 0x4001, peer, payload)
    report = running.report()
    assert report.xdp is not None and report.xdp.mode == "generic"
    assert "--xdp-mode driver" in (running.directory / "log").read_text()


def test_a_channel_that_is_gone(world: Callable[..., World]) -> None:
    running = world("--xdp-mode", "driver")
    client, other = Client(running, 4, 4), Client(running, 4, 4)
    peer = running.socket(4, HERE[4][1])
    for each in (client, other):
        each.bind(0x4001, peer)
        both_ways(each, 0x4001, peer, b"before")
    client.ask(Method.REFRESH, (stun.LIFETIME, 0))
    before = running.moved()
    client.send(0x4001, b"stray")
    peer.sendto(b"stray", client.relayed.sockaddr)
    both_ways(other, 0x4001, peer, b"after")
    assert running.moved() == (before[0] + 1, before[1] + 1)
    report = running.report()
    assert report.xdp is not None and report.xdp.channels == 1
    assert report.xdp.passed["no_route"] == 2


def test_the_end_leaves_nothing(world: Callable[..., World]) -> None:
    running = world()
    assert running.inside(_seen) == (True, "1")
    running.relay.send_signal(signal.SIGTERM)
    assert running.relay.wait(10) == 0
    assert running.inside(_seen) == (False, "0")


def test_what_a_crash_leaves_the_next_relay_gives_back(world: Callable[..., World]) -> None:
    """Any relay, as soon as no other one wants it."""
    running = world()
    running.inside(ip, "link add other type veth peer name end", "link set other up")
    started = [running.relay]

    def start(port: int, *options: str) -> subprocess.Popen[bytes]:
        usual = ("--listen-port", str(port), "--status-socket", "")
        started.append(running.inside(running.start, (*usual, *options)))
        return started[-1]

    def crash(relay: subprocess.Popen[bytes]) -> None:
        relay.kill()
        relay.wait()

    try:
        crash(running.relay)
        assert running.inside(_seen) == (False, "1")
        second = start(3479, "--xdp", "other")
        crash(start(3480))
        assert running.inside(_seen) == (False, "1"), "the second relay wants it"
        crash(second)
        assert running.inside(_seen) == (False, "1")
        crash(start(3480))
        assert running.inside(_seen) == (False, "0")
        assert "forwarding given back" in (running.directory / "log").read_text()
    finally:
        for each in started:
            each.kill()
            each.wait()


def _seen() -> tuple[bool, str]:
    """Whether a program is attached, and whether `lo` may forward."""
    shown = subprocess.check_output(["ip", "-json", "link", "show", "rx"])
    forwarding = Path("/proc/sys/net/ipv4/conf/lo/forwarding").read_text().strip()
    return "xdp" in msgspec.json.decode(shown)[0], forwarding


@pytest.mark.parametrize(
    ("prefix", "options", "named"),
    [
        ([], ["--xdp", "absent"], "absent"),
        ([], ["--xdp-mode", "driver", "--xdp", "lo"], "lo"),
        (["setpriv", "--bounding-set=-bpf,-sys_admin"], ["--xdp", "lo"], "CAP_BPF"),
    ],
    ids=["interface", "driver", "rights"],
)
def test_what_cannot_be_had(
    prefix: list[str],
    options: list[str],
    named: str,
    tmp_path: Path,
    fresh_netns: ThreadPoolExecutor,
) -> None:
    """One line says why, and the exit code is that of a wrong setting."""
    need_bpf()
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "secret").write_text(SECRET)
    command = [*prefix, sys.executable, "-m", "firezone", "relay", "--public-ip4-addr", "127.0.0.1"]
    command += ["--auth-secret-path", str(tmp_path / "secret"), "--health-check-addr", ""]
    command += ["--status-socket", "", "--log-level", "error", *options]
    run = partial(subprocess.run, command, capture_output=True, text=True, timeout=30)
    done = fresh_netns.submit(run).result(30)
    assert done.returncode == 2, done.stderr
    assert "--xdp" in done.stderr and named in done.stderr
    assert len(done.stderr.splitlines()) == 1
