"""What is missing or moves under the roles: relays, slots, the wall clock; and what they forget."""

import logging
from ipaddress import ip_address

import pytest
from packets import udp

from firezone.commands import SealPacket
from firezone.durations import HOUR, SECOND
from firezone.node.connection import WAITING_PACKETS
from firezone.node.slots import Slots
from firezone.sim import World
from firezone.sim.portal import CLIENT_ADDRESSES, CLIENT_ID, GATEWAY_ID
from firezone.sim.world import RESOURCE

ME, _ = CLIENT_ADDRESSES
SERVER = "10.9.0.1"


def request(n=0):
    return udp(ME, SERVER, 5000 + n, 53, b"q%d" % n)


def passes(world, packet):
    world.client.send_packet(packet)
    return world.clock.run_until(lambda: packet in world.gateway.tun, 5 * SECOND)


def connected(**options):
    world = World(**options)
    assert passes(world, request())
    world.clock.run_for(3 * SECOND)
    return world


def without_relays(world, peer):
    """The portal has none for it any more. Counts how often it connects anew."""
    ids = [relay.id for relay in world.relays]
    peer.role.node.update_relays(ids, (), world.clock.now)
    del world.relays[:]
    reconnects = []
    inner = peer.reconnect_portal
    peer.reconnect_portal = lambda: (reconnects.append(world.clock.now), inner())
    return reconnects


@pytest.mark.parametrize("kind", ["client", "gateway"])
def test_without_relays_the_portal_is_left_in_peace(kind):
    world = World()
    reconnects = without_relays(world, getattr(world, kind))
    for n in range(60):
        world.client.send_packet(request(n))
        world.clock.run_for(1 * SECOND)
    assert len(reconnects) == 3, "at once, then after 10 and 20 s more"
    first, second, third = reconnects
    assert second - first >= 10 * SECOND and third - second >= 20 * SECOND


def test_packets_wait_until_there_is_a_relay():
    world = World()
    relays = list(world.relays)
    without_relays(world, world.client)
    for n in range(5):
        world.client.send_packet(request(n))
        world.clock.run_for(1 * SECOND)
    world.relays.extend(relays)
    world.portal.announce_relays([])
    world.clock.run_for(1 * SECOND)
    assert passes(world, request(5))
    assert world.gateway.tun == [request(n) for n in range(6)]


def test_a_full_data_plane_is_told_of_once(caplog):
    world = World()
    world.gateway.role.node._directory.slots = Slots(1)
    with caplog.at_level(logging.WARNING):
        for n in range(10):
            world.client.send_packet(request(n))
            world.clock.run_for(1 * SECOND)
    assert world.gateway.role.counters["no room for a peer"] > 2
    assert [r.message for r in caplog.records] == ["no room for another peer"]
    assert world.gateway.role.node.slot_of(CLIENT_ID) is None
    world.gateway.role.node._directory.slots = Slots()
    assert passes(world, request(99)), "room comes back"


def test_packets_that_keep_coming_back_are_not_sealed_for_ever():
    world = World()
    world.client.send_packet(request())
    assert world.clock.run_until(lambda: world.client.events("handshake_done"))
    node = world.client.role.node
    for _ in range(10 * WAITING_PACKETS):
        node.handle_unroutable(1, request(), world.clock.now)
    sealed = list(iter(node.poll_command, None))
    assert 0 < sum(isinstance(command, SealPacket) for command in sealed) <= WAITING_PACKETS


def test_a_wall_clock_set_forward_ends_access_at_once():
    world = World()
    world.portal.expires_at = world.clock.unix_now // SECOND + HOUR // SECOND
    assert passes(world, request())
    world.gateway.role.handle_wall_clock(world.clock.unix_now + 2 * HOUR, world.clock.now)
    world.gateway.pump()
    world.clock.run_for(1 * SECOND)
    assert world.gateway.events("access_expired")
    world.gateway.tun.clear()
    assert not passes(world, request())


def test_a_wall_clock_set_back_prolongs_access():
    world = World()
    world.portal.expires_at = world.clock.unix_now // SECOND + 30
    assert passes(world, request())
    world.gateway.role.handle_wall_clock(world.clock.unix_now - HOUR, world.clock.now)
    world.gateway.pump()
    world.clock.run_for(60 * SECOND)
    assert not world.gateway.events("access_expired")
    world.gateway.tun.clear()
    assert passes(world, request())


def test_a_wall_clock_that_is_slewed_costs_nothing():
    world = connected()
    role = world.gateway.role
    for drift in (SECOND // 2, -SECOND // 2, SECOND):
        role.handle_wall_clock(world.clock.unix_now + drift, world.clock.now)
    assert role.poll_command() is None
    assert role.counters["steps of the wall clock"] == 0


def test_handshakes_stay_in_order_when_the_wall_clock_is_set_back():
    """The gateway remembers the latest timestamp of the client's key."""
    world = connected()
    client = world.client
    client.role.handle_wall_clock(world.clock.unix_now - HOUR, world.clock.now)
    client.role.node.close_connection(GATEWAY_ID, "test", world.clock.now)
    client.role.handle_timeout(world.clock.now)
    client.pump()
    done = len(client.events("handshake_done"))
    assert passes(world, request(1))
    assert len(client.events("handshake_done")) == done + 1


def test_a_gateway_forgets_who_may_do_nothing_and_is_not_there():
    world = connected()
    role = world.gateway.role
    world.portal.reject(RESOURCE)
    world.clock.run_for(1 * SECOND)
    assert role.peer_at(ip_address(ME)) == CLIENT_ID, "its packets are still to be answered"
    role.node.close_connection(CLIENT_ID, "test", world.clock.now)
    role.handle_timeout(world.clock.now)
    assert role.peer_at(ip_address(ME)) is None


def test_a_gateway_forgets_who_went_before_its_access_ended():
    world = World()
    world.portal.expires_at = world.clock.unix_now // SECOND + 60
    assert passes(world, request())
    world.client.tell_portal = lambda event, payload: None
    role = world.gateway.role
    role.node.close_connection(CLIENT_ID, "test", world.clock.now)
    role.handle_timeout(world.clock.now)
    assert role.peer_at(ip_address(ME)) == CLIENT_ID, "a grant outlives the connection"
    world.gateway.pump()
    world.clock.run_for(61 * SECOND)
    assert role.peer_at(ip_address(ME)) is None
