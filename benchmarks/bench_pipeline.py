"""All stages of one direction over a batch, and two data planes joined by loopback UDP."""

from __future__ import annotations

import socket

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import by_batch, by_size, fill, main, measure, udp_packet
from firezone import commands
from firezone._ext.batch import PacketBatch
from firezone._ext.demux import Channels, Demux
from firezone._ext.flows import Flows
from firezone._ext.paths import Paths
from firezone._ext.pipeline import Pipeline
from firezone._ext.session import Sessions
from firezone.model import Endpoint
from firezone.shell.dataplane import Dataplane

SLOT, SLOTS, FOREVER = 1, 16, 1 << 62
PEER = (4, bytes([192, 0, 2, 1]), 51820)
SOURCE, DESTINATION, SOURCE_PORT, PORT = bytes([100, 64, 0, 1]), PEER[1], 40000, 53
UP, DOWN, FORWARD, UDP = 0, 1, 1, 17


class Node:
    def __init__(self, initiator: bool, workers: int = 1) -> None:
        self.sessions = Sessions(SLOTS)
        flows = Flows(bytes(16), self.sessions, 1024, SLOTS)
        paths = Paths(self.sessions, SLOTS)
        demuxes = [Demux(bytes(32), Channels(bytes(8))) for _ in range(workers)]
        self.pipeline = Pipeline(self.sessions, flows, paths, *demuxes)
        self.sessions.add_peer(SLOT, 7)
        self.renew(initiator)
        paths.set(SLOT, PEER)
        for direction, slot in ((UP, 0), (DOWN, SLOT)):
            key = (direction, slot, UDP, SOURCE, DESTINATION, SOURCE_PORT, PORT)
            flows.install(key, FORWARD, SLOT, SLOT, 0, 0, None, 0)

    def renew(self, initiator: bool) -> None:
        """A session with a fresh replay window."""
        keys = (b"\1" * 32, b"\2" * 32)
        send, receive = keys if initiator else keys[::-1]
        self.sessions.install_keypair(
            SLOT, 0x701, 0x701, send, receive, initiator, 1, FOREVER, FOREVER
        )


@by_batch
@by_size
def test_outbound(benchmark: BenchmarkFixture, size: int, batch_size: int) -> None:
    node, batch = Node(True), PacketBatch(batch_size)
    packets = [udp_packet(size if size < 1280 else 1280)] * batch_size
    measure(
        benchmark,
        lambda: fill(batch, packets),
        lambda: node.pipeline.outbound(batch, 1),
        batch_size,
        "outbound",
    )


@by_batch
@by_size
def test_inbound(benchmark: BenchmarkFixture, size: int, batch_size: int) -> None:
    client, gateway, batch = Node(True), Node(False), PacketBatch(batch_size)
    packets = [udp_packet(size if size < 1280 else 1280)] * batch_size

    def prepare() -> None:
        fill(batch, packets)
        client.pipeline.outbound(batch, 1)
        fill(batch, batch.packets())

    measure(benchmark, prepare, lambda: gateway.pipeline.inbound(batch, 1), batch_size, "inbound")


@by_batch
@by_size
def test_handed_over(benchmark: BenchmarkFixture, size: int, batch_size: int) -> None:
    """`test_inbound`, but the peer is another worker's: the price is what it takes more."""
    client, gateway = Node(True), Node(False, workers=2)
    batch, taken = PacketBatch(batch_size), PacketBatch(batch_size)
    packets = [udp_packet(size if size < 1280 else 1280)] * batch_size

    def prepare() -> None:
        fill(batch, packets)
        client.pipeline.outbound(batch, 1)
        fill(batch, batch.packets())

    def pass_on() -> None:
        gateway.pipeline.inbound(batch, 1, 0)
        gateway.pipeline.taken_over(taken, 1, 1)

    measure(benchmark, prepare, pass_on, batch_size, "handed over")
    assert gateway.pipeline.counters_of(1)["tun_written_packets"]


@pytest.mark.parametrize("size", [64, 1280])
def test_loopback(benchmark: BenchmarkFixture, size: int) -> None:
    """Socket pairs in the place of TUN devices: their cost, a system call each, is included.

    They queue ten packets, so no more than that are under way at once.
    """
    count, under_way = 2000, 8
    ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    planes = [
        Dataplane(
            tun_fd=device.fileno(),
            udp4_fd=udp.fileno(),
            udp6_fd=None,
            own_public_key=bytes(32),
            slots=SLOTS,
        )
        for (_, device), udp in zip(ends, sockets, strict=True)
    ]
    for plane, other, initiator in ((planes[0], sockets[1], True), (planes[1], sockets[0], False)):
        connect(plane, Endpoint.of(*other.getsockname()), initiator)
    packet = udp_packet(size)
    host, far = ends[0][0], ends[1][0]

    def work() -> None:
        for _ in range(count // under_way):
            for _ in range(under_way):
                host.send(packet)
            for _ in range(under_way):
                far.recv(2048)

    far.settimeout(5)
    benchmark.group = "loopback"
    benchmark.pedantic(work, rounds=5, warmup_rounds=1)  # type: ignore[no-untyped-call]
    assert benchmark.stats is not None
    median = benchmark.stats.stats.median
    benchmark.extra_info["ns_per_packet"] = round(median * 1e9 / count, 1)
    for plane in planes:
        plane.close()


def connect(plane: Dataplane, other: Endpoint, initiator: bool) -> None:
    keys = (b"\1" * 32, b"\2" * 32)
    send, receive = keys if initiator else keys[::-1]
    plane.apply(commands.AddPeer(SLOT, 7))
    plane.apply(
        commands.InstallKeypair(SLOT, 0x701, 0x701, send, receive, initiator, 1, FOREVER, FOREVER)
    )
    plane.apply(commands.SetPath(SLOT, commands.Path(other)))
    for direction, slot in ((commands.Direction.UP, 0), (commands.Direction.DOWN, SLOT)):
        key = commands.FlowKey(
            direction,
            slot,
            UDP,
            Endpoint.of("100.64.0.1", 1).address,
            Endpoint.of("192.0.2.1", 1).address,
            SOURCE_PORT,
            PORT,
        )
        plane.apply(commands.InstallFlow(key, commands.Action.FORWARD, SLOT, SLOT, 0, 0))
    plane.start()


if __name__ == "__main__":
    raise SystemExit(main(__file__))
