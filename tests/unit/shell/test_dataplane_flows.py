"""The flow table under its two threads: growth while packets pass, and a flood of misses."""

import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from packets import udp

from firezone.commands import (
    NOBODY,
    Action,
    AddPeer,
    BumpGeneration,
    DataplaneEvent,
    Direction,
    FlowKey,
    FlowMissed,
    InstallFlow,
    InstallKeypair,
    Path,
    Reinject,
    SealPacket,
    SetPath,
)
from firezone.dataplane import SingleThreaded
from firezone.model import Endpoint
from firezone.shell.dataplane import Dataplane

FOREVER = 1 << 62
WAIT_SECONDS = 10.0
ESTABLISHED = 50
BACKGROUND = 40_000


def test_no_packet_and_no_count_is_lost_while_the_table_grows(side: "Side") -> None:
    """Packets pass in one thread while another makes the table 800 times as large and back."""
    side.plane.apply(AddPeer(1, 1))
    side.plane.apply(keypair(1, 1, initiator=True))
    side.plane.apply(SetPath(1, Path(Endpoint.of(*side.outside.getsockname()))))
    keys = [key(Direction.UP, NOBODY, "10.0.0.1", "10.0.0.2", n + 1, 2) for n in range(ESTABLISHED)]
    for each in keys:
        side.plane.apply(InstallFlow(each, Action.FORWARD, 1, 1, 0, 0))
    sent, done = Counter[int](), threading.Event()
    writer = threading.Thread(target=side.keep_sending, args=(sent, done))
    writer.start()
    for n in range(BACKGROUND):
        source = f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
        background = key(Direction.DOWN, 2, source, "10.0.0.2", 1, 2)
        side.plane.apply(InstallFlow(background, Action.DROP, 2, 2, 0, 0))
        if n % 3 == 0:  # the same decision again, for a flow that is in use
            side.plane.apply(InstallFlow(keys[n % ESTABLISHED], Action.FORWARD, 1, 1, 0, 0))
    assert side.plane.flow_count == ESTABLISHED + BACKGROUND
    side.plane.apply(BumpGeneration(2))
    while side.plane.flow_count > ESTABLISHED:
        side.plane.sweep(1)
    for _ in range(50):
        side.plane.sweep(1)
    done.set()
    writer.join()
    side.wait_for(lambda: side.plane.counters()["tun_read_packets"] == sent.total())
    assert side.plane.poll_event() is None, "no look-up failed"
    assert sent.total() > 100
    counted = {}
    for n, each in enumerate(keys):
        flow = side.plane.flow(each)
        assert flow is not None
        counted[n] = flow.packets
    assert counted == dict(sent)


def test_a_flood_of_one_peer_leaves_another_and_the_control_layer_alive(side: "Side") -> None:
    quiet, noisy = Peer(1), Peer(2)
    for peer in (quiet, noisy):
        side.plane.apply(AddPeer(peer.slot, peer.slot))
        side.plane.apply(keypair(peer.slot, peer.slot, initiator=False))
    established = quiet.packet(1)
    side.plane.apply(InstallFlow(quiet.key(1), Action.FORWARD, 1, 1, 0, 0))
    done = threading.Event()
    flood = [noisy.sealed(noisy.packet(n)) for n in range(1, 20_000)]
    writer = threading.Thread(target=side.keep_flooding, args=(flood, done))
    writer.start()
    started = time.monotonic()
    decided = Counter[int]()
    slowest = 0.0
    try:
        for n in range(2, 22):
            for wanted in (established, quiet.packet(n)):
                asked = time.monotonic()
                side.outside.sendto(quiet.sealed(wanted), side.address)
                while not side.received(wanted):
                    decided.update(side.decide())
                    assert time.monotonic() - asked < WAIT_SECONDS, "the flood keeps it out"
                slowest = max(slowest, time.monotonic() - asked)
    finally:
        done.set()
        writer.join()
    elapsed = time.monotonic() - started
    assert decided[1] == 20
    assert decided[2] <= 256 + 2000 * elapsed + 32
    assert slowest < 2.0


class Peer:
    """Seals packets as another host would."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self._address = f"100.64.0.{slot}"
        self._plane = SingleThreaded(own_public_key=bytes(32), entropy=bytes)
        self._plane.apply(AddPeer(1, slot), 0)
        self._plane.apply(keypair(1, slot, initiator=True), 0)
        self._plane.apply(SetPath(1, Path(Endpoint.of("192.0.2.1", 1))), 0)

    def packet(self, port: int) -> bytes:
        return udp(self._address, "10.0.0.1", port, 7, b"data")

    def key(self, port: int) -> FlowKey:
        return key(Direction.DOWN, self.slot, self._address, "10.0.0.1", port, 7)

    def sealed(self, packet: bytes) -> bytes:
        self._plane.apply(SealPacket(1, packet), 1)
        transmit = self._plane.take_udp()
        assert transmit is not None
        return transmit.payload


class Side:
    """A data plane between a socket pair, in the place of a TUN device, and loopback UDP."""

    def __init__(self) -> None:
        self.tun, self._device = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._udp.bind(("127.0.0.1", 0))
        self.address = self._udp.getsockname()
        self.outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.outside.bind(("127.0.0.1", 0))
        self.plane = Dataplane(
            tun_fd=self._device.fileno(),
            udp4_fd=self._udp.fileno(),
            udp6_fd=None,
            own_public_key=bytes(32),
            slots=64,
        )
        self.plane.start()

    def keep_sending(self, sent: Counter[int], done: threading.Event) -> None:
        packets = [udp("10.0.0.1", "10.0.0.2", n + 1, 2, b"x") for n in range(ESTABLISHED)]
        while not done.is_set():
            for n, packet in enumerate(packets):
                self.tun.send(packet)
                sent[n] += 1

    def keep_flooding(self, flood: list[bytes], done: threading.Event) -> None:
        for n, datagram in enumerate(flood):
            if done.is_set():
                return
            self.outside.sendto(datagram, self.address)
            if n % 50 == 0:
                time.sleep(0.002)

    def decide(self) -> Iterator[int]:
        """What the control layer does with a piece of events: whose flows it let pass."""
        select.select([self.plane.events_fd], [], [], 0.01)
        for event in self.plane.poll_events():
            if isinstance(event, FlowMissed):
                self._allow(event)
                yield event.slot

    def received(self, wanted: bytes) -> bool:
        while select.select([self.tun], [], [], 0)[0]:
            if self.tun.recv(2048) == wanted:
                return True
        return False

    def wait_for(self, condition: object) -> None:
        assert callable(condition)
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def close(self) -> None:
        self.plane.close()
        for each in (self.tun, self._device, self._udp, self.outside):
            each.close()

    def _allow(self, event: DataplaneEvent) -> None:
        assert isinstance(event, FlowMissed)
        port = int.from_bytes(event.packet[20:22], "big")
        source = str(ip_address(event.packet[12:16]))
        missed = key(Direction.DOWN, event.slot, source, "10.0.0.1", port, 7)
        self.plane.apply(InstallFlow(missed, Action.FORWARD, event.slot, event.slot, 0, 0))
        self.plane.apply(Reinject(Direction.DOWN, event.slot, event.packet))


@pytest.fixture
def side() -> Iterator[Side]:
    made = Side()
    yield made
    made.close()


def key(
    direction: Direction, slot: int, source: str, destination: str, port: int, to_port: int
) -> FlowKey:
    ends = ip_address(source), ip_address(destination)
    return FlowKey(direction, slot, 17, *ends, port, to_port)


def keypair(slot: int, index: int, initiator: bool) -> InstallKeypair:
    keys = [bytes([role, index]) * 16 for role in (1, 2)]
    send, receive = keys if initiator else reversed(keys)
    return InstallKeypair(
        slot, index << 8, index << 8, send, receive, initiator, 1, FOREVER, FOREVER
    )
