"""Peers that share a network beside the internet meet there, and many addresses cost nothing."""

from ipaddress import ip_address

import pytest
from packets import udp

from firezone.addresses import is_public
from firezone.durations import MILLISECOND, SECOND
from firezone.ice import CandidateKind, CheckState
from firezone.sim import NatKind, World
from firezone.sim.portal import CLIENT_ADDRESSES

ME, _ = CLIENT_ADDRESSES
SERVER = "10.9.0.1"
CLIENT_LAN, GATEWAY_LAN = ip_address("172.20.0.1"), ip_address("172.20.0.2")
EI, SYM = NatKind.ENDPOINT_INDEPENDENT, NatKind.SYMMETRIC
ROUND_TRIP = 50 * MILLISECOND


def linked(nat=SYM, **options):
    """Both hosts have a second interface, on the same network."""
    world = World(client_nat=nat, gateway_nat=nat, **options)
    world.client.host.link(CLIENT_LAN, world.gateway.host, GATEWAY_LAN)
    return world


def look(world):
    for peer in (world.client, world.gateway):
        peer.find_host_addresses()


def exchange(world, seconds=1):
    """Send a request every 100 ms; how many were answered."""
    world.client.tun.clear()
    for _ in range(10 * seconds):
        world.client.send_packet(udp(ME, SERVER, 5000, 53, b"q"))
        world.clock.run_for(50 * MILLISECOND)
        for _ in world.gateway.tun:
            world.gateway.send_packet(udp(SERVER, ME, 53, 5000, b"a"))
        world.gateway.tun.clear()
        world.clock.run_for(50 * MILLISECOND)
    return len(world.client.tun)


def path(world):
    chosen = world.client.events("path_chosen")[-1].fields
    return chosen["kind"], chosen["local"].rpartition(":")[0]


def test_peers_meet_on_the_network_that_they_share():
    world = linked()
    look(world)
    exchange(world, 5)
    assert path(world) == ("direct", str(CLIENT_LAN))


def test_without_a_look_they_do_not():
    world = linked()
    exchange(world, 5)
    assert path(world)[0] == "relayed"


@pytest.mark.parametrize("late", ["client", "gateway"])
def test_an_address_that_comes_later_helps_a_connection_that_stands(late):
    world = linked()
    early = "gateway" if late == "client" else "client"
    getattr(world, early).find_host_addresses()
    exchange(world, 20)
    assert path(world)[0] == "relayed"
    getattr(world, late).find_host_addresses()
    assert exchange(world, 3) == 30
    assert path(world) == ("direct", str(CLIENT_LAN))
    assert not world.client.events("connection_lost")


def test_they_go_on_while_the_internet_is_away():
    world = linked()
    look(world)
    exchange(world, 5)
    world.network.blocked = lambda source, destination: True
    assert exchange(world, 120) == 1200
    assert not world.client.events("connection_lost")


@pytest.mark.parametrize("who", ["client", "gateway"])
def test_an_address_that_goes_is_left_at_once(who):
    world = linked()
    look(world)
    exchange(world, 5)
    peer, own = getattr(world, who), CLIENT_LAN if who == "client" else GATEWAY_LAN
    peer.host.unlink(own)
    peer.find_host_addresses()
    world.clock.run_for(100 * MILLISECOND)
    assert exchange(world, 5) == 50
    assert path(world)[0] == "relayed"
    assert not world.client.events("connection_lost")


def test_who_moved_tells_the_addresses_of_the_new_sockets():
    world = linked()
    look(world)
    exchange(world, 5)
    world.client.role.reset(world.clock.now)
    world.client.pump()
    exchange(world, 10)
    assert path(world) == ("direct", str(CLIENT_LAN))


# What many addresses cost.


def crowded(client_nat, gateway_nat):
    """Seven more interfaces at each end, none of which leads to the other."""
    world = World(client_nat=client_nat, gateway_nat=gateway_nat)
    for n, peer in enumerate((world.client, world.gateway)):
        peer.host.more = [ip_address(f"172.{16 + n}.{m}.1") for m in range(7)]
    world.network.latency = ROUND_TRIP // 2
    world.portal.latency = ROUND_TRIP
    return world


def first_byte(world):
    """In round trips, from the first packet at the client to its arrival."""
    packet, start = udp(ME, SERVER, 5000, 53, b"q"), world.clock.now
    world.client.send_packet(packet)
    assert world.clock.run_until(lambda: packet in world.gateway.tun, 20 * SECOND)
    return (world.clock.now - start) / ROUND_TRIP


@pytest.mark.parametrize("nats", [(None, None), (EI, None), (EI, EI), (SYM, EI), (SYM, SYM)])
def test_many_addresses_do_not_delay_the_first_byte(nats):
    took, kinds = [], []
    for looks in (False, True):
        world = crowded(*nats)
        if looks:
            look(world)
        world.clock.run_for(5 * SECOND)
        took.append(first_byte(world))
        world.clock.run_for(20 * SECOND)
        kinds.append(path(world)[0])
    assert took[1] <= took[0]
    assert kinds[1] == kinds[0]


def test_many_addresses_cost_few_datagrams():
    """And those that lead nowhere, none once they have been tried."""
    world = crowded(SYM, SYM)
    look(world)
    world.clock.run_for(5 * SECOND)
    first_byte(world)
    world.clock.run_for(20 * SECOND)
    (c,) = world.client.role.node.connections()
    pairs = c.agent.pairs()
    assert 64 < len(pairs) <= 100
    assert len(c.remotes) <= 32
    assert all(pair.tally.sent <= 12 for pair in pairs if not pair.tally.answered)
    assert exchange(world, 5) >= 48  # two may be on their way
    again = c.agent.pairs()
    assert [pair.tally.sent for pair in again if not pair.tally.answered] == [
        pair.tally.sent for pair in pairs if not pair.tally.answered
    ]


def dead_ends(world):
    """The gateway's pairs that never worked."""
    (c,) = world.gateway.role.node.connections()
    return [pair for pair in c.agent.pairs() if not pair.tally.answered]


def test_the_gateway_gives_up_what_never_worked_once_it_has_a_path():
    world = crowded(EI, EI)
    look(world)
    world.clock.run_for(5 * SECOND)
    assert exchange(world, 120) >= 1190
    assert path(world)[0] == "direct"
    pairs = dead_ends(world)
    assert len(pairs) > 60
    assert {pair.state for pair in pairs} == {CheckState.FAILED}
    sent = [pair.tally.sent for pair in pairs]
    assert max(sent) <= 12
    exchange(world, 60)
    assert [pair.tally.sent for pair in dead_ends(world)] == sent
    # They are tried anew when their candidates are heard of once more, and then no longer.
    (c,) = world.client.role.node.connections()
    for candidate in c.agent.local_candidates():
        for peer in world.gateway.role.node.connections():
            world.gateway.role.node.add_remote_candidate(peer.id, candidate, world.clock.now)
    world.gateway.pump()
    exchange(world, 180)
    again = [pair.tally.sent for pair in dead_ends(world)]
    assert all(before < after <= before + 12 for before, after in zip(sent, again, strict=True))


def test_no_relay_is_asked_for_addresses_that_the_internet_does_not_know():
    """It would refuse them; all else is paired as ever."""
    world = crowded(EI, EI)
    look(world)
    world.clock.run_for(5 * SECOND)
    exchange(world, 20)
    for peer in (world.client, world.gateway):
        (c,) = peer.role.node.connections()
        relayed = [p for p in c.agent.pairs() if p.local.kind is CandidateKind.RELAYED]
        assert relayed
        assert all(is_public(p.remote.address.address) for p in relayed)
        for _, allocation in peer.role.node.transport.relays:
            assert not allocation.counters["error_403"]


@pytest.mark.parametrize("nat", [None, EI])
def test_a_family_that_comes_later_is_used_without_a_break(nat):
    """The client was started where there is IPv4 alone; the gateway can be reached by IPv6, too."""
    world = World(client_nat=nat, gateway_nat=nat, families=(4, 6))
    away = world.client.host.addresses.pop(6)
    world.client.role.reset(world.clock.now)
    world.client.pump()
    look(world)
    exchange(world, 20)
    assert not direct_by_ipv6(world)
    world.client.host.addresses[6] = away
    look(world)
    assert exchange(world, 10) >= 99
    assert direct_by_ipv6(world)
    assert not world.client.events("connection_lost")


def direct_by_ipv6(world):
    (c,) = world.client.role.node.connections()
    ours = [pair for pair in c.agent.pairs() if pair.local.kind is CandidateKind.HOST]
    return [pair for pair in ours if pair.local.family == 6 and pair.tally.answered]
