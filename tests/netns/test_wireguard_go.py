"""Our handshake machine and session kernel against wireguard-go, over a veth between namespaces.

    here: Peer                     "a" 192.0.2.1 ─── veth ─── 192.0.2.2 "b": wireguard-go
    inner packets made by hand      10.99.0.1 ─── tunnel ─── 10.99.0.2 the kernel, a UDP socket

Our process stays where it is; only its sockets live in the namespaces.
"""

from __future__ import annotations

import base64
import ctypes
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.session import Sessions
from firezone.commands import Activity, InstallKeypair, RemoveKeypair, SendKeepalive
from firezone.durations import MILLISECOND, SECOND
from firezone.lab import netns, registry
from firezone.model import Endpoint
from firezone.noise import (
    Accepted,
    CookieReply,
    Expired,
    MessageType,
    RateLimiter,
    SessionEstablished,
    StaticKeypair,
    Tunnel,
    TunnelEvent,
    TunnelIds,
    message_type,
    open_initiation,
)

OUTER_US, OUTER_THEM = ("192.0.2.1", 51820), ("192.0.2.2", 51820)
INNER_US, INNER_THEM = ("10.99.0.1", 7000), ("10.99.0.2", 7000)
SLOT = 5
CONFIRMED = 1
PRESHARED_KEY = bytes(range(32))
MTU = 1280


def test_we_initiate(net: Net) -> None:
    net.us.send_udp(b"hello")
    assert net.run(lambda: net.heard == [b"hello"])
    assert net.us.established == [True]
    net.say(b"and back")
    assert net.run(lambda: net.us.udp == [b"and back"])
    assert net.us.sent_handshakes == {MessageType.HANDSHAKE_INITIATION: 1}


def test_they_initiate(net: Net) -> None:
    net.say(b"hello")
    assert net.run(lambda: net.us.udp == [b"hello"])
    assert net.us.established == [False]
    net.us.send_udp(b"and back")
    assert net.run(lambda: net.heard == [b"and back"])
    assert net.us.sent_handshakes == {MessageType.HANDSHAKE_RESPONSE: 1}


@pytest.mark.parametrize("preshared_key", [None], indirect=True)
def test_without_a_preshared_key(net: Net) -> None:
    net.us.send_udp(b"hello")
    assert net.run(lambda: net.heard == [b"hello"])


def test_echo_of_every_size(net: Net) -> None:
    """Their kernel answers; wireguard-go pads to 16 bytes, which the IP length takes off again."""
    sizes = [*range(65), 500, 1000, MTU - 28]
    for sequence, size in enumerate(sizes):
        net.us.send(icmp_echo(sequence, os.urandom(size)))
        assert net.run(lambda: len(net.us.echoes) == len(net.us.echoed))
    assert net.us.echoed == net.us.echoes
    assert len(net.us.echoes) == len(sizes)


def test_many_packets_both_ways(net: Net) -> None:
    ours, theirs = ([b"%s %d" % (side, n) for n in range(1000)] for side in (b"us", b"them"))
    for start in range(0, 1000, 50):
        for mine, other in zip(ours[start:][:50], theirs[start:][:50], strict=True):
            net.us.send_udp(mine)
            net.say(other)
        assert net.run(lambda: len(net.heard) == len(net.us.udp) == start + 50)  # noqa: B023
    assert (net.heard, net.us.udp) == (ours, theirs)
    assert net.us.established in ([True], [True, False], [False, True])
    assert not net.us.dropped


def test_repeated_handshakes_lose_nothing(net: Net) -> None:
    """More of them than there are session slots."""
    for n in range(20):
        net.us.initiate()
        for payload in (b"a%d" % n, b"b%d" % n):
            net.us.send_udp(payload)
            net.say(payload)
        assert net.run(lambda: len(net.us.established) > n)  # noqa: B023
        time.sleep(0.05)  # wireguard-go drops initiations that follow each other faster
    sent = [b"%s%d" % (letter, n) for n in range(20) for letter in (b"a", b"b")]
    assert net.run(lambda: len(net.heard) == len(net.us.udp) == 40)
    assert (sorted(net.heard), sorted(net.us.udp)) == (sorted(sent), sorted(sent))


def test_under_load_they_answer_our_cookie(net: Net) -> None:
    net.us.limiter = RateLimiter(net.us.static.public, os.urandom, limit=0, now=clock())
    net.say(b"patience")
    assert net.run(lambda: net.us.udp == [b"patience"], 9 * SECOND)
    assert net.us.sent_handshakes[MessageType.HANDSHAKE_COOKIE] == 1
    assert net.us.established == [False]


@pytest.mark.slow
def test_peer_that_forgot_us_is_found_again(net: Net) -> None:
    net.us.send_udp(b"before")
    assert net.run(lambda: net.heard == [b"before"])
    net.restart_wireguard()
    net.us.send_udp(b"lost")
    assert net.run(lambda: len(net.us.established) == 2, 18 * SECOND)
    net.us.send_udp(b"after")
    assert net.run(lambda: net.heard == [b"after"])


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("we_initiate", [True, False])
def test_rekey_under_traffic(net: Net, we_initiate: bool) -> None:
    """The initiator renews the session after two minutes, and no packet is lost."""
    ours: list[bytes] = []
    theirs: list[bytes] = []
    (net.us.send_udp if we_initiate else net.say)(b"first")
    (ours if we_initiate else theirs).append(b"first")
    assert net.run(lambda: [b"first"] in (net.heard, net.us.udp))
    end = clock() + 130 * SECOND
    while clock() < end:
        payload = b"%d" % len(ours)
        net.us.send_udp(payload)
        net.say(payload)
        ours.append(payload)
        theirs.append(payload)
        net.run(lambda: False, 20 * MILLISECOND)
    assert net.run(lambda: (len(net.heard), len(net.us.udp)) == (len(ours), len(theirs)))
    assert (net.heard, net.us.udp) == (ours, theirs)
    assert net.us.established == [we_initiate] * 2
    assert not net.us.dropped


@pytest.fixture
def preshared_key(request: pytest.FixtureRequest) -> bytes | None:
    return getattr(request, "param", PRESHARED_KEY)


@pytest.fixture
def net(preshared_key: bytes | None, tmp_path: Path) -> Iterator[Net]:
    claim = registry.claim()
    try:
        with build(claim.name, preshared_key, tmp_path) as net:
            yield net
    finally:
        claim.release()


class Peer:
    """Our end: one tunnel, the session kernel, a UDP socket, and a blocking loop in `step`."""

    def __init__(
        self, outer: socket.socket, static: StaticKeypair, peer: bytes, psk: bytes | None
    ) -> None:
        now = clock()
        tunnel_id = TunnelIds(os.urandom).allocate()
        self.static = static
        self.limiter = RateLimiter(static.public, os.urandom, now=now)
        self.tunnel = Tunnel(
            slot=SLOT,
            tunnel_id=tunnel_id,
            static=static,
            peer_public_key=peer,
            preshared_key=psk,
            entropy=os.urandom,
            unix_now=time.time_ns(),
            now=now,
        )
        self.udp: list[bytes] = []
        self.echoed: list[bytes] = []
        self.echoes: list[bytes] = []
        self.events: list[TunnelEvent] = []
        self.sent_handshakes: Counter[MessageType] = Counter()
        self.dropped: Counter[Verdict] = Counter()
        self._peer = peer
        self._outer = outer
        self._waiting: list[bytes] = []
        self._sessions = Sessions(capacity=16)
        self._sessions.add_peer(SLOT, tunnel_id)
        self._batch = PacketBatch()

    @property
    def established(self) -> list[bool]:
        """For each session that took over: were we the initiator?"""
        return [event.initiator for event in self.events if isinstance(event, SessionEstablished)]

    def initiate(self) -> None:
        self.tunnel.initiate(clock())
        self._drain(clock())

    def send_udp(self, payload: bytes) -> None:
        self.send(udp(INNER_US, INNER_THEM, payload))

    def send(self, packet: bytes) -> None:
        if packet[9] == socket.IPPROTO_ICMP:
            self.echoed.append(packet[24:])
        now = clock()
        if not self._seal(packet, now):
            self._waiting.append(packet)
            self.tunnel.handle_unsent_data(now)
            self._drain(now)

    def step(self, longest: int) -> None:
        """Wait for a datagram or the next deadline, and take it in."""
        timeout = self.tunnel.poll_timeout(self._activity())
        deadline = clock() + longest
        if timeout is not None:
            deadline = min(deadline, timeout.deadline)
        select.select([self._outer], [], [], max(0, deadline - clock()) / SECOND)
        while (datagram := received(self._outer)) is not None:
            self._take_in(datagram, clock())
        now = clock()
        if timeout is not None and timeout.deadline <= now:
            self.tunnel.handle_timeout(self._activity(), now)
        self._drain(now)

    def _take_in(self, datagram: bytes, now: int) -> None:
        if message_type(datagram) is MessageType.TRANSPORT_DATA:
            self._open(datagram, now)
            return
        match self.limiter.verify(datagram, Endpoint.of(*OUTER_THEM), now):
            case Accepted():
                if message_type(datagram) is MessageType.HANDSHAKE_INITIATION:
                    assert open_initiation(self.static, datagram).initiator == self._peer
                self.tunnel.handle_handshake(datagram, now)
            case CookieReply(message):
                self._send_handshake(message)
            case rejected:
                raise AssertionError(rejected)
        self._drain(now)

    def _open(self, datagram: bytes, now: int) -> None:
        batch = self._batch
        batch.clear()
        batch.append(datagram)
        self._sessions.open(batch, now)
        verdict = batch.verdict(0)
        if batch.mark(0) & CONFIRMED:
            (index,) = struct.unpack_from("<I", datagram, 4)
            self.tunnel.handle_session_confirmed(index, now)
        if verdict == Verdict.PASS:
            self._deliver(batch.packet(0))
        elif verdict != Verdict.CONSUMED:
            self.dropped[verdict] += 1

    def _deliver(self, padded: bytes) -> None:
        packet = padded[: int.from_bytes(padded[2:4], "big")]
        if packet[9] == socket.IPPROTO_UDP:
            self.udp.append(packet[28:])
        elif packet[9] == socket.IPPROTO_ICMP and packet[20] == 0:
            self.echoes.append(packet[24:])

    def _drain(self, now: int) -> None:
        while (command := self.tunnel.poll_command()) is not None:
            self._carry_out(command, now)
        while (message := self.tunnel.poll_transmit()) is not None:
            self._send_handshake(message)
        while (event := self.tunnel.poll_event()) is not None:
            self.events.append(event)
            assert event != Expired()
        while self._waiting and self._seal(self._waiting[0], now):
            del self._waiting[0]

    def _carry_out(self, command: InstallKeypair | RemoveKeypair | SendKeepalive, now: int) -> None:
        match command:
            case InstallKeypair():
                self._sessions.install_keypair(
                    command.slot,
                    command.local_index,
                    command.remote_index,
                    command.send_key,
                    command.receive_key,
                    command.initiator,
                    command.created_at,
                    command.send_until,
                    command.receive_until,
                )
            case RemoveKeypair(slot, local_index):
                self._sessions.remove_keypair(slot, local_index)
            case SendKeepalive():
                self._seal(b"", now)

    def _seal(self, packet: bytes, now: int) -> bool:
        batch = self._batch
        batch.clear()
        batch.append(packet, peer=SLOT)
        self._sessions.seal(batch, now)
        if batch.verdict(0) == Verdict.UNROUTABLE:
            return False
        self._outer.sendto(batch.packet(0), OUTER_THEM)
        return True

    def _send_handshake(self, message: bytes) -> None:
        kind = message_type(message)
        assert kind is not None
        self.sent_handshakes[kind] += 1
        self._outer.sendto(message, OUTER_THEM)

    def _activity(self) -> Activity:
        return Activity(*self._sessions.activity(SLOT))


@dataclass
class Net:
    """Both ends. `say` sends from their kernel into the tunnel, `heard` is what came out there."""

    us: Peer
    inner: socket.socket
    wireguard: WireguardGo
    heard: list[bytes] = field(default_factory=list)

    def say(self, payload: bytes) -> None:
        self.inner.sendto(payload, INNER_US)

    def run(self, until: Callable[[], bool], longest: int = 3 * SECOND) -> bool:
        """Let things happen until the condition holds; False if it never did."""
        deadline = clock() + longest
        while not until():
            if clock() >= deadline:
                return False
            self.us.step(min(2 * MILLISECOND, deadline - clock()))
            while (payload := received(self.inner)) is not None:
                self.heard.append(payload)
        return True

    def restart_wireguard(self) -> None:
        """The same identity, but it remembers no session."""
        self.wireguard.stop()
        self.inner.close()
        self.heard.clear()
        self.inner = self.wireguard.start()


@dataclass
class WireguardGo:
    """The daemon in namespace "b", and its interface."""

    prefix: str
    static_private: bytes
    peer_public: bytes
    preshared_key: bytes | None
    directory: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> socket.socket:
        """Gives a UDP socket of their kernel at the inner address."""
        namespace, interface = f"{self.prefix}-b", f"{self.prefix}wg"
        argv = [*netns.prefix_argv(namespace), "wireguard-go", "-f", interface]
        environment = {**os.environ, "WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"}
        self.process = subprocess.Popen(argv, env=environment)
        control = Path("/var/run/wireguard") / f"{interface}.sock"
        for _ in range(500):
            if control.exists():
                break
            assert self.process.poll() is None, "wireguard-go ended"
            time.sleep(0.01)
        netns.run(namespace, ["wg", "set", interface, *self._settings()])
        netns.ip_batch(
            [
                f"address add {INNER_THEM[0]}/24 dev {interface}",
                f"link set {interface} mtu {MTU} up",
            ],
            namespace,
        )
        return udp_socket(namespace, INNER_THEM)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(5)

    def _settings(self) -> list[str]:
        private = self._file("private", self.static_private)
        settings = ["listen-port", str(OUTER_THEM[1]), "private-key", private]
        settings += ["peer", base64.b64encode(self.peer_public).decode()]
        if self.preshared_key is not None:
            settings += ["preshared-key", self._file("preshared", self.preshared_key)]
        endpoint = f"{OUTER_US[0]}:{OUTER_US[1]}"
        return [*settings, "endpoint", endpoint, "allowed-ips", f"{INNER_US[0]}/32"]

    def _file(self, name: str, key: bytes) -> str:
        path = self.directory / name
        path.touch(0o600)
        path.write_bytes(base64.b64encode(key))
        return str(path)


@contextmanager
def build(prefix: str, preshared_key: bytes | None, directory: Path) -> Iterator[Net]:
    """Namespaces, veth, wireguard-go; removed in the end, whatever happened."""
    namespaces = [f"{prefix}-a", f"{prefix}-b"]
    private = os.urandom(32)
    static, theirs = StaticKeypair.generate(os.urandom), StaticKeypair.from_private(private)
    daemon = WireguardGo(prefix, private, static.public, preshared_key, directory)
    try:
        netns.ip_batch(
            [f"netns add {name}" for name in namespaces]
            + [f"link add eth0 netns {prefix}-a type veth peer name eth0 netns {prefix}-b"]
        )
        for namespace, (address, _) in zip(namespaces, (OUTER_US, OUTER_THEM), strict=True):
            netns.ip_batch([f"address add {address}/24 dev eth0", "link set eth0 up"], namespace)
        with udp_socket(namespaces[0], OUTER_US) as outer:
            inner = daemon.start()
            net = Net(Peer(outer, static, theirs.public, preshared_key), inner, daemon)
            yield net
            net.inner.close()
    finally:
        daemon.stop()
        netns.remove(namespaces)


def udp_socket(namespace: str, address: tuple[str, int]) -> socket.socket:
    """A socket that lives in a namespace: made by a thread that went there, and ended."""
    made: list[socket.socket] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with (netns.DIRECTORY / namespace).open() as file:
            if libc.setns(file.fileno(), 0x40000000) != 0:
                return
        made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (sock,) = made
    sock.setblocking(False)
    sock.bind(address)
    return sock


def received(sock: socket.socket) -> bytes | None:
    try:
        return sock.recv(2048)
    except BlockingIOError:
        return None


def clock() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def icmp_echo(sequence: int, payload: bytes) -> bytes:
    body = struct.pack("!BBHHH", 8, 0, 0, 77, sequence) + payload
    body = body[:2] + checksum(body) + body[4:]
    return ipv4(socket.IPPROTO_ICMP, INNER_US, INNER_THEM, body)


def udp(source: tuple[str, int], destination: tuple[str, int], payload: bytes) -> bytes:
    """Without a checksum, which IPv4 allows."""
    body = struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0) + payload
    return ipv4(socket.IPPROTO_UDP, source, destination, body)


def ipv4(
    protocol: int, source: tuple[str, int], destination: tuple[str, int], body: bytes
) -> bytes:
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    header = struct.pack("!BBHIBBH", 0x45, 0, 20 + len(body), 0, 64, protocol, 0) + addresses
    return header[:10] + checksum(header) + header[12:] + body


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", total ^ 0xFFFF)
