"""Two data planes joined by loopback sockets, with socket pairs in the place of TUN devices."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from dataplane_commands import SLOT, flow, keypair
from packets import udp

from firezone import commands
from firezone.commands import (
    AddPeer,
    BumpGeneration,
    DeliverPacket,
    Direction,
    FlowMissed,
    PacketUnroutable,
    Path,
    Reinject,
    RemovePeer,
    Rewrite,
    SealPacket,
    SendKeepalive,
    SessionConfirmed,
    SetPath,
)
from firezone.errors import LocalError
from firezone.model import Endpoint
from firezone.shell.dataplane import Dataplane

SECOND = 1_000_000_000
WAIT_SECONDS = 5.0


def test_a_missed_flow_is_decided_once_and_then_passes(pair: "Pair") -> None:
    pair.connect()
    packet = udp("10.0.0.1", "10.0.0.2", 1000, 2000, b"hello")
    pair.left.tun.send(packet)
    assert pair.left.event() == FlowMissed(Direction.UP, commands.NOBODY, packet)
    pair.left.plane.apply(flow(Direction.UP, "10.0.0.1", "10.0.0.2", 1000, 2000))
    pair.left.plane.apply(Reinject(Direction.UP, commands.NOBODY, packet))

    assert isinstance(pair.right.event(), SessionConfirmed)
    assert pair.right.event() == FlowMissed(Direction.DOWN, SLOT, packet)
    pair.right.plane.apply(flow(Direction.DOWN, "10.0.0.1", "10.0.0.2", 1000, 2000))
    pair.right.plane.apply(Reinject(Direction.DOWN, SLOT, packet))
    assert pair.right.receive() == packet

    for i in range(50):
        packet = udp("10.0.0.1", "10.0.0.2", 1000, 2000, bytes([i]) * 100)
        pair.left.tun.send(packet)
        assert pair.right.receive() == packet
    assert pair.left.plane.poll_event() is None
    assert pair.right.plane.poll_event() is None


def test_busy_threads_look_before_they_sleep_and_idle_ones_do_not() -> None:
    pair = Pair(busy_poll=SECOND // 10)
    try:
        pair.connect()
        pair.allow()
        packet = udp("10.0.0.1", "10.0.0.2", 1, 2, b"x")
        for _ in range(50):
            pair.left.tun.send(packet)
            assert pair.right.receive() == packet
        polls = [side.plane.counters() for side in (pair.left, pair.right)]
        assert polls[0]["up_polls"] > 0 and polls[1]["down_polls"] > 0
        deadline = time.monotonic() + WAIT_SECONDS
        while _work_soon(0.15):
            assert time.monotonic() < deadline, "idle threads go on polling"
    finally:
        pair.close()


def _work_soon(seconds: float) -> bool:
    """Whether any thread of the data planes uses the CPU in that time."""

    def used() -> list[int]:
        threads = [t for t in threading.enumerate() if t.name.startswith("dataplane")]
        clocks = [time.pthread_getcpuclockid(t.ident) for t in threads if t.ident is not None]
        assert len(clocks) == 4
        return [time.clock_gettime_ns(clock) for clock in clocks]

    before = used()
    time.sleep(seconds)
    return used() != before


def test_a_bumped_generation_makes_the_next_packet_a_miss(pair: "Pair") -> None:
    pair.connect()
    pair.allow()
    packet = udp("10.0.0.1", "10.0.0.2", 1, 2, b"x")
    pair.left.tun.send(packet)
    assert pair.right.receive() == packet
    pair.drain()
    pair.right.plane.apply(BumpGeneration(SLOT))
    pair.left.tun.send(packet)
    assert pair.right.event() == FlowMissed(Direction.DOWN, SLOT, packet)
    pair.left.plane.apply(BumpGeneration(SLOT))
    pair.left.tun.send(packet)
    assert pair.left.event() == FlowMissed(Direction.UP, commands.NOBODY, packet)


def test_both_directions_at_once(pair: "Pair") -> None:
    pair.connect()
    pair.allow()
    pair.left.tun.send(udp("10.0.0.1", "10.0.0.2", 1, 2, b"confirm"))
    pair.right.receive()
    there = [udp("10.0.0.1", "10.0.0.2", 1, 2, bytes([i])) for i in range(100)]
    back = [udp("10.0.0.2", "10.0.0.1", 2, 1, bytes([i])) for i in range(100)]
    for one, other in zip(there, back, strict=True):
        pair.left.tun.send(one)
        pair.right.tun.send(other)
        assert pair.right.receive() == one
        assert pair.left.receive() == other
    seen = pair.left.plane.activity(SLOT)
    assert seen.sent_data and seen.received_data and seen.send_counter == 101
    (counted,) = [f for f in pair.left.plane.flows() if f.key.direction is Direction.UP]
    assert (counted.packets, counted.bytes) == (101, 35 + 100 * 29)


def test_seal_and_deliver_pass_the_flow_table(pair: "Pair") -> None:
    pair.connect()
    packet = udp("10.0.0.1", "10.0.0.2", 1, 2, b"made by us")
    pair.right.plane.apply(DeliverPacket(packet))
    assert pair.right.receive() == packet
    pair.left.plane.apply(SendKeepalive(SLOT))
    assert isinstance(pair.right.event(), SessionConfirmed)
    pair.left.plane.apply(SealPacket(SLOT, packet))
    assert pair.right.event() == FlowMissed(Direction.DOWN, SLOT, packet)


def test_without_path_or_session_the_packet_comes_back_in_the_clear(pair: "Pair") -> None:
    left = pair.left.plane
    packet = udp("10.0.0.1", "10.0.0.2", 1, 2, b"waits")
    left.apply(AddPeer(SLOT, 7))
    left.apply(SealPacket(SLOT, packet))
    assert pair.left.event() == PacketUnroutable(SLOT, packet)
    left.apply(keypair(initiator=True))
    left.apply(SealPacket(SLOT, packet))
    assert pair.left.event() == PacketUnroutable(SLOT, packet)
    assert left.activity(SLOT).send_counter == 0, "no nonce is spent on what cannot be sent"


def test_events_come_in_pieces_that_let_others_have_a_turn(pair: "Pair") -> None:
    pieces: list[int] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for n in range(100):
            stun = b"\0\1\0\0\x21\x12\xa4\x42" + n.to_bytes(12, "big")
            stranger.sendto(stun, pair.left.endpoint.sockaddr)
    while sum(pieces) < 100:
        pair.left.wait()
        pieces.append(len(list(pair.left.plane.poll_events())))
    assert max(pieces) <= 64


def test_handshakes_come_up_with_both_addresses(pair: "Pair") -> None:
    stun = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.sendto(stun, pair.left.endpoint.sockaddr)
        source = Endpoint.of(*stranger.getsockname())
        assert pair.left.event() == commands.DatagramReceived(pair.left.endpoint, source, stun)
        stranger.sendto(b"\x01\0\0\0" + bytes(144), pair.left.endpoint.sockaddr)
        stranger.sendto(b"", pair.left.endpoint.sockaddr)
        stranger.sendto(b"\xff" * 3000, pair.left.endpoint.sockaddr)
        stranger.sendto(stun, pair.left.endpoint.sockaddr)
        pair.left.event()
    # An event comes up before its batch is done and counted.
    names = ("bad_mac1", "unknown_format", "too_long")
    deadline = time.monotonic() + WAIT_SECONDS
    while (counters := pair.left.plane.counters()) and time.monotonic() < deadline:
        if all(counters[name] == 1 for name in names):
            return
    pytest.fail(str({name: counters[name] for name in names}))


def test_addresses_are_rewritten_on_the_way(pair: "Pair") -> None:
    pair.connect()
    rewrite = Rewrite(destination=ip_address("10.0.0.2"), destination_port=2)
    pair.left.plane.apply(flow(Direction.UP, "10.0.0.1", "100.96.0.1", 1, 80, rewrite))
    pair.right.plane.apply(flow(Direction.DOWN, "10.0.0.1", "10.0.0.2", 1, 2))
    pair.left.tun.send(udp("10.0.0.1", "100.96.0.1", 1, 80, b"to a proxy"))
    assert pair.right.receive() == udp("10.0.0.1", "10.0.0.2", 1, 2, b"to a proxy")


def test_a_slot_used_again_gets_nothing_of_its_predecessor(pair: "Pair") -> None:
    pair.connect()
    pair.allow()
    packet = udp("10.0.0.1", "10.0.0.2", 1, 2, b"x")
    for plane in (pair.left.plane, pair.right.plane):
        plane.apply(RemovePeer(SLOT))
        plane.apply(AddPeer(SLOT, 99))
        assert plane.activity(SLOT) == commands.Activity()
    pair.left.tun.send(packet)
    assert pair.left.event() == FlowMissed(Direction.UP, commands.NOBODY, packet)


def test_threads_start_and_stop_many_times(pair: "Pair") -> None:
    pair.connect()
    pair.allow()
    packet = udp("10.0.0.1", "10.0.0.2", 1, 2, b"x")
    for _ in range(30):
        pair.left.plane.stop()
        pair.left.plane.stop()
        pair.left.tun.send(packet)
        pair.left.plane.start()
        pair.left.plane.start()
        assert pair.right.receive() == packet
    pair.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("dataplane")]


def test_other_sockets_take_over(pair: "Pair") -> None:
    pair.connect()
    pair.allow()
    packet = udp("10.0.0.1", "10.0.0.2", 1, 2, b"x")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as fresh:
        fresh.bind(("127.0.0.1", 0))
        pair.left.plane.set_udp(fresh.fileno(), None)
        pair.left.tun.send(packet)
        assert pair.right.receive() == packet
        pair.left.plane.stop()


def test_what_are_no_sockets_change_nothing(pair: "Pair") -> None:
    pair.connect()
    pair.allow()
    packet = udp("10.0.0.1", "10.0.0.2", 1, 2, b"x")
    with open("/dev/null") as nothing, pytest.raises(OSError):
        pair.left.plane.set_udp(nothing.fileno(), None)
    for _ in range(2):
        pair.left.tun.send(packet)
        assert pair.right.receive() == packet
        pair.left.plane.stop()
        pair.left.plane.start()


def test_a_lostdevice_ends_the_thread_with_a_reason(pair: "Pair") -> None:
    pair.left.device.shutdown(socket.SHUT_RDWR)
    pair.left.wait()
    failure = pair.left.plane.failure()
    assert failure == "the interface was deleted"
    assert pair.right.plane.failure() is None


def test_commands_that_cannot_be_are_errors_of_the_caller(pair: "Pair") -> None:
    plane = pair.left.plane
    for command in (
        RemovePeer(3),
        keypair(initiator=True),
        AddPeer(1 << 20, 1),
        SetPath(0, Path(pair.right.endpoint)),
        BumpGeneration(1 << 20),
        commands.OpenChannel(pair.right.endpoint, 0x3FFF),
    ):
        with pytest.raises(LocalError, match=type(command).__name__):
            plane.apply(command)
    pair.close()
    with pytest.raises(LocalError):
        plane.apply(BumpGeneration(0))


def test_removing_and_installing_under_load(pair: "Pair") -> None:
    pair.connect()
    pair.allow()
    packet = udp("10.0.0.1", "10.0.0.2", 1, 2, b"x")
    for i in range(2, 300):
        pair.left.tun.send(packet)
        pair.right.plane.apply(BumpGeneration(SLOT))
        pair.right.plane.apply(flow(Direction.DOWN, "10.0.0.1", "10.0.0.2", 1, 2))
        pair.left.plane.apply(SetPath(SLOT, Path(pair.right.endpoint)))
        pair.left.plane.apply(keypair(initiator=True, age=i))
        pair.right.plane.apply(keypair(initiator=False, age=i))
        pair.right.plane.sweep(now=1)
    pair.drain()
    pair.left.tun.send(packet)
    assert pair.right.receive() == packet


class Side:
    """A data plane, the application's end of its TUN device, and its UDP endpoint."""

    def __init__(self, key: int, busy_poll: int = 0) -> None:
        self.tun, self.device = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self.endpoint = Endpoint.of(*self._udp.getsockname())
        self.tun.settimeout(WAIT_SECONDS)
        self.plane = Dataplane(
            tun_fd=self.device.fileno(),
            udp4_fd=self._udp.fileno(),
            udp6_fd=None,
            own_public_key=bytes([key]) * 32,
            flow_capacity=1024,
            slots=64,
            busy_poll=busy_poll,
        )
        self.plane.start()

    def receive(self) -> bytes:
        return self.tun.recv(2048)

    def wait(self) -> None:
        ready, _, _ = select.select([self.plane.events_fd], [], [], WAIT_SECONDS)
        assert ready, "no event came"

    def event(self) -> commands.DataplaneEvent:
        event = self.plane.poll_event()
        while event is None:
            self.wait()
            event = self.plane.poll_event()
        return event

    def close(self) -> None:
        self.plane.close()
        for each in (self.tun, self.device, self._udp):
            each.close()


class Pair:
    def __init__(self, busy_poll: int = 0) -> None:
        self.left, self.right = Side(1, busy_poll), Side(2, busy_poll)

    def connect(self) -> None:
        for side, other, initiator in (
            (self.left, self.right, True),
            (self.right, self.left, False),
        ):
            side.plane.apply(AddPeer(SLOT, 7))
            side.plane.apply(keypair(initiator))
            side.plane.apply(SetPath(SLOT, Path(other.endpoint, side.endpoint)))

    def allow(self) -> None:
        for side, sent, received in (
            (self.left, Direction.UP, Direction.DOWN),
            (self.right, Direction.DOWN, Direction.UP),
        ):
            side.plane.apply(flow(sent, "10.0.0.1", "10.0.0.2", 1, 2))
            side.plane.apply(flow(received, "10.0.0.2", "10.0.0.1", 2, 1))

    def drain(self) -> None:
        """Let everything that is under way arrive and forget it."""
        for side in (self.left, self.right):
            side.tun.settimeout(0.2)
            try:
                while True:
                    side.receive()
            except TimeoutError:
                side.tun.settimeout(WAIT_SECONDS)
            while side.plane.poll_event() is not None:
                pass

    def close(self) -> None:
        self.left.close()
        self.right.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()
