"""Paths that lose, delay and reorder, or carry little, are not left for that."""

import random

import pytest
from packets import udp

from firezone.durations import MILLISECOND, SECOND
from firezone.sim import World
from firezone.sim.portal import CLIENT_ADDRESSES

ME, _ = CLIENT_ADDRESSES
SERVER = "10.9.0.1"
UP, DOWN = (ME, SERVER, 5000, 53, b"up"), (SERVER, ME, 53, 5000, b"down")


def unsettle(world, loss, jitter, seed):
    """From now on lose that many percent of all datagrams at each hop, and delay the rest by up to
    `jitter` beside the usual latency."""
    dice, network = random.Random(seed), world.network
    latency, send = network.latency, network.send

    def send_later(*datagram):
        if dice.randrange(100) >= loss:
            network.latency = latency + dice.randrange(jitter + 1)
            send(*datagram)
            network.latency = latency

    network.send = send_later


def ends(world):
    return [c for peer in (world.client, world.gateway) for c in peer.role.node.connections()]


def settled(seed, *, direct, latency):
    world = World(seed=seed, latency=latency)
    if not direct:
        world.block_direct()
    world.client.send_packet(udp(*UP))
    assert world.clock.run_until(lambda: world.gateway.tun, 20 * SECOND)
    world.gateway.send_packet(udp(*DOWN))
    world.clock.run_for(5 * SECOND)
    return world


def carry(world, traffic, pace, duration):
    end = world.clock.now + duration
    while world.clock.now < end:
        if traffic in ("up", "both", "asked"):
            world.client.send_packet(udp(*UP))
        answers = {"down": 1, "both": 1, "asked": len(world.gateway.tun)}.get(traffic, 0)
        for _ in range(answers):
            world.gateway.send_packet(udp(*DOWN))
        world.gateway.tun.clear()
        world.clock.run_for(pace)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("traffic", ["up", "down", "both", "asked", "none"])
@pytest.mark.parametrize(
    ("loss", "jitter_ms", "round_trip_ms"),
    [(0, 0, 20), (5, 0, 20), (20, 0, 20), (0, 200, 20), (5, 200, 20), (0, 0, 600), (5, 0, 600)],
)
def test_no_path_is_left(direct, traffic, loss, jitter_ms, round_trip_ms):
    """Traffic one way, which nobody answers, looks like a path that is dead until it is checked."""
    if loss == 20 and not direct:
        loss = 10  # at each of the hops to, between and from relays
    hops = 1 if direct else 2
    world = settled(1, direct=direct, latency=round_trip_ms * MILLISECOND // 2 // hops)
    before = [list(c.paths) for c in ends(world)]
    unsettle(world, loss, jitter_ms * MILLISECOND, seed=loss + jitter_ms)
    carry(world, traffic, 50 * MILLISECOND, 40 * SECOND)
    assert [list(c.paths) for c in ends(world)] == before
    assert not any(c.agent.counters["nominated pair distrusted"] for c in ends(world))
