"""The system calls at both ends: UDP sockets on loopback, and a socket pair in the TUN's place.

Loopback delivers within the send, so `udp send` holds the kernel's work for both sides.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import by_batch, by_size, fill, main, measure, udp_packet
from firezone._ext.batch import PacketBatch
from firezone._ext.tun import Tun
from firezone._ext.udp import UdpSockets


@pytest.fixture
def loopback() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as a,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as b,
    ):
        for end in (a, b):
            end.bind(("127.0.0.1", 0))
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        yield a, b


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with a, b:
        for end in (a, b):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        yield a, b


def to(batch: PacketBatch, end: socket.socket) -> None:
    host, port = end.getsockname()
    for slot in range(len(batch)):
        batch.set_remote(slot, 4, socket.inet_aton(host), port)


def drain(end: socket.socket) -> None:
    try:
        while True:
            end.recv(65536)
    except BlockingIOError:
        pass


@by_batch
@by_size
def test_udp_send(
    benchmark: BenchmarkFixture,
    loopback: tuple[socket.socket, socket.socket],
    size: int,
    batch_size: int,
) -> None:
    a, b = loopback
    sockets, batch = UdpSockets(a.fileno()), PacketBatch(batch_size)
    packets = [udp_packet(size)] * batch_size

    def prepare() -> None:
        drain(b)
        fill(batch, packets)
        to(batch, b)

    measure(benchmark, prepare, lambda: sockets.send(batch), batch_size, "udp send")


@by_batch
@by_size
def test_udp_receive(
    benchmark: BenchmarkFixture,
    loopback: tuple[socket.socket, socket.socket],
    size: int,
    batch_size: int,
) -> None:
    a, b = loopback
    sockets, batch = UdpSockets(b.fileno()), PacketBatch(batch_size)

    def prepare() -> None:
        drain(b)
        batch.clear()
        for _ in range(batch_size):
            a.sendto(bytes(size), b.getsockname())

    measure(benchmark, prepare, lambda: sockets.receive(batch, 4), batch_size, "udp receive")


@pytest.mark.parametrize("batch_size", [1, 8])
@by_size
def test_tun_write(
    benchmark: BenchmarkFixture,
    pair: tuple[socket.socket, socket.socket],
    size: int,
    batch_size: int,
) -> None:
    a, b = pair
    tun, batch = Tun(a.fileno()), PacketBatch(batch_size)
    packets = [udp_packet(min(size, 1280))] * batch_size

    def prepare() -> None:
        drain(b)
        fill(batch, packets)

    measure(benchmark, prepare, lambda: tun.write(batch), batch_size, "tun write")


@pytest.mark.parametrize("batch_size", [1, 8])
@by_size
def test_tun_read(
    benchmark: BenchmarkFixture,
    pair: tuple[socket.socket, socket.socket],
    size: int,
    batch_size: int,
) -> None:
    a, b = pair
    tun, batch = Tun(a.fileno()), PacketBatch(batch_size)
    packet = udp_packet(min(size, 1280))

    def prepare() -> None:
        drain(a)
        batch.clear()
        for _ in range(batch_size):
            b.send(packet)

    measure(benchmark, prepare, lambda: tun.read(batch), batch_size, "tun read")


if __name__ == "__main__":
    raise SystemExit(main(__file__))
