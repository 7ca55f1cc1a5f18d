"""What a connection outlives: silence, a portal or relays that come and go."""

from ipaddress import ip_network

import pytest
from packets import udp

from firezone.durations import MILLISECOND, MINUTE, SECOND
from firezone.node.connection import ConnectionState
from firezone.phoenix.messages.client import ResourceDeleted
from firezone.sim import NatKind, World
from firezone.sim.portal import CLIENT_ADDRESSES

ME, _ = CLIENT_ADDRESSES
SERVER = "10.9.0.1"
SYM = NatKind.SYMMETRIC
PATHS = pytest.mark.parametrize("nat", [NatKind.ENDPOINT_INDEPENDENT, SYM], ids=["direct", "relay"])


def request(n):
    return udp(ME, SERVER, 5000, 53, n.to_bytes(4, "big"))


def answer(n):
    return udp(SERVER, ME, 53, 5000, n.to_bytes(4, "big"))


def passes(world, n, limit=10 * SECOND):
    world.client.send_packet(request(n))
    return world.clock.run_until(lambda: request(n) in world.gateway.tun, limit)


def connected(nat=NatKind.ENDPOINT_INDEPENDENT, **options):
    world = World(client_nat=nat, gateway_nat=nat, **options)
    assert passes(world, 0, 20 * SECOND)
    world.clock.run_for(3 * SECOND)
    return world


def connections(world):
    return [c for peer in (world.client, world.gateway) for c in peer.role.node.connections()]


def test_only_data_is_activity():
    """Neither the checks of ICE nor the keepalive that answers data keep a connection awake."""
    world = connected()
    assert passes(world, 1)
    world.clock.run_for(19 * SECOND)
    assert {c.state for c in connections(world)} == {ConnectionState.CONNECTED}
    world.clock.run_for(2 * SECOND)
    assert {c.state for c in connections(world)} == {ConnectionState.IDLE}
    before = world.network.counters["sent"]
    world.clock.run_for(2 * MINUTE)
    assert world.network.counters["sent"] - before < 200
    assert passes(world, 2, 1 * SECOND)
    world.clock.run_for(10 * SECOND)
    assert {c.state for c in connections(world)} == {ConnectionState.CONNECTED}, "seen at a look"


@PATHS
def test_two_idles_of_six_minutes(nat):
    world = connected(nat)
    for n in (1, 2, 3):
        world.clock.run_for(6 * MINUTE)
        assert passes(world, n)
    assert not world.client.events("connection_lost")


def test_a_connection_made_while_old_channels_cool_down():
    """Channels of a connection that ended died at 10 min; until 15 min the relay gives their
    numbers to the same peers only."""
    world = connected(SYM, relays=1)
    before = channels(world)
    end_connection(world)
    world.clock.run_for(11 * MINUTE)
    assert passes(world, 1)
    assert before and before == channels(world)
    assert refusals(world) == []
    end_connection(world)
    world.clock.run_for(20 * MINUTE)
    assert passes(world, 2)
    assert before.keys() == channels(world).keys()
    assert not before.items() & channels(world).items(), "numbers never used come first"
    assert refusals(world) == []


def test_a_relay_is_asked_once_for_peers_that_it_refuses():
    """Which every check on that pair would ask a channel for."""
    world = World(client_nat=SYM, gateway_nat=SYM)
    denied = ip_network("198.51.100.1")
    for relay in world.relays:
        relay.machine.handle_peer_networks((), (denied,), world.clock.now)
    for n in range(1, 5):
        assert passes(world, n, 20 * SECOND)
        world.clock.run_for(60 * SECOND)
    refused = [a.counters["error_403"] for _, a in allocations(world)]
    assert 0 < sum(refused) <= 2 * len(refused)


def test_no_relay_is_asked_for_private_peers():
    world = connected(SYM)
    for n in range(1, 5):
        assert passes(world, n)
        world.clock.run_for(60 * SECOND)
    assert not any(a.counters["error_403"] for _, a in allocations(world))


def test_established_is_said_once_however_often_the_session_is_renewed():
    world = connected(SYM)
    for n in range(1, 25):
        assert passes(world, n)
        world.clock.run_for(15 * SECOND)
    assert len(world.client.events("handshake_done")) == 1
    assert len(world.gateway.events("handshake_done")) == 1


@PATHS
def test_joining_the_portal_again_costs_a_relayed_path_less_than_half_a_second(nat):
    """With new credentials for the same relays come new allocations; a direct path needs none."""
    world = connected(nat)
    for n in range(1, 40):
        if n % 10 == 0:
            world.client.reconnect_portal()
            world.gateway.reconnect_portal()
            if nat is SYM:
                world.clock.run_for(500 * MILLISECOND)
        assert passes(world, n, 100 * MILLISECOND)
        world.clock.run_for(200 * MILLISECOND)
    assert not world.client.events("connection_lost")


@PATHS
def test_relays_that_are_removed_and_added_again(nat):
    world = connected(nat)
    relays = list(world.relays)
    for n in range(1, 4):
        del world.relays[:]
        world.portal.announce_relays(relays)
        world.clock.run_for(5 * SECOND)
        world.relays.extend(relays)
        world.portal.announce_relays([])
        world.clock.run_for(5 * SECOND)
        assert passes(world, n, 20 * SECOND)


@PATHS
def test_a_client_that_roams_comes_back_by_the_same_relays(nat):
    world = connected(nat)
    for n in range(1, 4):
        world.client.role.reset(world.clock.now)
        world.client.pump()
        assert passes(world, n, 20 * SECOND)
        world.clock.run_for(30 * SECOND)


@PATHS
def test_a_client_that_roams_need_not_send_to_receive(nat):
    """Who downloads sends nothing until more comes."""
    world = connected(nat)
    world.client.role.reset(world.clock.now)
    world.client.pump()
    sent = len(world.client.events("handshake_done"))
    limit = 2 * SECOND
    assert world.clock.run_until(lambda: len(world.client.events("handshake_done")) > sent, limit)
    world.clock.run_for(100 * MILLISECOND)
    for n in range(3):
        world.gateway.send_packet(answer(n))
    assert world.clock.run_until(lambda: answer(2) in world.client.tun, SECOND)


@PATHS
def test_a_gateway_that_roams_is_found_by_who_only_receives(nat):
    """The portal takes its resources away and offers them again, as the gateway has another key."""
    world = connected(nat)
    sent = len(world.client.events("handshake_done"))
    world.gateway.role.reset(world.clock.now)
    world.gateway.pump()
    world.clock.run_for(200 * MILLISECOND)
    for resource in list(world.portal.resources.values()):
        world.client.role.handle_message(ResourceDeleted(resource.id), world.clock.now)
        world.portal.grant(resource)
    world.client.pump()
    limit = 2 * SECOND
    assert world.clock.run_until(lambda: len(world.client.events("handshake_done")) > sent, limit)
    world.clock.run_for(100 * MILLISECOND)
    world.gateway.send_packet(answer(1))
    assert world.clock.run_until(lambda: answer(1) in world.client.tun, SECOND)
    asked = world.portal.requests.count("create_flow")
    assert asked == 2, "only what was reached before"


def end_connection(world):
    """Lose the gateway, though not its relay."""
    relays = {relay.address(4) for relay in world.relays}
    free = world.network.blocked
    world.network.blocked = lambda s, d: (s.address in relays) == (d.address in relays)
    world.clock.run_for(1 * MINUTE)
    for peer in (world.client, world.gateway):
        for connection in tuple(peer.role.node.connections()):
            peer.role.node.close_connection(connection.id, "test", world.clock.now)
        peer.pump()
    world.network.blocked = free


def channels(world):
    """Numbers by side and peer."""
    now = world.clock.now
    return {
        (side, peer): channel.number
        for side, allocation in allocations(world)
        for connection in connections(world)
        for peer in (candidate.address for candidate in connection.remotes)
        if (channel := allocation.channel_to(peer, now)) is not None
    }


def refusals(world):
    """What a relay said no to, but for challenges and private addresses of the peer."""
    errors = {code for _, a in allocations(world) for code in a.counters if "error" in code}
    return sorted(errors - {"error_401", "error_403", "error_438"})


def allocations(world):
    sides = {"client": world.client, "gateway": world.gateway}
    return [(s, a) for s, peer in sides.items() for _, a in peer.role.node.transport.relays]
