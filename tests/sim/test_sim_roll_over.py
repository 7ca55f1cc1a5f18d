"""Sessions roll over, peers restart, relays go and come: what flows, keeps flowing."""

import pytest
from packets import udp

from firezone.commands import InstallKeypair
from firezone.durations import MILLISECOND, MINUTE, SECOND
from firezone.noise import RateLimiter
from firezone.sim import NatKind, World
from firezone.sim.portal import CLIENT_ADDRESSES
from firezone.sim.world import RESOURCE

ME, _ = CLIENT_ADDRESSES
SERVER = "10.9.0.1"


def request(n=0):
    return udp(ME, SERVER, 5000, 53, n.to_bytes(4, "big"))


def connected(**options):
    world = World(**options)
    world.client.send_packet(request())
    assert world.clock.run_until(lambda: world.gateway.tun, 20 * SECOND)
    world.clock.run_for(3 * SECOND)
    return world


def count_keypairs(peer):
    """Counts what is installed from now on."""
    installed = []
    apply = peer.dataplane.apply

    def counting(command, now):
        if isinstance(command, InstallKeypair):
            installed.append(command)
        apply(command, now)

    peer.dataplane.apply = counting
    return installed


def upsert(world):
    """The portal creates the flow once more, as for another resource of the gateway."""
    world.client.role._pending.wait(RESOURCE.id, request(999), world.clock.now)
    world.portal._authorize(RESOURCE.id)
    world.clock.run_for(100 * MILLISECOND)


def test_an_upsert_starts_a_new_session_and_loses_nothing_in_flight():
    world = connected()
    world.clock.run_for(30 * SECOND)
    installed = count_keypairs(world.client)
    world.gateway.tun.clear()
    world.portal._authorize(RESOURCE.id)
    world.client.role._pending.wait(RESOURCE.id, request(0), world.clock.now)
    for n in range(1, 100):
        world.client.send_packet(request(n))
        world.clock.run_for(2 * MILLISECOND)
    world.clock.run_for(1 * SECOND)
    assert len(installed) == 1
    assert {request(n) for n in range(100)} <= set(world.gateway.tun)


def test_a_hundred_rapid_upserts_make_one_handshake():
    world = connected()
    world.clock.run_for(30 * SECOND)
    installed = count_keypairs(world.client)
    for _ in range(100):
        upsert(world)
    assert len(installed) == 1


def test_no_handshake_while_one_is_in_progress():
    world = connected()
    world.clock.run_for(30 * SECOND)
    world.network.blocked = lambda source, destination: True
    connection = next(iter(world.client.role.node.connections()))
    upsert(world)
    first = connection.last_proactive
    assert connection.tunnel.handshake_in_progress
    connection.last_proactive = None
    upsert(world)
    assert connection.last_proactive is None
    assert first is not None


def test_the_responder_sends_under_the_new_session_only_after_its_first_data():
    world = connected()
    world.clock.run_for(30 * SECOND)
    slot = next(iter(world.gateway.role.node.connections())).slot
    before = world.gateway.dataplane.activity(slot).current_index
    upsert(world)
    world.clock.run_for(1 * SECOND)
    assert world.gateway.dataplane.activity(slot).current_index != before


def test_a_gateway_that_lost_its_state_serves_again_after_the_next_upsert():
    world = connected()
    world.clock.run_for(30 * SECOND)
    world.restart_gateway()
    world.clock.run_for(1 * SECOND)
    start = world.clock.now
    world.client.role._pending.wait(RESOURCE.id, request(7), world.clock.now)
    world.portal._authorize(RESOURCE.id)
    assert world.clock.run_until(lambda: request(7) in world.gateway.tun, 10 * SECOND)
    assert world.clock.now - start < 2 * SECOND


def test_a_gateway_that_restarted_with_the_same_key_is_found_by_a_handshake():
    """The connection is the same one to the client: only a new session heals it."""
    world = connected()
    world.clock.run_for(30 * SECOND)
    old = world.gateway.role.node.handshakes.static
    world.restart_gateway()
    handshakes = world.gateway.role.node.handshakes
    handshakes.static = old
    handshakes.limiter = RateLimiter(old.public, world.entropy, now=world.clock.now)
    world.gateway.dataplane = world.gateway._make_dataplane()
    world.clock.run_for(100 * MILLISECOND)
    start = world.clock.now
    upsert(world)
    world.client.send_packet(request(8))
    assert world.clock.run_until(lambda: request(8) in world.gateway.tun, 10 * SECOND)
    assert world.clock.now - start < 2 * SECOND


def test_a_goodbye_makes_the_client_ask_again_at_once():
    world = connected()
    world.gateway.role.shut_down(world.clock.now)
    world.gateway.pump()
    world.clock.run_for(100 * MILLISECOND)
    world.restart_gateway()
    world.clock.run_for(1 * SECOND)
    start = world.clock.now
    world.client.send_packet(request(9))
    assert world.clock.run_until(lambda: request(9) in world.gateway.tun, 10 * SECOND)
    assert world.clock.now - start < 1 * SECOND


def test_a_dead_gateway_is_noticed_and_asked_for_again():
    world = connected()
    world.restart_gateway()
    for n in range(1, 40):
        world.client.send_packet(request(n))
        world.clock.run_for(1 * SECOND)
    assert world.client.events("connection_lost")
    assert request(39) in world.gateway.tun


def test_traffic_survives_the_rekey():
    world = connected()
    for n in range(1, 300):
        world.client.send_packet(request(n))
        world.clock.run_for(1 * SECOND)
    world.clock.run_for(1 * SECOND)
    assert set(world.gateway.tun) >= {request(n) for n in range(300)}


def test_traffic_goes_on_after_a_long_silence():
    world = connected()
    world.clock.run_for(12 * MINUTE)
    world.client.send_packet(request(5))
    assert world.clock.run_until(lambda: request(5) in world.gateway.tun, 10 * SECOND)


@pytest.mark.parametrize("nat", [NatKind.ENDPOINT_INDEPENDENT, NatKind.SYMMETRIC])
def test_a_relayed_connection_outlives_its_channels_and_credentials_refreshes(nat):
    world = connected(client_nat=nat, gateway_nat=NatKind.SYMMETRIC)
    for n in range(1, 130):
        world.client.send_packet(request(n))
        world.clock.run_for(10 * SECOND)
    world.clock.run_for(1 * SECOND)
    lost = {n for n in range(1, 130) if request(n) not in world.gateway.tun}
    assert lost == set()


def test_traffic_does_not_need_the_portal():
    world = connected()
    world.portal.is_down = True
    for n in range(1, 200):
        world.client.send_packet(request(n))
        world.clock.run_for(1 * SECOND)
    assert request(199) in world.gateway.tun


def test_a_direct_path_falls_back_to_the_relay_when_it_breaks():
    world = connected()
    assert world.client.events("path_chosen")[-1].fields["kind"] == "direct"
    world.block_direct()
    delivered = 0
    for n in range(1, 30):
        world.client.send_packet(request(n))
        world.clock.run_for(1 * SECOND)
    delivered = sum(request(n) in world.gateway.tun for n in range(20, 30))
    assert delivered == 10
    assert world.client.events("path_chosen")[-1].fields["kind"] == "relayed"
    assert not world.client.events("connection_lost")


def test_a_relay_that_restarts_under_the_same_id_is_used_again():
    world = World(relays=1)
    world.block_direct()
    world.client.send_packet(request())
    assert world.clock.run_until(lambda: world.gateway.tun, 20 * SECOND)
    (relay,) = world.relays
    relay.restart()
    world.portal.announce_relays(gone=[relay])
    for n in range(1, 40):
        world.client.send_packet(request(n))
        world.clock.run_for(1 * SECOND)
    assert request(39) in world.gateway.tun
    assert not world.client.events("connection_lost")


def test_a_relay_that_goes_away_is_replaced_by_another():
    world = World(relays=1)
    world.block_direct()
    world.client.send_packet(request())
    assert world.clock.run_until(lambda: world.gateway.tun, 20 * SECOND)
    (old,) = world.relays
    new = world._make_relay(5, (4,))
    world.relays[:] = [new]
    world.block_direct()
    world.network.detach(old.host)
    world.portal.announce_relays(gone=[old])
    for n in range(1, 40):
        world.client.send_packet(request(n))
        world.clock.run_for(1 * SECOND)
    assert request(39) in world.gateway.tun


def test_reset_connects_anew_with_a_new_key():
    world = connected()
    key = world.client.role.node.public_key
    world.client.role.reset(world.clock.now)
    world.client.pump()
    assert world.client.role.node.public_key != key
    world.clock.run_for(1 * SECOND)
    world.client.send_packet(request(3))
    assert world.clock.run_until(lambda: request(3) in world.gateway.tun, 10 * SECOND)


@pytest.mark.parametrize("who", ["client", "gateway"])
def test_who_loses_a_family_keeps_its_sessions(who):
    world = connected(families=(4, 6))
    peer = getattr(world, who)
    key = peer.role.node.public_key
    installed = count_keypairs(world.client)
    peer.role.lose_family()
    peer.pump()
    for n in range(1, 30):
        world.client.send_packet(request(n))
        world.clock.run_for(200 * MILLISECOND)
        assert request(n) in world.gateway.tun
    assert peer.role.node.public_key == key
    assert not installed
    assert not world.client.events("connection_lost")
