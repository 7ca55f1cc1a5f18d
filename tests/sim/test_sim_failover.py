"""A path that dies under traffic is left at once; one that only loses packets is kept."""

import itertools
import random

import pytest
from packets import udp

from firezone.durations import MILLISECOND, MINUTE, SECOND
from firezone.sim import NatKind, World
from firezone.sim.portal import CLIENT_ADDRESSES

ME, _ = CLIENT_ADDRESSES
SERVER = "10.9.0.1"


def request(n):
    return udp(ME, SERVER, 5000, 53, n.to_bytes(4, "big"))


class Traffic:
    """Requests at a pace, each of which the gateway's side answers, if `echo`."""

    def __init__(self, world, pace, echo=True):
        self.world, self.pace, self.echo = world, pace, echo
        self.sent = 0
        self.answered_at = []
        self.received_at = []

    def run(self, duration):
        end = self.world.clock.now + duration
        while self.world.clock.now < end:
            self.sent += 1
            self.world.client.send_packet(request(self.sent))
            stop = self.world.clock.now + self.pace
            while self.world.clock.now < stop:
                self.world.clock.run_for(min(10 * MILLISECOND, stop - self.world.clock.now))
                self._exchange()

    def _exchange(self):
        now = self.world.clock.now
        for _ in self.world.gateway.tun:
            self.received_at.append(now)
            if self.echo:
                self.world.gateway.send_packet(udp(SERVER, ME, 53, 5000, b"yes"))
        self.world.gateway.tun.clear()
        self.answered_at += [now for _ in self.world.client.tun]
        self.world.client.tun.clear()


def longest_gap(times, start, end):
    inside = [start, *(t for t in times if start <= t <= end), end]
    return max(b - a for a, b in itertools.pairwise(inside))


def paths(world):
    return [p.fields["kind"] for p in world.client.events("path_chosen")]


def settled(pace=100 * MILLISECOND, echo=True, **options):
    world = World(**options)
    traffic = Traffic(world, pace, echo)
    traffic.run(5 * SECOND)
    assert paths(world)[-1] == "direct"
    return world, traffic


@pytest.mark.parametrize("pace_ms", [20, 100, 500, 1000])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_direct_path_that_dies_is_left_in_two_seconds(pace_ms, seed):
    world, traffic = settled(pace_ms * MILLISECOND, seed=seed)
    start = world.clock.now
    world.block_direct()
    traffic.run(20 * SECOND)
    end = world.clock.now
    assert paths(world)[-1] == "relayed"
    assert longest_gap(traffic.answered_at, start, end) < 2 * SECOND + pace_ms * MILLISECOND
    assert not world.client.events("connection_lost")


EI, SYM = NatKind.ENDPOINT_INDEPENDENT, NatKind.SYMMETRIC


@pytest.mark.parametrize("nats", [(EI, EI), (SYM, EI), (EI, SYM), (SYM, SYM)])
@pytest.mark.parametrize("whose", ["client", "gateway"])
@pytest.mark.parametrize("seed", [1, 3])
def test_a_relay_that_dies_is_left_in_two_seconds(nats, whose, seed):
    """Also if it is the only one that both of them had."""
    client_nat, gateway_nat = nats
    world = World(seed=seed, client_nat=client_nat, gateway_nat=gateway_nat)
    world.block_direct()
    traffic = Traffic(world, 100 * MILLISECOND)
    traffic.run(5 * SECOND)
    (c,) = getattr(world, whose).role.node.connections()
    dead = next(r.address(4) for r in world.relays if r.id == c.relay)
    free, start = world.network.blocked, world.clock.now
    world.network.blocked = lambda s, d: free(s, d) or dead in (s.address, d.address)
    traffic.run(15 * SECOND)
    assert longest_gap(traffic.answered_at, start, world.clock.now) < 2.1 * SECOND
    assert not world.client.events("connection_lost")


def test_what_broke_one_direct_path_is_not_tried_on_the_next_one():
    world, traffic = settled(families=(4, 6))
    before = len(paths(world))
    start = world.clock.now
    world.block_direct()
    traffic.run(20 * SECOND)
    assert paths(world)[before:] == ["relayed"]
    assert longest_gap(traffic.answered_at, start, world.clock.now) < 3 * SECOND


@pytest.mark.parametrize("direction", ["to the gateway", "to the client"])
def test_half_a_path_is_no_path(direction):
    world, traffic = settled()
    relays = {a for relay in world.relays for a in relay.host.addresses.values()}
    host = world._gateway_host if direction == "to the gateway" else world._client_host
    world.network.blocked = lambda s, d: s.address not in relays and d.address in host.nat.addresses
    start = world.clock.now
    traffic.run(20 * SECOND)
    assert longest_gap(traffic.answered_at, start, world.clock.now) < 3 * SECOND


@pytest.mark.parametrize("blocked, patience", [(5, 30), (20, 45), (60, 90), (720, 300)])
def test_the_direct_path_is_used_again_when_it_works_again(blocked, patience):
    """However long ago both ends have given it up."""
    world, traffic = settled(SECOND)
    world.block_direct()
    traffic.run(blocked * SECOND)
    assert paths(world)[-1] == "relayed"
    world.network.blocked = lambda s, d: False
    start = world.clock.now
    traffic.run(patience * SECOND)
    assert paths(world)[-1] == "direct"
    assert longest_gap(traffic.answered_at, start, world.clock.now) < 2 * SECOND


@pytest.mark.parametrize("after", [0, 14, 29, 34])
def test_looking_for_a_direct_path_does_not_hide_that_the_peer_is_gone(after):
    """Direct paths are tried again 15 and 45 s after the relayed one was taken."""
    world = World(client_nat=SYM, gateway_nat=SYM)
    traffic = Traffic(world, 500 * MILLISECOND)
    traffic.run((5 + after) * SECOND)
    assert paths(world)[-1] == "relayed"
    world.gateway.kill()
    traffic.run(20 * SECOND)
    assert world.client.events("connection_lost"), "16.5 s and 2 s of grace"


@pytest.mark.parametrize("loss", [20, 30])
@pytest.mark.parametrize("pace_ms", [50, 400, 1500])
def test_loss_alone_moves_nothing(loss, pace_ms):
    world, traffic = settled(pace_ms * MILLISECOND)
    before = len(paths(world))
    dice = random.Random(loss * pace_ms)
    world.network.blocked = lambda s, d: dice.randrange(100) < loss
    traffic.run(2 * MINUTE)
    assert len(paths(world)) - before <= 2
    assert paths(world)[-1] == "direct"


@pytest.mark.parametrize("seed", range(8))
def test_loss_in_both_directions_rarely_moves_anything(seed):
    """With 30 % lost each way two minutes long, at most one excursion."""
    world, traffic = settled(200 * MILLISECOND, seed=seed)
    before = len(paths(world))
    dice = random.Random(seed)
    world.network.blocked = lambda s, d: dice.randrange(100) < 30
    traffic.run(2 * MINUTE)
    assert len(paths(world)) - before <= 2


def test_traffic_that_nobody_answers_moves_nothing():
    world, traffic = settled(echo=False)
    before = paths(world)
    traffic.run(1 * MINUTE)
    assert paths(world) == before
    assert longest_gap(traffic.received_at, 0, world.clock.now) or traffic.received_at


def test_an_unanswered_stream_of_data_costs_few_checks():
    world, traffic = settled(echo=False)
    sent = world.network.counters["sent"]
    packets = traffic.sent
    traffic.run(1 * MINUTE)
    extra = world.network.counters["sent"] - sent - (traffic.sent - packets)
    quiet, answered = settled()
    sent, packets = quiet.network.counters["sent"], answered.sent
    answered.run(1 * MINUTE)
    usual = quiet.network.counters["sent"] - sent - 2 * (answered.sent - packets)
    assert extra < 2.5 * usual


def test_a_path_that_comes_and_goes_is_not_followed():
    world, traffic = settled()
    before = len(paths(world))
    free = world.network.blocked
    for _ in range(18):
        world.block_direct()
        traffic.run(5 * SECOND)
        world.network.blocked = free
        traffic.run(5 * SECOND)
    assert len(paths(world)) - before <= 10


def test_an_outage_of_everything_is_sat_out():
    """As long as ICE alone would."""
    world, traffic = settled()
    free = world.network.blocked
    world.network.blocked = lambda s, d: True
    traffic.run(12 * SECOND)
    world.network.blocked = free
    start = world.clock.now
    traffic.run(5 * SECOND)
    assert not world.client.events("connection_lost")
    assert longest_gap(traffic.answered_at, start, world.clock.now) < 3 * SECOND


def test_udp_that_ends_altogether_is_replaced_by_a_stream_soon():
    world, traffic = settled()
    world.client.streams = True
    silent = world._client_host.nat.addresses
    world.network.blocked = lambda s, d: s.address in silent or d.address in silent
    start = world.clock.now
    traffic.run(30 * SECOND)
    assert longest_gap(traffic.answered_at, start, world.clock.now) < 12 * SECOND


@pytest.mark.parametrize("seed", range(3))
def test_a_gateway_that_is_away_is_waited_for_as_long_as_the_client_waits(seed):
    """It has not given up before, so no new connection has to be asked for."""
    world, traffic = settled(seed=seed)
    world.block_direct()
    traffic.run(10 * SECOND)
    free, away = world.network.blocked, world._gateway_host.nat.addresses
    start = world.clock.now
    world.network.blocked = lambda s, d: free(s, d) or s.address in away or d.address in away
    traffic.run(18 * SECOND)
    world.network.blocked = free
    traffic.run(20 * SECOND)
    assert longest_gap(traffic.answered_at, start, world.clock.now) < 20 * SECOND
    assert not world.gateway.events("connection_lost")
