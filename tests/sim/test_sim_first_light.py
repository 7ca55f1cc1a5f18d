"""A client and a gateway on a virtual network: paths, packets, policy."""

import pytest
from packets import ping, tcp, udp

from firezone.durations import SECOND
from firezone.ice import Candidate
from firezone.model import Endpoint
from firezone.sim import NatKind, World
from firezone.sim.portal import CLIENT_ADDRESSES, GATEWAY_ADDRESSES
from firezone.sim.world import RESOURCE, RESOURCE_V6

ME, ME6 = CLIENT_ADDRESSES
SERVER, SERVER6 = "10.9.0.1", "fd09::1"
EI, SYM = NatKind.ENDPOINT_INDEPENDENT, NatKind.SYMMETRIC


def round_trip(world, request, response):
    """The request comes out at the gateway, and the response at the client."""
    world.client.send_packet(request)
    assert world.clock.run_until(lambda: request in world.gateway.tun, 20 * SECOND)
    world.gateway.send_packet(response)
    assert world.clock.run_until(lambda: response in world.client.tun, 5 * SECOND)


def path(world):
    return world.client.events("path_chosen")[-1].fields["kind"]


@pytest.mark.parametrize(
    ("client_nat", "gateway_nat", "expected"),
    [
        (None, None, "direct"),
        (EI, EI, "direct"),
        (EI, None, "direct"),
        (None, SYM, "direct"),
        (SYM, SYM, "relayed"),
    ],
)
def test_the_path_is_the_best_that_the_nats_allow(client_nat, gateway_nat, expected):
    world = World(client_nat=client_nat, gateway_nat=gateway_nat)
    round_trip(world, udp(ME, SERVER, 5000, 53, b"q"), udp(SERVER, ME, 53, 5000, b"a"))
    world.clock.run_for(5 * SECOND)
    assert path(world) == expected


@pytest.mark.parametrize("families", [(4,), (6,), (4, 6)])
@pytest.mark.parametrize("inside", [4, 6])
def test_both_families_inside_and_outside(families, inside):
    world = World(families=families)
    if inside == 4:
        round_trip(world, tcp(ME, SERVER, 5000, 80), tcp(SERVER, ME, 80, 5000, 0x12))
    else:
        round_trip(world, tcp(ME6, SERVER6, 5000, 80), tcp(SERVER6, ME6, 80, 5000, 0x12))


def test_over_the_relay_when_direct_is_blocked():
    world = World()
    world.block_direct()
    round_trip(world, udp(ME, SERVER, 5000, 53, b"q"), udp(SERVER, ME, 53, 5000, b"a"))
    assert path(world) == "relayed"


def test_all_packets_that_waited_arrive_in_order():
    world = World()
    sent = [udp(ME, SERVER, 5000, 53, bytes([n])) for n in range(50)]
    for packet in sent:
        world.client.send_packet(packet)
    world.clock.run_for(5 * SECOND)
    assert world.gateway.tun == sent


def test_established_flows_do_not_come_to_python():
    world = World()
    round_trip(world, udp(ME, SERVER, 5000, 53, b"q"), udp(SERVER, ME, 53, 5000, b"a"))
    missed = []
    for peer in (world.client, world.gateway):
        peer.role.handle_flow_missed = lambda *args: missed.append(args)
    round_trip(world, udp(ME, SERVER, 5000, 53, b"2"), udp(SERVER, ME, 53, 5000, b"b"))
    assert missed == []


@pytest.mark.parametrize("destination", ["10.8.0.1", "100.64.0.77"])
def test_what_no_resource_covers_is_refused_at_once(destination):
    world = World()
    world.client.send_packet(udp(ME, destination, 5000, 53))
    assert [packet[20:22] for packet in world.client.tun] == [b"\x03\x0d"]
    world.clock.run_for(2 * SECOND)
    assert world.portal.requests == []


def test_a_denied_resource_is_refused_at_once():
    world = World()
    del world.portal.resources[RESOURCE.id]
    request = tcp(ME, SERVER, 5000, 80)
    world.client.send_packet(request)
    assert world.clock.run_until(lambda: world.client.tun, 1 * SECOND)
    assert world.client.tun[0][20:22] == b"\x03\x0d"
    assert world.client.events("flow_refused")[0].fields["reason"] == "forbidden"


def test_revoking_bites_on_the_next_packet():
    world = World()
    request = udp(ME, SERVER, 5000, 53, b"q")
    round_trip(world, request, udp(SERVER, ME, 53, 5000, b"a"))
    world.portal.reject(RESOURCE)
    world.clock.run_for(1 * SECOND)
    before = len(world.gateway.tun)
    world.client.tun.clear()
    world.client.send_packet(request)
    world.clock.run_for(1 * SECOND)
    assert len(world.gateway.tun) == before
    assert [p[20:22] for p in world.client.tun] == [b"\x03\x0d"]


def test_replies_to_a_revoked_flow_are_dropped_too():
    world = World()
    response = udp(SERVER, ME, 53, 5000, b"a")
    round_trip(world, udp(ME, SERVER, 5000, 53, b"q"), response)
    world.portal.reject(RESOURCE)
    world.clock.run_for(1 * SECOND)
    world.client.tun.clear()
    world.gateway.send_packet(response)
    world.clock.run_for(1 * SECOND)
    assert world.client.tun == []


def test_access_expires_without_a_word_of_the_portal():
    world = World()
    world.portal.expires_at = world.clock.unix_now // SECOND + 30
    request = udp(ME, SERVER, 5000, 53, b"q")
    round_trip(world, request, udp(SERVER, ME, 53, 5000, b"a"))
    world.clock.run_for(31 * SECOND)
    before = len(world.gateway.tun)
    world.client.send_packet(request)
    world.clock.run_for(1 * SECOND)
    assert len(world.gateway.tun) == before
    assert world.gateway.events("access_expired")


def test_an_expiry_may_be_moved():
    world = World()
    world.portal.expires_at = world.clock.unix_now // SECOND + 30
    request = udp(ME, SERVER, 5000, 53, b"q")
    round_trip(world, request, udp(SERVER, ME, 53, 5000, b"a"))
    world.portal.set_expiry(RESOURCE, world.clock.unix_now // SECOND + 300)
    world.clock.run_for(60 * SECOND)
    round_trip(world, udp(ME, SERVER, 5000, 53, b"2"), udp(SERVER, ME, 53, 5000, b"b"))


def test_a_foreign_source_is_refused_by_the_gateway():
    world = World()
    round_trip(world, ping(ME, SERVER), ping(SERVER, ME))
    forged = udp("100.64.0.9", SERVER, 5000, 53)
    slot = next(iter(world.client.role.node.connections())).slot
    before = len(world.gateway.tun)
    world.client.role.node.send_packet(slot, forged, world.clock.now)
    world.client.pump()
    world.clock.run_for(1 * SECOND)
    assert len(world.gateway.tun) == before
    assert world.gateway.role.counters["packet with a foreign source"] == 1


def test_a_gateway_may_not_speak_for_others():
    world = World()
    round_trip(world, ping(ME, SERVER), ping(SERVER, ME))
    slot = next(iter(world.gateway.role.node.connections())).slot
    world.client.tun.clear()
    world.gateway.role.node.send_packet(slot, udp("10.8.0.1", ME, 53, 5000), world.clock.now)
    world.gateway.pump()
    world.clock.run_for(1 * SECOND)
    assert world.client.tun == []


def test_the_gateway_itself_can_be_pinged():
    world = World()
    round_trip(world, ping(ME, SERVER), ping(SERVER, ME))
    gateway, _ = GATEWAY_ADDRESSES
    round_trip(world, ping(ME, gateway, 7), ping(gateway, ME, 7))


def test_removing_a_resource_ends_its_flows_and_no_others():
    world = World()
    round_trip(world, ping(ME, SERVER), ping(SERVER, ME))
    round_trip(world, ping(ME6, SERVER6), ping(SERVER6, ME6))
    views = [r for r in world.portal.resources.values() if r is not RESOURCE]
    world.portal.resources = {r.id: r for r in views}
    world.client.reconnect_portal()
    world.clock.run_for(1 * SECOND)
    before = len(world.gateway.tun)
    world.client.send_packet(ping(ME, SERVER))
    world.clock.run_for(1 * SECOND)
    assert len(world.gateway.tun) == before
    round_trip(world, ping(ME6, SERVER6, 2), ping(SERVER6, ME6, 2))
    assert RESOURCE_V6.id in world.portal.resources


def test_equal_seeds_give_equal_runs():
    def run():
        world = World(seed=7, client_nat=SYM)
        round_trip(world, ping(ME, SERVER), ping(SERVER, ME))
        world.clock.run_for(30 * SECOND)
        return world.network.counters, world.client.progress, world.clock.now

    assert run() == run()


def test_a_peer_cannot_use_up_the_relays_channels():
    world = World()
    round_trip(world, ping(ME, SERVER), ping(SERVER, ME))
    (connection,) = world.gateway.role.node.connections()
    for n in range(500):
        address = Endpoint.of(f"198.18.{n // 250}.{n % 250 + 1}", 4000)
        candidate = Candidate.server_reflexive(address, address)
        world.gateway.role.node.add_remote_candidate(connection.id, candidate, world.clock.now)
    world.gateway.pump()
    world.clock.run_for(2 * SECOND)
    assert world.gateway.role.node.counters["too many candidates"] > 400
    assert max(relay.machine.channel_count for relay in world.relays) < 100
    round_trip(world, ping(ME, SERVER, 2), ping(SERVER, ME, 2))
