"""The relay: data through its sockets on loopback, system calls included, and its requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import by_batch, by_size, main, measure
from firezone import stun
from firezone.model import Endpoint, Transmit
from firezone.relay import RelayRole
from firezone.shell.clock import boottime_ns, unix_ns
from firezone.shell.relay_sockets import RelaySockets
from firezone.stun import Message, Method
from firezone.turn.channel_data import encode_channel_data
from firezone.turn.relay import Relay
from firezone.turn.relay_auth import password_of
from firezone.turn.relay_commands import OpenSocket
from firezone.turn.relay_peers import PeerPolicy

LOOPBACK = IPv4Address("127.0.0.1")
SECRET, USERNAME = "0f" * 32, "4000000000:salt"
CHANNEL = 0x4000


def signed(method: Method, nonce: str, *values: tuple[stun.Attribute[object], object]) -> bytes:
    message = Message.request(method, os.urandom)
    for attribute, value in values:
        message = message.with_(attribute, value)
    message = message.with_(stun.USERNAME, USERNAME).with_(stun.NONCE, nonce)
    password = password_of(USERNAME, SECRET) or ""
    return message.encode(stun.long_term_key(USERNAME, "firezone", password))


def server(port: int) -> Relay:
    return Relay(
        public_ipv4=LOOPBACK,
        public_ipv6=None,
        listen_port=port,
        ports=range(20000, 30000),
        auth_secret=SECRET,
        peers=PeerPolicy(allow_loopback=True),
        entropy=random.Random(1).randbytes,
        unix_now=unix_ns(),
        now=boottime_ns(),
    )


class Path:
    """One client with a channel to one peer, through the sockets of one relay."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.client, self.peer = udp_socket(), udp_socket()
        with udp_socket() as probe:
            port = probe.getsockname()[1]
        role = RelayRole(server(port), now=boottime_ns())
        self.sockets = RelaySockets(
            role, public=[LOOPBACK], listen_port=port, clock=boottime_ns, on_event=print
        )
        self.loop.run_until_complete(self._open())
        self.listen = ("127.0.0.1", port)
        transport = (stun.REQUESTED_TRANSPORT, 17)
        nonce = self.ask(signed(Method.ALLOCATE, "", transport)).get(stun.NONCE) or ""
        relayed = self.ask(signed(Method.ALLOCATE, nonce, transport)).get(stun.XOR_RELAYED_ADDRESS)
        assert relayed is not None
        self.relayed = relayed.sockaddr
        peer = Endpoint.of(*self.peer.getsockname())
        bind = [(stun.CHANNEL_NUMBER, CHANNEL), (stun.XOR_PEER_ADDRESS, peer)]
        self.ask(signed(Method.CHANNEL_BIND, nonce, *bind))

    async def _open(self) -> None:
        self.sockets.open()

    def ask(self, data: bytes) -> Message:
        self.client.sendto(data, self.listen)
        self.turn()
        return stun.decode(self.client.recv(2048))

    def turn(self) -> None:
        """One turn of the loop: what is readable is read."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def close(self) -> None:
        self.loop.call_soon(self.sockets.close)
        self.turn()
        self.loop.close()
        self.client.close()
        self.peer.close()


def udp_socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind(("127.0.0.1", 0))
    return made


def drain(source: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            source.recv(2048)
            count += 1
    return count


@pytest.fixture
def path() -> Iterator[Path]:
    made = Path()
    yield made
    made.close()


@by_size
@by_batch
def test_client_to_peer(
    benchmark: BenchmarkFixture, path: Path, size: int, batch_size: int
) -> None:
    data = encode_channel_data(CHANNEL, bytes(size))

    def prepare() -> None:
        drain(path.peer)
        for _ in range(batch_size):
            path.client.sendto(data, path.listen)

    measure(benchmark, prepare, path.turn, batch_size, f"client to peer {size}")
    assert drain(path.peer) == batch_size


@by_size
@by_batch
def test_peer_to_client(
    benchmark: BenchmarkFixture, path: Path, size: int, batch_size: int
) -> None:
    data = bytes(size)

    def prepare() -> None:
        drain(path.client)
        for _ in range(batch_size):
            path.peer.sendto(data, path.relayed)

    measure(benchmark, prepare, path.turn, batch_size, f"peer to client {size}")
    assert drain(path.client) == batch_size


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


if __name__ == "__main__":
    raise SystemExit(main(__file__))
