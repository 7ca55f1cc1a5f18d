"""How many round trips a new connection costs, and that peers without a fast start are no loss."""

import pytest
from packets import udp

from firezone.durations import MILLISECOND, SECOND
from firezone.sim import NatKind, World
from firezone.sim.portal import CLIENT_ADDRESSES

ME, _ = CLIENT_ADDRESSES
SERVER = "10.9.0.1"
EI, SYM = NatKind.ENDPOINT_INDEPENDENT, NatKind.SYMMETRIC
ROUND_TRIP = 50 * MILLISECOND
SLACK = 5 * MILLISECOND
"""Initiations are no closer to each other, and all ways compete."""


def settled(client_nat, gateway_nat, hop=ROUND_TRIP // 2, signalling=ROUND_TRIP):
    """Each datagram takes half a round trip, each message through the portal a whole one."""
    world = World(
        client_nat=client_nat, gateway_nat=gateway_nat, latency=hop, portal_latency=signalling
    )
    world.clock.run_for(5 * SECOND)
    return world


def first_byte(world):
    """In round trips, from the first packet at the client to its arrival."""
    packet, start = udp(ME, SERVER, 5000, 53, b"q"), world.clock.now
    world.client.send_packet(packet)
    assert world.clock.run_until(lambda: packet in world.gateway.tun, 20 * SECOND)
    answer = udp(SERVER, ME, 53, 5000, b"a")
    arrived = world.clock.now
    world.gateway.send_packet(answer)
    assert world.clock.run_until(lambda: answer in world.client.tun, 20 * SECOND)
    return (arrived - start) / ROUND_TRIP


def kind(world):
    return world.client.events("path_chosen")[-1].fields["kind"]


@pytest.mark.parametrize(
    ("client_nat", "gateway_nat", "at_most", "path"),
    [
        # Two are the portal's: intent and authorization, answer and flow.
        (None, None, 3.5, "direct"),
        (EI, None, 3.5, "direct"),
        (SYM, None, 3.5, "direct"),
        # The gateway's NAT opens when the client's candidates have come, a round trip later.
        (EI, EI, 4, "direct"),
        # A relay doubles every way, two relays treble it.
        (SYM, EI, 5, "relayed"),
        # And the gateway's own lets nobody in before the client's candidates have come.
        (EI, SYM, 6, "relayed"),
        (SYM, SYM, 7, "relayed"),
    ],
)
def test_round_trips_from_the_first_packet_to_its_arrival(client_nat, gateway_nat, at_most, path):
    world = settled(client_nat, gateway_nat)
    assert first_byte(world) <= at_most
    world.clock.run_for(5 * SECOND)
    assert kind(world) == path


@pytest.mark.parametrize("nats", [(None, None), (EI, EI), (SYM, EI), (SYM, SYM)])
def test_four_round_trips_beside_the_request_to_the_portal(nats):
    """With a portal that is half as far, direct paths take no more than four."""
    world = settled(*nats, signalling=ROUND_TRIP // 2)
    assert first_byte(world) <= {(EI, EI): 3.5, (SYM, EI): 4.5, (SYM, SYM): 6.5}.get(nats, 3)


NETWORKS = [(None, None), (EI, EI), (SYM, EI), (EI, SYM), (SYM, SYM)]


def minimum(nats, hop, signalling):
    """What no protocol of this kind gets below (docs/ice.md): the client knows the gateway after
    two messages through the portal, the gateway the client after three; then a handshake of two
    messages, and the data."""
    client_nat, gateway_nat = nats
    known_to_client, known_to_gateway = 2 * signalling, 3 * signalling
    if gateway_nat is None:
        return known_to_client + 3 * hop
    if (
        gateway_nat is EI
    ):  # opens when it knows the client; of its way the client's part may be done
        way = 2 * hop if client_nat is SYM else hop
        return max(known_to_client + way, known_to_gateway) + 2 * way
    # Its relay opens a hop later, and the last hop is still to go.
    way = 3 * hop if client_nat is SYM else 2 * hop
    return max(known_to_client + way - hop, known_to_gateway + hop) + hop + 2 * way


@pytest.mark.parametrize("nats", NETWORKS)
@pytest.mark.parametrize(
    ("signalling_ms", "hop_ms"),
    [(50, 25), (20, 10), (30, 5), (100, 25), (50, 50), (200, 50), (300, 20), (37, 13), (110, 7)],
)
def test_nothing_is_lost_beside_the_minimum(nats, signalling_ms, hop_ms):
    """Whatever the latencies are: the initiation is sent when it can first pass."""
    hop, signalling = hop_ms * MILLISECOND, signalling_ms * MILLISECOND
    least = minimum(nats, hop, signalling)
    took = first_byte(settled(*nats, hop, signalling)) * ROUND_TRIP
    assert least <= round(took) <= least + SLACK


@pytest.mark.parametrize("nats", NETWORKS)
@pytest.mark.parametrize("late_ms", [60, 110, 330, 700])
def test_candidates_that_come_late_cost_that_and_a_round_trip_of_the_path(nats, late_ms):
    """What the portal's answer told of its latency is wrong then."""
    hop, late = ROUND_TRIP // 2, late_ms * MILLISECOND
    world = settled(*nats)
    tell = world.client.tell_portal

    def tell_late(event, payload):
        delay = late if event == "broadcast_ice_candidates" else 0
        world.clock.at(world.clock.now + delay, lambda: tell(event, payload))

    world.client.tell_portal = tell_late
    hops = 1 + (nats[0] is SYM) + (nats[1] is SYM)
    least = minimum(nats, hop, ROUND_TRIP)
    most = least if nats[1] is None else least + late + 2 * hops * hop + SLACK
    assert round(first_byte(world) * ROUND_TRIP) <= most


def test_data_flows_over_the_relay_first_and_directly_later():
    world = settled(EI, EI)
    free = world.network.blocked
    world.block_direct()
    assert first_byte(world) <= 5
    (c,) = world.client.role.node.connections()
    assert c.established and not c.way.is_direct
    world.network.blocked = free
    world.clock.run_for(10 * SECOND)
    assert kind(world) == "direct"
    assert not world.client.events("connection_lost")


def drops_until_nominated(world):
    """A peer that takes handshakes only once ICE has nominated."""
    node = world.gateway.role.node
    take = node.handshakes.handle_message
    dropped = []

    def handle(arrival, now):
        if all(c.pair is not None for c in node.connections()):
            return take(arrival, now)
        dropped.append(arrival)
        return None

    node.handshakes.handle_message = handle
    return dropped


def keeps_until_nominated(world):
    """A peer that takes handshakes at once, but answers only once ICE has nominated, and answers
    nothing twice."""
    handshakes = world.gateway.role.node.handshakes
    handshakes._answer_again = lambda arrival, now: False
    handshakes._adopt_preliminary = lambda c, way, now: None
    drain = handshakes.drain
    kept = []

    def drain_later(c, arrival, now):
        if c.pair is None:
            kept.append(c)
        else:
            drain(c, None, now)

    handshakes.drain = drain_later
    return kept


@pytest.mark.parametrize("nats", [(None, None), (EI, EI), (SYM, EI), (SYM, SYM)])
@pytest.mark.parametrize("old_peer", [drops_until_nominated, keeps_until_nominated])
def test_a_peer_without_a_fast_start_is_reached_when_ice_has_nominated(old_peer, nats):
    world = settled(*nats)
    held_back = old_peer(world)
    at_most = {(None, None): 5.5, (EI, EI): 6, (SYM, EI): 8, (SYM, SYM): 10.5}[nats]
    assert first_byte(world) <= at_most
    assert held_back


def test_a_connection_that_ice_cannot_make_fails_as_ever():
    """A handshake is no substitute: what only it can pass has no way to notice its end."""
    world = settled(EI, EI)
    dropped = drops_until_nominated(world)
    world.network.blocked = lambda source, destination: True
    world.client.send_packet(udp(ME, SERVER, 5000, 53, b"q"))
    world.clock.run_for(60 * SECOND)
    assert not dropped and not list(world.client.role.node.connections())
