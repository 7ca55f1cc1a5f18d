"""New flows a second through Python: a miss, the role's decision, two entries, the packet again.

Client and gateway decide on the real kernels, single-threaded, over a tunnel that stands; what the
event loop of a program and its threads add is not in it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import main, measure, udp_packet
from firezone import commands
from firezone.durations import MICROSECOND, SECOND
from firezone.model import Endpoint
from firezone.sim import World
from firezone.sim.peers import Peer
from firezone.sim.portal import CLIENT_ADDRESSES

RESOURCE, SLOT = "10.9.0.1", 1
FLOWS = 100
BETWEEN = 500 * MICROSECOND
"""As fast as a peer's budget lets them come; and the session lasts until the end."""


def packet_of(flow: int) -> bytes:
    packet = bytearray(udp_packet(64))
    for offset, address in ((12, CLIENT_ADDRESSES[0]), (16, RESOURCE)):
        packet[offset : offset + 4] = bytes(map(int, address.split(".")))
    packet[20:24] = flow.to_bytes(4, "big")
    return bytes(packet)


class Decider:
    """One end of the tunnel, driven as a program drives it, but with nothing sent."""

    def __init__(self, world: World, peer: Peer) -> None:
        self.clock, self.plane, self.role = world.clock, peer.dataplane, peer.role

    def from_host(self, packet: bytes) -> bytes:
        """What is sent for a packet of the TUN device."""
        self.clock.now += BETWEEN
        self.plane.feed_up(packet, self.clock.now)
        self._decide()
        sent = self.plane.take_udp()
        assert sent is not None
        return sent.payload

    def from_peer(self, datagram: bytes, local: Endpoint, source: Endpoint) -> None:
        self.clock.now += BETWEEN
        self.plane.feed_down(datagram, local, source, self.clock.now)
        self._decide()
        assert self.plane.take_tun() is not None

    def forget(self) -> None:
        self.plane.apply(commands.BumpGeneration(SLOT), self.clock.now)
        self.plane.sweep(self.clock.now)

    def _decide(self) -> None:
        role, now = self.role, self.clock.now
        for event in self.plane.poll_events():
            match event:
                case commands.FlowMissed(direction, slot, packet):
                    role.handle_flow_missed(direction, slot, packet, now)
            while (command := role.poll_command()) is not None:
                self.plane.apply(command, now)
            assert role.poll_transmit() is None and role.poll_event() is None


@pytest.fixture
def world() -> World:
    made = World()
    made.client.send_packet(packet_of(1))
    made.clock.run_for(5 * SECOND)
    assert len(made.gateway.tun) == 1
    return made


def test_client(benchmark: BenchmarkFixture, world: World) -> None:
    client = Decider(world, world.client)
    packets = [packet_of(flow) for flow in range(1 << 16, (1 << 16) + FLOWS)]

    def work() -> None:
        for packet in packets:
            client.from_host(packet)

    run(benchmark, client.forget, work)


def test_gateway(benchmark: BenchmarkFixture, world: World) -> None:
    client, gateway = Decider(world, world.client), Decider(world, world.gateway)
    packets = [packet_of(flow) for flow in range(1 << 16, (1 << 16) + FLOWS)]
    local, source = Endpoint.of("198.51.100.1", 1), Endpoint.of("192.0.2.1", 1)
    datagrams: list[bytes] = []

    def prepare() -> None:
        gateway.forget()
        datagrams[:] = map(client.from_host, packets)

    def work() -> None:
        for datagram in datagrams:
            gateway.from_peer(datagram, local, source)

    run(benchmark, prepare, work)


def run(
    benchmark: BenchmarkFixture, prepare: Callable[[], object], work: Callable[[], object]
) -> None:
    measure(benchmark, prepare, work, FLOWS, "new flow")
    ns_per_flow = benchmark.extra_info["ns_per_packet"]
    benchmark.extra_info["flows_per_second"] = round(1e9 / ns_per_flow)


if __name__ == "__main__":
    raise SystemExit(main(__file__))
