"""What a relay's clients lose when a peer of theirs stops being allowed."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from turn_relay_kit import PEER_4, RELAY_4, Client, World, error_of

from firezone.model import Endpoint
from firezone.turn.relay_commands import SendToPeer, UnbindChannel
from firezone.turn.relay_peers import PeerPolicy

DATA = b"\x40\x00\x00\x01x"
OTHER = Endpoint.of("192.0.2.78", 52625)


def deny(world: World, *networks: str) -> None:
    world.relay.handle_peer_networks((), tuple(map(ip_network, networks)), world.now)


def test_a_channel_is_unbound_at_once() -> None:
    world = World()
    client = Client(world)
    port = client.allocated_port()
    client.bind(0x4000)
    client.bind(0x4001, OTHER)
    deny(world, "192.0.2.77/32")
    (unbound,) = world.commands()
    assert isinstance(unbound, UnbindChannel)
    assert (unbound.number, unbound.port, unbound.peer) == (0x4000, port, PEER_4)
    assert (world.relay.channel_count, world.relay.counters["channel_revoked"]) == (1, 1)
    assert world.send(DATA) == []
    assert world.from_peer(port, b"x") == []
    assert error_of(client.bind(0x4000)) == 403
    assert [type(c) for c in world.send(b"\x40\x01\x00\x01x")] == [SendToPeer]


def test_its_number_rests_and_serves_again() -> None:
    world = World()
    client = Client(world)
    client.allocated_port()
    client.bind(0x4000)
    deny(world, "192.0.2.77/32")
    world.commands()
    assert error_of(client.bind(0x4000, OTHER)) == 400
    world.wait(301)
    assert error_of(client.bind(0x4000, OTHER)) is None
    deny(world)
    assert error_of(client.bind(0x4001)) is None
    assert world.relay.channel_count == 2


def test_permissions_are_revoked_at_once() -> None:
    world = World()
    client = Client(world)
    port = client.allocated_port()
    client.permit(PEER_4, OTHER)
    assert len(world.permits) == 2
    world.relay.handle_host_addresses(frozenset({PEER_4.address}), world.now)
    world.commands()
    assert world.permits == {(port, OTHER.address)}
    assert world.relay.counters["permission_revoked"] == 1
    assert client.send(PEER_4, b"x") == []
    assert error_of(client.permit(PEER_4)) == 403


def test_ports_of_our_own_address_follow_the_lists() -> None:
    """For those who take data; the permission itself lasts, for allocations can be sent to."""
    world = World()
    client, silent = Client(world), Client(world, Endpoint.of("203.0.113.9", 1))
    port = client.allocated_port()
    client.permit(RELAY_4, PEER_4)
    silent.allocate()
    silent.bind(0x4000, Endpoint(RELAY_4.address, port))
    allow = (ip_network(f"{RELAY_4.address}/32"),)
    for lists, any_port in (((allow, ()), True), ((allow, allow), False), (((), ()), False)):
        world.relay.handle_peer_networks(*lists, world.now)
        world.commands()
        wanted = {(port, RELAY_4.address): any_port, (port, PEER_4.address): True}
        assert world.any_port == wanted
        sent = client.send(Endpoint(RELAY_4.address, 9), b"data")
        assert [type(c) for c in sent] == [SendToPeer] * any_port
    assert world.relay.counters["permission_revoked"] == 0


def test_what_is_allowed_stays() -> None:
    world = World()
    client = Client(world)
    client.allocated_port()
    client.bind(0x4000)
    client.permit(OTHER)
    world.relay.handle_host_addresses(frozenset({RELAY_4.address}), world.now)
    deny(world, "192.0.3.0/24")
    deny(world, "192.0.3.0/24")
    assert world.commands() == []
    assert (world.relay.channel_count, world.relay.permission_count) == (1, 2)


@pytest.mark.parametrize("loopback", [False, True])
def test_a_relayed_address_that_was_given_back_is_nobodys(loopback: bool) -> None:
    """The port may be another program's a moment later."""
    world = World(peers=PeerPolicy(allow_loopback=loopback))
    one = Client(world)
    two = Client(world, Endpoint.of("203.0.113.6", 40000))
    port = one.allocated_port()
    two.allocated_port()
    relayed = Endpoint(RELAY_4.address, port)
    assert error_of(two.bind(0x4000, relayed)) is None
    one.refresh(0)
    assert world.relay.channel_count == int(loopback)
    if not loopback:
        assert error_of(two.bind(0x4000, relayed)) == 403


def test_a_relayed_address_that_expired_is_nobodys() -> None:
    world = World()
    one = Client(world)
    two = Client(world, Endpoint.of("203.0.113.6", 40000))
    relayed = Endpoint(RELAY_4.address, one.allocated_port())
    two.allocated_port()
    world.wait(590)
    two.refresh(600)
    two.bind(0x4000, relayed)
    assert world.relay.channel_count == 1
    world.wait(20)
    assert (world.relay.allocation_count, world.relay.channel_count) == (1, 0)
