"""Where UDP is blocked the relay is reached over a stream, and left again when UDP is back."""

import pytest
from packets import udp

from firezone.durations import SECOND
from firezone.sim import World
from firezone.sim.portal import CLIENT_ADDRESSES

ME, _ = CLIENT_ADDRESSES
SERVER = "10.9.0.1"


def request(n=0):
    return udp(ME, SERVER, 5000, 53, n.to_bytes(4, "big"))


def block(world, *which):
    silent = {a for w in which for a in getattr(world, f"_{w}_host").nat.addresses}
    world.network.blocked = lambda s, d: s.address in silent or d.address in silent


def client_without_udp(relays=2):
    """As if it had just been started there."""
    world = World(relays=relays)
    world.client.streams = True
    block(world, "client")
    start_client_anew(world)
    world.clock.run_for(5 * SECOND)
    return world


def start_client_anew(world):
    world.client.role.reset(world.clock.now)
    world.client.pump()


def reaches(world, n, within):
    world.client.send_packet(request(n))
    return world.clock.run_until(lambda: request(n) in world.gateway.tun, within)


@pytest.mark.parametrize("which", [("client",), ("gateway",), ("client", "gateway")])
def test_data_flows_over_a_stream(which):
    world = World(relays=2)
    world.client.streams = world.gateway.streams = True
    block(world, *which)
    if "gateway" in which:
        world.restart_gateway()
        world.gateway.streams = True
    if "client" in which:
        start_client_anew(world)
    world.clock.run_for(5 * SECOND)
    assert reaches(world, 1, 3 * SECOND)
    assert world.client.events("path_chosen")[-1].fields["kind"] == "relayed"
    for n in range(2, 100):
        world.clock.run_for(1 * SECOND)
        assert reaches(world, n, 1 * SECOND), n
    assert not world.client.events("connection_lost")


def test_no_stream_is_opened_while_a_relay_answers_over_udp():
    world = World(relays=2)
    world.client.streams = True
    dead = world.relays[0].host
    world.network.detach(dead)
    start_client_anew(world)
    world.clock.run_for(30 * SECOND)
    assert not world.client._streams


def test_only_relayed_candidates_are_told_of_a_stream():
    world = client_without_udp()
    kinds = {c.kind for _, c in world.client.role.node.transport.candidates()}
    assert kinds == {"relay"}


def test_udp_is_used_again_when_it_is_back_without_a_break():
    world = client_without_udp()
    assert reaches(world, 1, 3 * SECOND)
    block(world)
    lost = []
    for n in range(2, 70):
        if not reaches(world, n, 1 * SECOND):
            lost.append(n)
        world.clock.run_for(1 * SECOND)
    assert not world.client._streams
    assert lost == []
    assert world.client.events("path_chosen")[-1].fields["kind"] == "direct"


def test_udp_that_ends_is_replaced_by_a_stream():
    world = World(relays=2)
    world.client.streams = True
    assert reaches(world, 1, 3 * SECOND)
    block(world, "client")
    for n in range(2, 90):
        world.client.send_packet(request(n))
        world.clock.run_for(1 * SECOND)
    assert request(89) in world.gateway.tun


def test_a_stream_that_breaks_is_opened_again():
    world = client_without_udp(relays=1)
    assert reaches(world, 1, 3 * SECOND)
    (relay,) = world.relays
    assert world.client.cut_stream(relay.id)
    world.client.role.handle_stream_closed(relay.id, world.clock.now)
    world.client.pump()
    assert relay.id in world.client.role.node.transport.relays
    for n in range(2, 15):
        world.client.send_packet(request(n))
        world.clock.run_for(1 * SECOND)
    assert world.client.cut_stream(relay.id)  # another one
    assert request(14) in world.gateway.tun


def test_without_udp_and_streams_the_relay_is_given_up_but_not_forgotten():
    world = World(relays=1)
    free = world.network.blocked
    block(world, "client")
    start_client_anew(world)
    transport = world.client.role.node.transport
    for _ in range(3):
        assert world.clock.run_until(lambda: len(transport.relays) == 0, 15 * SECOND)
        assert world.clock.run_until(lambda: len(transport.relays) == 1, 2 * SECOND)
    (lost,) = transport.lost_relays
    assert lost.reason == "no response"
    world.network.blocked = free
    assert world.clock.run_until(lambda: bool(transport.relays.round_trips()), 6 * SECOND)


def test_a_relay_that_the_portal_took_back_is_not_tried_again():
    world = World(relays=1)
    block(world, "client")
    start_client_anew(world)
    gone = list(world.relays)
    world.relays.clear()
    world.portal.announce_relays(gone)
    world.clock.run_for(60 * SECOND)
    assert not len(world.client.role.node.transport.relays)
