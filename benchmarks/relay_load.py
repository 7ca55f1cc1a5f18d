"""Relays to compare, each as the program it is, and a load through any of them: on bound channels,
or by Send and Data indications.

Costs are the relay's CPU time by the scheduler's account, and that of its interface where it has
one (`relay_net.py`, which tells who pays for what). Clients and peers are *plain*, one datagram a
piece, or *merging*: they send with UDP_SEGMENT and receive with UDP_GRO. The relay has a CPU for
itself and is soon done with what has come, or it is *busy* elsewhere until a whole window has, as a
relay is at its limit: then the load is on its CPU and before it in turn, which takes a real-time
priority.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.relay_net import LOOPBACK, RelayNet, XdpWire
from firezone import stun
from firezone._ext.batch import PacketBatch
from firezone._ext.udp import UdpSockets
from firezone.model import Endpoint
from firezone.stun import Message, Method
from firezone.turn.channel_data import encode_channel_data
from firezone.turn.relay_auth import password_of

SECRET, USERNAME = "0f" * 32, "4000000000:salt"
CHANNEL = 0x4000
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
PION_SOURCE = Path(__file__).parent / "pion_relay"
WINDOW = 64
BURSTS = {1: 48, 32: 16, 256: 4}
"""Datagrams on their way at a time: of all, and of each of up to so many flows, which take turns.
So neither socket buffers nor an interface's ring overflow: of 1200 bytes, those of coturn's
allocations hold 56, and pion's 92."""

Value = tuple[stun.Attribute[Any], Any]


def udp_socket() -> socket.socket:
    return LOOPBACK.socket()


class RelayProcess:
    """A relay on the first CPU. Subclasses give the command."""

    name = ""
    username, password = USERNAME, password_of(USERNAME, SECRET) or ""
    has_stamps = True
    """Whether every name with a time in it is a user, as those that a portal hands out."""

    def __init__(self, ports: tuple[int, int] = (20_000, 29_999), net: RelayNet = LOOPBACK) -> None:
        """`ports` are the first and the last one of allocations."""
        self.ports = [str(port) for port in ports]
        self.net = net
        with net.socket() as probe:  # a port that is free here is free there
            self.address: tuple[str, int] = (net.relay, probe.getsockname()[1])
        self._directory = tempfile.TemporaryDirectory()
        command, cwd = self.command(Path(self._directory.name))
        self._process = net.start(command, cwd)

    def command(self, directory: Path) -> tuple[list[str], Path | None]:
        raise NotImplementedError

    def __enter__(self) -> RelayProcess:
        self._wait_until_ready()
        for task in self._tasks():
            os.sched_setaffinity(int(task.name), {0})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()

    def user(self, number: int) -> tuple[str, str]:
        """Name and password of a client. A portal hands out a name for each, and there are quotas
        by name."""
        if not self.has_stamps:
            return self.username, self.password
        name = f"{self.username}{number}"
        return name, password_of(name, SECRET) or ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def make_socket(self) -> socket.socket:
        """For a client or peer."""
        return self.net.socket()

    def cpu_ns(self) -> int:
        """CPU time of all its threads, and of its interface's."""
        own = sum(int((task / "schedstat").read_text().split()[0]) for task in self._tasks())
        return own + self.net.relay_cpu_ns()

    def _tasks(self) -> list[Path]:
        return list(Path(f"/proc/{self._process.pid}/task").iterdir())

    def _wait_until_ready(self) -> None:
        request = Message.request(Method.BINDING, os.urandom).encode()
        deadline = time.monotonic() + 15
        with self.make_socket() as client:
            while time.monotonic() < deadline:
                client.sendto(request, self.address)
                time.sleep(0.1)
                with contextlib.suppress(BlockingIOError):
                    client.recv(2048)
                    return
        raise RuntimeError(f"{self.name} does not answer")


class Firezone(RelayProcess):
    """This relay, or that of another tree of this project."""

    name = "firezone"

    def __init__(
        self,
        tree: Path | None = None,
        options: tuple[str, ...] = (),
        ports: tuple[int, int] = (20_000, 29_999),
        net: RelayNet = LOOPBACK,
    ) -> None:
        self._tree, self._options = tree, options
        super().__init__(ports, net)

    def command(self, directory: Path) -> tuple[list[str], Path | None]:
        (directory / "secret").touch(0o600)
        (directory / "secret").write_text(SECRET)
        settings = {
            "--listen-port": self.address[1],
            "--public-ip4-addr": self.net.relay,
            "--lowest-port": self.ports[0],
            "--highest-port": self.ports[1],
            "--health-check-addr": "",
            "--auth-secret-path": directory / "secret",
        }
        options = [str(part) for pair in settings.items() for part in pair]
        program = [sys.executable, "-m", "firezone", "relay", "--allow-loopback-peers"]
        return [*program, *options, *self._options], self._tree


class FirezoneXdp(Firezone):
    """This relay with its tier in the kernel, on a wire of its own: beside a program on theirs, the
    others would be slower."""

    name = "firezone --xdp"

    def __init__(
        self, options: tuple[str, ...], ports: tuple[int, int], coalesce_us: int = 0
    ) -> None:
        wire = XdpWire(coalesce_us)
        options = (*options, "--xdp", wire.interface, "--xdp-mode", "driver")
        super().__init__(None, options, ports, wire)

    def __exit__(self, *arguments: Any) -> None:
        super().__exit__(*arguments)
        self.net.close()


class Coturn(RelayProcess):
    """Debian's coturn with one relay thread, which is what one CPU has work for."""

    name = "coturn"
    username, password = "bench", "bench"
    has_stamps = False

    def command(self, directory: Path) -> tuple[list[str], Path | None]:
        host = self.net.relay
        command = ["turnserver", "-n", "-m", "1", "-L", host, "-E", host, "-r", "firezone"]
        command += ["-p", str(self.address[1]), "--min-port", self.ports[0]]
        command += ["--max-port", self.ports[1]]
        command += ["--lt-cred-mech", "-u", "bench:bench", "--allow-loopback-peers", "--no-cli"]
        command += ["--no-tls", "--no-dtls", "--log-file", str(directory / "log")]
        return [*command, "--pidfile", str(directory / "pid")], directory


class Pion(RelayProcess):
    """A relay on pion/turn (`pion_relay/main.go`), limited to one CPU's worth of threads."""

    name = "pion"
    username, password = "bench", "bench"
    has_stamps = False
    program = PION_SOURCE.parents[1] / "build" / "bench" / "pion_relay"

    @classmethod
    def build(cls) -> bool:
        """Whether it could be had: it takes Go, and its module proxy the first time."""
        cls.program.parent.mkdir(parents=True, exist_ok=True)
        command = ["go", "build", "-o", str(cls.program), "."]
        try:
            return subprocess.run(command, cwd=PION_SOURCE, capture_output=True).returncode == 0
        except OSError:
            return False

    def command(self, directory: Path) -> tuple[list[str], Path | None]:
        address = [self.net.relay, str(self.address[1]), *self.ports]
        limited = ["env", "GOMAXPROCS=1", str(self.program)]
        return [*limited, *address, self.username, self.password], directory


_NUMBERS = itertools.count()


class Flow:
    """A client with a channel to a peer of its own, or just a permission."""

    def __init__(self, relay: RelayProcess, channel: bool = True) -> None:
        self.relay = relay
        self.user = relay.user(next(_NUMBERS))
        self.has_channel = channel
        self.client, self.peer = relay.make_socket(), relay.make_socket()
        while (relayed := self.allocate()) is None:
            self.client.close()  # the host gave us a port that the relay still has a use for
            self.client = relay.make_socket()
        self.relayed = relayed
        peer: Value = (stun.XOR_PEER_ADDRESS, Endpoint.of(*self.peer.getsockname()))
        if channel:
            bound = self.ask(Method.CHANNEL_BIND, (stun.CHANNEL_NUMBER, CHANNEL), peer)
        else:
            bound = self.ask(Method.CREATE_PERMISSION, peer)
        assert bound.class_ is stun.Class.SUCCESS
        for end in (self.client, self.peer):
            for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                end.setsockopt(socket.SOL_SOCKET, buffer, 4 << 20)

    def allocate(self) -> Endpoint | None:
        transport: Value = (stun.REQUESTED_TRANSPORT, 17)
        self.nonce = ""
        self.nonce = self.ask(Method.ALLOCATE, transport).get(stun.NONCE) or ""
        return self.ask(Method.ALLOCATE, transport).get(stun.XOR_RELAYED_ADDRESS)

    def ask(self, method: Method, *values: Value) -> Message:
        message = Message.request(method, os.urandom)
        for attribute, value in values:
            message = message.with_(attribute, value)
        key = None
        if self.nonce:
            name, password = self.user
            message = authenticated(message, name, self.nonce)
            key = stun.long_term_key(name, "firezone", password)
        self.client.sendto(message.encode(key), self.relay.address)
        self.client.settimeout(5)
        while (answer := self.client.recv(0x10000))[0] > 3:
            pass  # data that is late
        self.client.setblocking(False)
        return stun.decode(answer)

    def to_relay(self, payload: bytes) -> bytes:
        """What carries a payload to the peer."""
        if self.has_channel:
            return encode_channel_data(CHANNEL, payload)
        send = Message.indication(Method.SEND, os.urandom)
        send = send.with_(stun.XOR_PEER_ADDRESS, Endpoint.of(*self.peer.getsockname()))
        return send.with_(stun.DATA, payload).encode()

    def close(self) -> None:
        """Ends the allocation, too: another flow may get the same ports."""
        self.ask(Method.REFRESH, (stun.LIFETIME, 0))
        self.client.close()
        self.peer.close()


def authenticated(message: Message, username: str, nonce: str) -> Message:
    message = message.with_(stun.USERNAME, username).with_(stun.REALM, "firezone")
    return message.with_(stun.NONCE, nonce)


class Lane:
    """One direction of a flow: sends a burst, and counts what arrived."""

    def __init__(self, flow: Flow, to_peer: bool, size: int, burst: int, merging: bool) -> None:
        payload = bytes(size)
        data = flow.to_relay(payload) if to_peer else payload
        self.merging = merging
        self.destination = flow.relay.address if to_peer else flow.relayed.sockaddr
        self.source = flow.client if to_peer else flow.peer
        self.sink = flow.peer if to_peer else flow.client
        self.arriving = size if to_peer else size + 4
        room = min(burst, 65_000 // len(data), 64)
        self.pieces = [min(room, burst - at) for at in range(0, burst, room)]
        self.data, self.split = data, [(SOL_UDP, UDP_SEGMENT, len(data).to_bytes(2, "little"))]
        self.buffer = bytearray(0x10000)
        self.outgoing = PacketBatch(burst, stride=2048)
        host, port = self.destination
        for _ in range(burst):
            slot = self.outgoing.append(data)
            self.outgoing.set_remote(slot, 4, socket.inet_aton(host), port)
        self.incoming = PacketBatch(64, stride=2048)
        self.sender = UdpSockets(self.source.fileno())
        self.receiver = UdpSockets(self.sink.fileno())
        for end in (self.source, self.sink):  # after UdpSockets, which have a will of their own
            end.setsockopt(SOL_UDP, UDP_GRO, merging)

    def send(self) -> None:
        if not self.merging:
            self.sender.send(self.outgoing)
            return
        for count in self.pieces:
            self.source.sendmsg([self.data * count], self.split, 0, self.destination)

    def receive(self) -> int:
        if self.merging:
            return self._receive_merged()
        self.incoming.clear()
        return self.receiver.receive(self.incoming, 4)

    def _receive_merged(self) -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                count += self.sink.recv_into(self.buffer) // self.arriving
        return count


@dataclass(frozen=True, slots=True)
class Accounts:
    """CPU time in nanoseconds: that of the relay and its interface, of the latter alone, and of the
    load and its interface."""

    relay: int
    interface: int
    ends: int

    @classmethod
    def of(cls, relay: RelayProcess) -> Accounts:
        net = relay.net
        return cls(relay.cpu_ns(), net.relay_cpu_ns(), time.thread_time_ns() + net.ends_cpu_ns())

    def until(self, later: Accounts) -> Accounts:
        return Accounts(
            later.relay - self.relay,
            later.interface - self.interface,
            later.ends - self.ends,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What a relay did, and for how much CPU time, as in Accounts."""

    sent: int
    delivered: int
    cpu_ns: int
    interface_ns: int
    ends_ns: int
    elapsed_ns: int

    @property
    def per_cpu_second(self) -> float:
        return self.delivered * 1e9 / max(self.cpu_ns, 1)

    @property
    def loss(self) -> float:
        return 1 - self.delivered / self.sent


def load(
    flows: list[Flow], to_peer: bool, size: int, merging: bool, busy: bool, seconds: float
) -> Result:
    """Windows of datagrams, of all flows in turn: the next when the last one arrived, or no more
    comes."""
    relay = flows[0].relay
    burst = next(each for most, each in BURSTS.items() if len(flows) <= most)
    lanes = [Lane(flow, to_peer, size, burst, merging) for flow in flows]
    with placed(busy):
        run_lanes(lanes, burst, busy, time.monotonic_ns() + 100_000_000)
        time.sleep(0.01)
        while sum(lane.receive() for lane in lanes):
            pass  # what was late
        before, started = Accounts.of(relay), time.monotonic_ns()
        sent, delivered = run_lanes(lanes, burst, busy, started + int(seconds * 1e9))
        elapsed = time.monotonic_ns() - started
        spent = before.until(Accounts.of(relay))
    return Result(sent, delivered, spent.relay, spent.interface, spent.ends, elapsed)


def run_lanes(lanes: list[Lane], burst: int, busy: bool, until: int) -> tuple[int, int]:
    """Windows until then: datagrams sent, and arrived."""
    sent = delivered = 0
    at_once = WINDOW // burst
    windows = itertools.cycle([lanes[at : at + at_once] for at in range(0, len(lanes), at_once)])
    while time.monotonic_ns() < until:
        window = next(windows)
        for lane in window:
            lane.send()
        wanted, arrived = burst * len(window), 0
        patience = time.monotonic_ns() + 100_000_000
        while arrived < wanted and time.monotonic_ns() < patience:
            if busy:
                time.sleep(0.001)  # the relay's turn
            arrived += sum(lane.receive() for lane in window)
        sent += wanted
        delivered += arrived
    return sent, delivered


def may_be_first() -> bool:
    """Whether we may take a real-time priority: root of a user namespace alone may not."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True


@contextlib.contextmanager
def placed(busy: bool) -> Iterator[None]:
    """On the relay's CPU and before it, or on the last one."""
    os.sched_setaffinity(0, {0 if busy else (os.cpu_count() or 1) - 1})
    if busy:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
