"""The commands of the control layer on the real kernels, one packet at a time."""

from dataplane_commands import SLOT, flow, keypair
from packets import udp

from firezone import commands
from firezone.commands import (
    AddPeer,
    Direction,
    FlowMissed,
    Path,
    Reinject,
    SealPacket,
    SessionConfirmed,
    SetPath,
)
from firezone.dataplane import SingleThreaded
from firezone.model import Endpoint


def test_single_threaded_runs_the_same_stages() -> None:
    left, right = (SingleThreaded(own_public_key=bytes([i]) * 32, entropy=bytes) for i in range(2))
    here, there = Endpoint.of("192.0.2.1", 1), Endpoint.of("192.0.2.2", 2)
    for plane, initiator, path in ((left, True, there), (right, False, here)):
        plane.apply(AddPeer(SLOT, 7), 0)
        plane.apply(keypair(initiator), 0)
        plane.apply(SetPath(SLOT, Path(path)), 0)
    packet = udp("10.0.0.1", "10.0.0.2", 1, 2, b"x")
    left.feed_up(packet, 5)
    assert left.poll_event() == FlowMissed(Direction.UP, commands.NOBODY, packet)
    left.apply(flow(Direction.UP, "10.0.0.1", "10.0.0.2", 1, 2), 5)
    left.apply(Reinject(Direction.UP, commands.NOBODY, packet), 5)
    transmit = left.take_udp()
    assert transmit is not None and transmit.destination == there and transmit.source is None
    assert len(transmit.payload) == len(packet) + 32
    right.apply(flow(Direction.DOWN, "10.0.0.1", "10.0.0.2", 1, 2), 5)
    right.feed_down(transmit.payload, there, here, 6)
    assert right.poll_event() == SessionConfirmed(SLOT, 0x701)
    assert right.take_tun() == packet
    right.feed_down(transmit.payload, there, here, 7)
    assert right.take_tun() is None and right.counters()["replayed"] == 1
    left.feed_up(bytes(1281), 8)
    assert left.counters()["too_long"] == 1


def test_a_peer_cannot_fill_the_slow_path() -> None:
    left, right = (SingleThreaded(own_public_key=bytes([i]) * 32, entropy=bytes) for i in range(2))
    here, there = Endpoint.of("192.0.2.1", 1), Endpoint.of("192.0.2.2", 2)
    for plane, initiator, path in ((left, True, there), (right, False, here)):
        plane.apply(AddPeer(SLOT, 7), 0)
        plane.apply(keypair(initiator), 0)
        plane.apply(SetPath(SLOT, Path(path)), 0)

    def send(count: int) -> None:
        for port in range(count):
            left.apply(SealPacket(SLOT, udp("10.0.0.1", "10.0.0.2", port, 2, b"")), 1)
            transmit = left.take_udp()
            assert transmit is not None
            right.feed_down(transmit.payload, there, here, 1)

    def taken() -> int:
        events = []
        while (event := right.poll_event()) is not None:
            events.append(event)
        return sum(isinstance(event, FlowMissed) for event in events)

    send(100)
    assert right.counters()["over_budget"] == 100 - 32
    assert taken() == 32
    send(100)
    assert taken() == 32


def test_a_flow_that_could_not_be_installed_does_not_come_up_again() -> None:
    plane = SingleThreaded(own_public_key=bytes(32), entropy=bytes)
    packet = udp("10.0.0.1", "10.0.0.2", 1, 2, b"")
    plane.apply(Reinject(Direction.UP, commands.NOBODY, packet), 1)
    assert plane.poll_event() is None
    assert plane.counters()["over_budget"] == 1
