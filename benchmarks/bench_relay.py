"""The relay's kernel on loopback sockets, system calls included, and its requests.

The whole program, beside others: `benchmarks.relays`.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import by_batch, by_size, main, measure
from benchmarks.relay_load import SECRET, USERNAME, udp_socket
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
from firezone.turn.relay_ports import Ports

CHANNEL = 0x4000
PORTS = range(49152, 65536)

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


@by_size
@by_batch
@pytest.mark.parametrize("kind", ["Send", "Data"])
def test_without_channel(
    benchmark: BenchmarkFixture, path: Channel, kind: str, size: int, batch_size: int
) -> None:
    client, peer = path.client, udp_socket()
    ends = [address_of(end) for end in (client, path.listener, path.relay, peer)]
    path.kernel.permit(*ends[:2], ends[2][2], *ends[3][:2])
    indication = Message.indication(Method.SEND, os.urandom)
    indication = indication.with_(stun.XOR_PEER_ADDRESS, Endpoint.of(*peer.getsockname()))
    data = indication.with_(stun.DATA, bytes(size)).encode()
    up = kind == "Send"
    sink, to = (peer, path.listener) if up else (client, path.relay)

    def prepare() -> None:
        drain(sink)
        for _ in range(batch_size):
            (client if up else peer).sendto(data if up else bytes(size), to.getsockname())

    measure(benchmark, prepare, path.kernel.turn, batch_size, f"{kind} {size}")
    assert drain(sink) == batch_size
    peer.close()


@by_batch
@pytest.mark.parametrize("permits", [False, True], ids=["no permission", "another's"])
def test_stranger(
    benchmark: BenchmarkFixture, path: Channel, permits: bool, batch_size: int
) -> None:
    """Who has no channel and no permission, also where somebody else has one."""
    relayed = path.relay.getsockname()
    if permits:
        client, listener = address_of(path.client), address_of(path.listener)
        path.kernel.permit(client, listener, relayed[1], 4, bytes([192, 0, 2, 1]))

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


@pytest.mark.parametrize("free", [len(PORTS), 4])
def test_draw_a_port(benchmark: BenchmarkFixture, free: int) -> None:
    """For an Allocate, with so many of them left."""
    ports = Ports(PORTS)
    for port in random.Random(1).sample(PORTS, len(PORTS) - free):
        ports.take(port)
    assert benchmark(ports.draw, os.urandom, frozenset(), even=False, with_next=False) in PORTS


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
    """The server's part where the kernel leaves a Send to it, or with one port a Data."""
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


if __name__ == "__main__":
    raise SystemExit(main(__file__))
