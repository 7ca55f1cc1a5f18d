"""A client that moves gets back what it reached, though it has nothing to send."""

import pytest
from packets import udp

from firezone.durations import MINUTE, SECOND
from firezone.sim import World
from firezone.sim.portal import CLIENT_ADDRESSES
from firezone.sim.world import RESOURCE, RESOURCE_V6

ME, _ = CLIENT_ADDRESSES
SERVER = "10.9.0.1"
RESPONSE = udp(SERVER, ME, 53, 5000, b"more")


def connected():
    world = World()
    world.client.send_packet(udp(ME, SERVER, 5000, 53, b"send me much"))
    assert world.clock.run_until(lambda: world.gateway.tun, 20 * SECOND)
    return world


def moved(*, gateway_is_back_after):
    """The client is at the portal again before the gateway is."""
    world = connected()
    world.portal._gateway = None
    world.client.role.reset(world.clock.now)
    world.client.pump()
    world.clock.at(
        world.clock.now + gateway_is_back_after, lambda: world.portal.join_gateway(world.gateway)
    )
    return world


def intents(world):
    return world.portal.requests.count("create_flow")


def is_granted(world):
    return RESOURCE.id in world.client.role._gateway_of


def test_a_gateway_that_is_back_later_is_asked_for_again_without_a_packet():
    world = moved(gateway_is_back_after=20 * SECOND)
    world.clock.run_for(19 * SECOND)
    assert world.client.events("flow_refused")
    assert world.clock.run_until(lambda: is_granted(world), 12 * SECOND)
    world.clock.run_for(5 * SECOND)
    world.gateway.send_packet(RESPONSE)
    assert world.clock.run_until(lambda: RESPONSE in world.client.tun, 5 * SECOND)
    before = intents(world)
    world.clock.run_for(2 * MINUTE)
    assert intents(world) == before


def test_an_answer_that_never_comes_is_asked_for_again():
    world = connected()
    world.client.role.reset(world.clock.now)
    push, world.portal._push = world.portal._push, lambda *_: None
    world.client.pump()
    world.portal._push = push
    authorize, world.portal._authorize = world.portal._authorize, lambda _: None
    world.portal._init_client(world.client)
    world.clock.run_for(2 * SECOND)
    world.portal._authorize = authorize
    assert world.clock.run_until(lambda: is_granted(world), 10 * SECOND)


def test_it_gives_up_after_minutes():
    world = moved(gateway_is_back_after=60 * MINUTE)
    world.clock.run_for(6 * MINUTE)
    before = intents(world)
    assert 30 < before < 40
    world.clock.run_for(10 * MINUTE)
    assert intents(world) == before


def test_a_resource_that_is_refused_is_not_asked_for_again():
    world = connected()
    world.client.role.reset(world.clock.now)
    world.client.pump()
    world.clock.run_for(6_000_000)
    del world.portal.resources[RESOURCE.id]
    world.clock.run_for(1 * MINUTE)
    assert world.client.events("flow_refused")
    assert intents(world) == 2


def test_a_move_in_the_middle_resumes_the_same():
    world = moved(gateway_is_back_after=40 * SECOND)
    world.clock.run_for(10 * SECOND)
    world.client.role.reset(world.clock.now)
    world.client.pump()
    assert world.clock.run_until(lambda: is_granted(world), 60 * SECOND)


def test_what_nobody_reached_is_not_asked_for():
    world = moved(gateway_is_back_after=5 * SECOND)
    world.clock.run_for(1 * MINUTE)
    assert RESOURCE_V6.id not in world.client.role._gateway_of


def lost_in_a_download(outage):
    """The client only listens; nobody's datagrams arrive for a while. The portal is there."""
    world = connected()

    def download(duration):
        end, before = world.clock.now + duration, len(world.client.tun)
        while world.clock.now < end:
            world.gateway.send_packet(RESPONSE)
            world.clock.run_for(SECOND // 10)
        return len(world.client.tun) - before

    assert download(5 * SECOND) > 40
    world.network.blocked = lambda source, destination: True
    assert not download(outage)
    world.network.blocked = lambda source, destination: False
    return world, download


@pytest.mark.parametrize("seconds", [19, 25, 40, 60, 200])
def test_a_download_goes_on_after_an_outage_of_any_length(seconds):
    """Its connection failed, and the relays were given up; the portal saw nothing of that."""
    world, download = lost_in_a_download(seconds * SECOND)
    download(15 * SECOND)
    assert world.client.events("connection_lost")
    assert download(5 * SECOND) > 40


def test_what_cannot_be_reached_is_not_asked_for_for_ever():
    world = connected()
    world.network.blocked = lambda source, destination: True
    world.clock.run_for(7 * MINUTE)
    before = intents(world)
    assert 10 < before < 40
    world.clock.run_for(10 * MINUTE)
    assert intents(world) == before


def test_a_connection_without_data_is_not_asked_for_when_it_fails():
    world = connected()
    world.clock.run_for(1 * MINUTE)
    world.network.blocked = lambda source, destination: True
    world.clock.run_for(5 * MINUTE)
    assert world.client.events("connection_lost")
    assert intents(world) == 1
