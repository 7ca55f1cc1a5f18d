"""A data plane of two workers, with socket pairs as the queues of its TUN device."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest
from packets import udp

from firezone import commands
from firezone._ext.pipeline import worker_of
from firezone.commands import AddPeer, Direction, FlowMissed, InstallKeypair, Reinject, SetPath
from firezone.errors import LocalError
from firezone.model import Endpoint
from firezone.noise.index import TunnelIds
from firezone.shell import sockets, workers
from firezone.shell.dataplane import Dataplane
from firezone.shell.sockets import UdpSocket
from firezone.shell.tun import Tun

FOREVER = 1 << 62
WAIT_SECONDS = 5.0
SLOTS = (1, 2)
TUNNELS = {1: 0x100, 2: 0x101}  # of worker 0 and 1


class Side:
    """A data plane with `count` workers, and the other ends of its queues."""

    def __init__(self, initiator: bool, count: int) -> None:
        self.initiator = initiator
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
        self.queues = [pair[0] for pair in pairs]
        self.devices = [pair[1] for pair in pairs]
        fds = [device.fileno() for device in self.devices]
        self.group = self.open_group(count)
        self.plane = Dataplane(
            tun=Tun(fds[0], "", more_fds=tuple(fds[1:])),
            udp4_fd=[member.fileno() for member in self.group],
            udp6_fd=None,
            own_public_key=bytes(32),
            flow_capacity=1024,
            slots=64,
        )
        self.plane.start()

    @staticmethod
    def open_group(count: int) -> tuple[UdpSocket, ...]:
        return UdpSocket(4, 0, "127.0.0.1", mark=0).group(count)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.of("127.0.0.1", self.group[0].port)

    def connect(self, other: Side) -> None:
        for slot in SLOTS:
            index = TUNNELS[slot] << 8 | 1
            keys = (bytes([slot]) * 32, bytes([slot + 9]) * 32)
            send, receive = keys if self.initiator else keys[::-1]
            self.plane.apply(AddPeer(slot, TUNNELS[slot]))
            self.plane.apply(
                InstallKeypair(
                    slot, index, index, send, receive, self.initiator, 1, FOREVER, FOREVER
                )
            )
            self.plane.apply(SetPath(slot, commands.Path(other.endpoint)))

    def event(self) -> commands.DataplaneEvent:
        while (event := self.plane.poll_event()) is None:
            ready, _, _ = select.select([self.plane.events_fd], [], [], WAIT_SECONDS)
            assert ready, "no event came"
        return event

    def receive(self) -> tuple[int, bytes]:
        """A packet, and the queue that it was written to."""
        ready, _, _ = select.select(self.queues, [], [], WAIT_SECONDS)
        assert ready, "no packet came"
        return self.queues.index(ready[0]), ready[0].recv(2048)

    def close(self) -> None:
        self.plane.close()
        for each in (*self.queues, *self.devices, *self.group):
            each.close()


class Pair:
    def __init__(self) -> None:
        self.one, self.two = Side(True, 1), Side(False, 2)
        self.one.connect(self.two)
        self.two.connect(self.one)

    def open(self, slot: int) -> bytes:
        """Let a flow of the peer pass; a packet of it."""
        packet = udp(f"10.0.0.{slot}", "10.0.1.1", 1000 + slot, 7, b"payload")
        self.one.plane.apply(commands.SealPacket(slot, packet))
        events = [self.two.event(), self.two.event()]
        assert events[1] == FlowMissed(Direction.DOWN, slot, packet)
        self.two.plane.apply(allow(Direction.DOWN, slot))
        self.two.plane.apply(Reinject(Direction.DOWN, slot, packet))
        assert self.two.receive() == (slot - 1, packet)
        return packet

    def close(self) -> None:
        self.one.close()
        self.two.close()


def allow(direction: Direction, slot: int) -> commands.InstallFlow:
    ends = Endpoint.of(f"10.0.0.{slot}", 1000 + slot), Endpoint.of("10.0.1.1", 7)
    source, destination = ends if direction is Direction.DOWN else ends[::-1]
    key = commands.FlowKey(
        direction,
        slot if direction is Direction.DOWN else commands.NOBODY,
        17,
        source.address,
        destination.address,
        source.port,
        destination.port,
    )
    return commands.InstallFlow(key, commands.Action.FORWARD, slot, slot, 0, 0)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_each_peer_has_its_worker(pair: Pair) -> None:
    for slot in SLOTS:
        packet = pair.open(slot)
        for _ in range(20):
            pair.one.plane.apply(commands.SealPacket(slot, packet))
            assert pair.two.receive() == (slot - 1, packet)
    pair.two.plane.stop()  # what has arrived has been counted by then
    counted = pair.two.plane.worker_counters()
    assert [each["tun_written_packets"] for each in counted] == [21, 21]
    assert [each["handed_over"] for each in counted] == [0, 0]


def test_any_worker_sends_to_any_peer(pair: Pair) -> None:
    pair.open(1)
    answer = udp("10.0.1.1", "10.0.0.1", 7, 1001, b"answer")
    pair.two.queues[0].send(answer)
    assert pair.two.event() == FlowMissed(Direction.UP, commands.NOBODY, answer)
    pair.two.plane.apply(allow(Direction.UP, 1))
    pair.two.plane.apply(Reinject(Direction.UP, commands.NOBODY, answer))
    assert isinstance(pair.one.event(), FlowMissed)
    for queue in (0, 1, 1, 0):
        pair.two.queues[queue].send(answer)
        assert isinstance(pair.one.event(), FlowMissed)
    pair.two.plane.stop()  # what has arrived has been counted by then
    sent = [each["udp_sent_packets"] for each in pair.two.plane.worker_counters()]
    expected = [2, 2]
    expected[worker_of(answer, 2)] += 1
    assert sent == expected


def test_without_the_filter_they_hand_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "not here")

    monkeypatch.setattr(sockets, "steer_sockets", refuse)
    pair = Pair()
    try:
        for slot in SLOTS:
            packet = pair.open(slot)
            for _ in range(20):
                pair.one.plane.apply(commands.SealPacket(slot, packet))
                assert pair.two.receive() == (slot - 1, packet)
        pair.two.plane.stop()
        # Both came from one address, so one of them was with the wrong worker all the time.
        assert pair.two.plane.counters()["handed_over"] == 21
    finally:
        pair.close()


def test_other_sockets_go_to_all_workers(pair: Pair) -> None:
    packets = {slot: pair.open(slot) for slot in SLOTS}
    old = pair.two.group
    pair.two.group = pair.two.open_group(2)
    pair.two.plane.set_udp([member.fileno() for member in pair.two.group], None)
    for each in old:
        each.close()
    for slot, packet in packets.items():
        pair.one.plane.apply(SetPath(slot, commands.Path(pair.two.endpoint)))
        pair.one.plane.apply(commands.SealPacket(slot, packet))
        assert pair.two.receive() == (slot - 1, packet)
    with pytest.raises(LocalError, match="2 workers"):
        pair.two.plane.set_udp(pair.two.group[0].fileno(), None)


def test_the_failure_of_any_worker_is_told(pair: Pair) -> None:
    pair.two.devices[1].shutdown(socket.SHUT_RDWR)
    ready, _, _ = select.select([pair.two.plane.events_fd], [], [], WAIT_SECONDS)
    assert ready
    failure = pair.two.plane.failure()
    assert failure == "the interface was deleted", "of worker 1 alone"


def test_peers_are_dealt_out_evenly() -> None:
    ids = TunnelIds(os.urandom, 3)
    drawn = [ids.allocate() for _ in range(30)]
    assert [sum((each & 0xFF) % 3 == worker for each in drawn) for worker in range(3)] == [10] * 3
    for each in drawn[:6]:
        ids.release(each)
        ids.release(each)
    drawn = drawn[6:] + [ids.allocate() for _ in range(6)]
    assert [sum((each & 0xFF) % 3 == worker for each in drawn) for worker in range(3)] == [10] * 3


@pytest.mark.parametrize(
    ("cores", "expected"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (16, 8), (96, 16)]
)
def test_as_many_as_suit_the_host(
    monkeypatch: pytest.MonkeyPatch, cores: int, expected: int
) -> None:
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: set(range(cores)))
    assert workers.choose_workers(None) == expected
    assert workers.choose_workers(7) == 7
