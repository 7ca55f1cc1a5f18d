"""A client in a network that has IPv6 alone, and a NAT64; all others have IPv4 alone."""

from ipaddress import IPv6Network

import pytest
from packets import udp

from firezone.durations import SECOND
from firezone.nat64 import Prefix
from firezone.sim import NatKind, World
from firezone.sim.portal import CLIENT_ADDRESSES

ME, _ = CLIENT_ADDRESSES
PREFIX = Prefix(IPv6Network("2001:db8:64::/96"))


def reaches(world, n, within=3 * SECOND):
    request = udp(ME, "10.9.0.1", 5000, 53, n.to_bytes(4, "big"))
    world.client.send_packet(request)
    return world.clock.run_until(lambda: request in world.gateway.tun, within)


def kind(world):
    return world.client.events("path_chosen")[-1].fields["kind"]


@pytest.mark.parametrize(
    ("nat", "path"),
    [(NatKind.ENDPOINT_INDEPENDENT, "direct"), (NatKind.SYMMETRIC, "relayed")],
)
def test_it_reaches_the_gateway_as_from_behind_another_nat(nat, path):
    world = World(client_nat64=PREFIX, client_nat=nat)
    for n in range(30):
        assert reaches(world, n)
        world.clock.run_for(1 * SECOND)
    assert kind(world) == path


def test_it_goes_on_over_the_relay_when_the_direct_path_is_cut():
    world = World(client_nat64=PREFIX)
    assert reaches(world, 1)
    world.clock.run_for(2 * SECOND)
    assert kind(world) == "direct"
    world.block_direct()
    assert any(reaches(world, n, 1 * SECOND) for n in range(2, 12))
    assert kind(world) == "relayed"


def test_without_the_prefix_no_relay_is_reached():
    world = World(client_nat64=PREFIX)
    world.client.role.reset(world.clock.now)
    world.client.role.handle_nat64(None, world.clock.now)
    world.client.pump()
    world.portal.join_client(world.client)
    assert not reaches(world, 1, 20 * SECOND)


@pytest.mark.parametrize("seconds", [1, 2, 5, 40])
def test_relays_and_peers_known_before_the_prefix_are_reached_through_it(seconds):
    world = World(client_nat64=PREFIX)
    world.client.role.reset(world.clock.now)
    world.client.role.handle_nat64(None, world.clock.now)
    world.client.pump()
    assert not reaches(world, 1, seconds * SECOND)
    world.client.role.handle_nat64(PREFIX, world.clock.now)
    world.client.pump()
    assert reaches(world, 2)
    world.clock.run_for(5 * SECOND)
    assert kind(world) == "direct"


def test_a_relay_that_answers_stays_when_the_prefix_is_gone():
    world = World(client_nat64=PREFIX)
    assert reaches(world, 1)
    world.client.role.handle_nat64(None, world.clock.now)
    world.client.pump()
    assert all(link.answers for _, link in world.client.role.node.transport.relays.links())
    assert reaches(world, 2, 1 * SECOND)
