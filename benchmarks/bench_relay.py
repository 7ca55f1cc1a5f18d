"""The relay: its kernel, its requests, and the whole program beside coturn.

The first part calls the kernel on loopback sockets, system calls included. The last one loads the
real programs (`benchmarks/relay_load.py`) and counts what a datagram costs them in CPU time; with
FIREZONE_BENCH_TREE=DIR also that of another checkout of this project.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import statistics
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import by_batch, by_size, main, measure
from benchmarks.relay_load import SECRET, USERNAME, Coturn, Firezone, RelayProcess, load, udp_socket
from firezone import stun
from firezone._ext.relay import Forwarder
from firezone._ext.ring import Ring
from firezone.model import Endpoint, Transmit
from firezone.shell.clock import boottime_ns, unix_ns
from firezone.stun import Message, Method
from firezone.turn.channel_data import encode_channel_data
from firezone.turn.relay import Relay
from firezone.turn.relay_auth import password_of
from firezone.turn.relay_commands import OpenSocket, RelayCommand, SendToPeer
from firezone.turn.relay_peers import PeerPolicy

CHANNEL = 0x4000
TREE = os.environ.get("FIREZONE_BENCH_TREE")
RELAYS = ["coturn", "firezone", *(["firezone, other tree"] if TREE else [])]

# The kernel


class Channel:
    """One client with a channel to one peer, through the kernel."""

    def __init__(self) -> None:
        self.client, self.peer = udp_socket(), udp_socket()
        self.listener, self.relay = udp_socket(), udp_socket()
        self.kernel = Forwarder(os.urandom(16), Ring(64))
        port = self.relay.getsockname()[1]
        self.kernel.add(self.listener.fileno(), 4, self.listener.getsockname()[1], listens=True)
        self.kernel.add(self.relay.fileno(), 4, port)
        ends = [address_of(end) for end in (self.client, self.listener, self.peer)]
        self.kernel.bind(ends[0], ends[1], CHANNEL, port, ends[2])

    def close(self) -> None:
        for end in (self.client, self.peer, self.listener, self.relay):
            end.close()


def address_of(end: socket.socket) -> tuple[int, bytes, int]:
    host, port = end.getsockname()
    return (4, socket.inet_aton(host), port)


def drain(source: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            source.recv(2048)
            count += 1
    return count


@pytest.fixture
def path() -> Iterator[Channel]:
    made = Channel()
    yield made
    made.close()


@by_size
@by_batch
def test_client_to_peer(
    benchmark: BenchmarkFixture, path: Channel, size: int, batch_size: int
) -> None:
    data, listener = encode_channel_data(CHANNEL, bytes(size)), path.listener.getsockname()

    def prepare() -> None:
        drain(path.peer)
        for _ in range(batch_size):
            path.client.sendto(data, listener)

    measure(benchmark, prepare, path.kernel.turn, batch_size, f"client to peer {size}")
    assert drain(path.peer) == batch_size


@by_size
@by_batch
def test_peer_to_client(
    benchmark: BenchmarkFixture, path: Channel, size: int, batch_size: int
) -> None:
    data, relayed = bytes(size), path.relay.getsockname()

    def prepare() -> None:
        drain(path.client)
        for _ in range(batch_size):
            path.peer.sendto(data, relayed)

    measure(benchmark, prepare, path.kernel.turn, batch_size, f"peer to client {size}")
    assert drain(path.client) == batch_size


@by_batch
@pytest.mark.parametrize("permits", [False, True], ids=["no permission", "another's"])
def test_stranger(
    benchmark: BenchmarkFixture, path: Channel, permits: bool, batch_size: int
) -> None:
    """Who has no channel and no permission, also where somebody else has one."""
    relayed = path.relay.getsockname()
    if permits:
        path.kernel.permit(4, bytes([192, 0, 2, 1]), relayed[1])

    def prepare() -> None:
        for _ in range(batch_size):
            path.client.sendto(bytes(120), relayed)

    measure(benchmark, prepare, path.kernel.turn, batch_size, "stranger")


# Requests


def signed(method: Method, nonce: str, *values: tuple[stun.Attribute[Any], Any]) -> bytes:
    message = Message.request(method, os.urandom)
    for attribute, value in values:
        message = message.with_(attribute, value)
    message = message.with_(stun.USERNAME, USERNAME).with_(stun.NONCE, nonce)
    password = password_of(USERNAME, SECRET) or ""
    return message.encode(stun.long_term_key(USERNAME, "firezone", password))


def server(port: int) -> Relay:
    return Relay(
        public_ipv4=IPv4Address("127.0.0.1"),
        public_ipv6=None,
        listen_port=port,
        ports=range(20000, 30000),
        auth_secret=SECRET,
        peers=PeerPolicy(allow_loopback=True),
        entropy=random.Random(1).randbytes,
        unix_now=unix_ns(),
        now=boottime_ns(),
    )


@pytest.mark.parametrize("kind", ["binding", "unauthenticated", "refresh"])
def test_request(benchmark: BenchmarkFixture, kind: str) -> None:
    """From datagram to datagram, and the reading of the answer."""
    relay, client = server(3478), Endpoint.of("127.0.0.1", 40000)
    transport = (stun.REQUESTED_TRANSPORT, 17)

    def answer(data: bytes) -> Message:
        relay.handle_client_datagram(None, client, data, boottime_ns())
        response = b""
        while (command := relay.poll_command()) is not None:
            match command:
                case OpenSocket(port, family):
                    relay.handle_socket_opened(port, family, True, boottime_ns())
                case Transmit(payload):
                    response = payload
        return stun.decode(response)

    nonce = answer(signed(Method.ALLOCATE, "", transport)).get(stun.NONCE) or ""
    answer(signed(Method.ALLOCATE, nonce, transport))
    data = {
        "binding": Message.request(Method.BINDING, os.urandom).encode(),
        "unauthenticated": Message.request(Method.ALLOCATE, os.urandom).encode(),
        "refresh": signed(Method.REFRESH, nonce, (stun.LIFETIME, 600)),
    }[kind]
    measure(benchmark, lambda: None, lambda: answer(data), 1, "request")


@pytest.mark.parametrize("kind", ["Send", "Data"])
def test_indication(benchmark: BenchmarkFixture, kind: str) -> None:
    """The server's part of a datagram without a channel: what goes up and down the ring is not."""
    relay, client = server(3478), Endpoint.of("127.0.0.1", 40000)
    peer = Endpoint.of("192.0.2.1", 50000)

    def answer(data: bytes) -> RelayCommand | None:
        relay.handle_client_datagram(None, client, data, boottime_ns())
        last = None
        while (command := relay.poll_command()) is not None:
            if isinstance(command, OpenSocket):
                relay.handle_socket_opened(command.port, command.family, True, boottime_ns())
            last = command
        return last

    refused = answer(signed(Method.ALLOCATE, "", (stun.REQUESTED_TRANSPORT, 17)))
    assert isinstance(refused, Transmit)
    nonce = stun.decode(refused.payload).get(stun.NONCE) or ""
    answered = answer(signed(Method.ALLOCATE, nonce, (stun.REQUESTED_TRANSPORT, 17)))
    assert isinstance(answered, Transmit)
    relayed = stun.decode(answered.payload).get(stun.XOR_RELAYED_ADDRESS)
    assert relayed is not None
    answer(signed(Method.CREATE_PERMISSION, nonce, (stun.XOR_PEER_ADDRESS, peer)))
    indication = Message.indication(Method.SEND, os.urandom)
    indication = indication.with_(stun.XOR_PEER_ADDRESS, peer).with_(stun.DATA, bytes(1200))
    data = indication.encode()

    def send() -> None:
        assert isinstance(answer(data), SendToPeer)

    def receive() -> None:
        relay.handle_peer_datagram(relayed.port, peer, bytes(1200), boottime_ns())
        assert isinstance(relay.poll_command(), Transmit)

    measure(benchmark, lambda: None, {"Send": send, "Data": receive}[kind], 1, "indication")


# Beside coturn


@pytest.fixture(scope="module", params=RELAYS)
def program(request: pytest.FixtureRequest) -> Iterator[RelayProcess]:
    cpus = os.sched_getaffinity(0)
    match request.param:
        case "coturn" if shutil.which("turnserver") is None:
            pytest.skip("needs coturn")
        case "coturn":
            made: RelayProcess = Coturn()
        case "firezone":
            made = Firezone(options=("--workers", "1"))  # for one CPU
        case _:
            made = Firezone(Path(TREE or "."))
    with made:
        yield made
    os.sched_setaffinity(0, cpus)


@pytest.mark.parametrize("to_peer", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("flows", [1, 32], ids=["1 flow", "32 flows"])
@pytest.mark.parametrize("size", [120, 1200])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("merging", [False, True], ids=["plain", "merging"])
def test_program(
    benchmark: BenchmarkFixture,
    program: RelayProcess,
    merging: bool,
    busy: bool,
    size: int,
    flows: int,
    to_peer: bool,
) -> None:
    """CPU time of the relay for each datagram that arrived."""
    if busy and os.geteuid() != 0:
        pytest.skip("needs a real-time priority")
    results = []

    def run() -> None:
        results.append(
            load(
                program,
                flows=flows,
                to_peer=to_peer,
                size=size,
                merging=merging,
                busy=busy,
                seconds=0.3,
            )
        )

    ends, relay = "merging" if merging else "plain", "busy" if busy else "idle"
    benchmark.group = f"{ends}, {relay}, {size} B, {flows}"
    benchmark.pedantic(run, rounds=3)  # type: ignore[no-untyped-call]
    cost = statistics.median(result.cpu_ns / result.delivered for result in results)
    benchmark.extra_info["ns_per_packet"] = round(cost, 1)
    benchmark.extra_info["loss"] = round(statistics.median(result.loss for result in results), 4)


@pytest.mark.parametrize("to_peer", [True, False], ids=["Send", "Data"])
@pytest.mark.parametrize("size", [120, 1200])
def test_program_without_channels(
    benchmark: BenchmarkFixture, program: RelayProcess, size: int, to_peer: bool
) -> None:
    """The same of what goes by Send and Data, whose ends merge nothing."""
    results = []

    def run() -> None:
        results.append(
            load(
                program,
                flows=1,
                to_peer=to_peer,
                size=size,
                merging=False,
                busy=False,
                seconds=0.3,
                channels=False,
            )
        )

    benchmark.group = f"without a channel, {size} B"
    benchmark.pedantic(run, rounds=3)  # type: ignore[no-untyped-call]
    cost = statistics.median(result.cpu_ns / result.delivered for result in results)
    benchmark.extra_info["ns_per_packet"] = round(cost, 1)
    benchmark.extra_info["loss"] = round(statistics.median(result.loss for result in results), 4)


if __name__ == "__main__":
    raise SystemExit(main(__file__))
