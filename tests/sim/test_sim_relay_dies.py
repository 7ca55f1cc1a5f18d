"""A download goes on soon after the relay in use died, at whatever moment that was."""

import pytest
from packets import udp

from firezone.durations import MILLISECOND, SECOND
from firezone.sim import NatKind, World
from firezone.sim.portal import CLIENT_ADDRESSES

ME, _ = CLIENT_ADDRESSES
SERVER = "10.9.0.1"
EI, SYM = NatKind.ENDPOINT_INDEPENDENT, NatKind.SYMMETRIC
TICK = 10 * MILLISECOND
MAX_WINDOW = 16
MIN_RTO = 200 * MILLISECOND


class Download:
    """From a sender behind the gateway, which waits as TCP does: what is not acknowledged it sends
    once more after 200 ms beside the round trip, then after twice as long, and so on (RFC 6298),
    and nothing else meanwhile. Who downloads has nothing to say but acknowledgements."""

    def __init__(self, world):
        self.world = world
        self.sent = self.acknowledged = self.received = 0
        self.window = MAX_WINDOW
        self.rto = MIN_RTO + 8 * world.network.latency
        self.gap = self.rto
        self.retransmit_at = None
        self.arrivals = []

    def begin(self):
        """The client's packet opens the flow."""
        self.world.client.send_packet(self._packet(ME, SERVER, 0))
        assert self.world.clock.run_until(lambda: self.world.gateway.tun, 10 * SECOND)

    def run(self, duration):
        end = self.world.clock.now + duration
        while self.world.clock.now < end:
            self._receive(self.world.clock.now)
            self._send(self.world.clock.now)
            self.world.clock.run_for(min(TICK, end - self.world.clock.now))

    def _receive(self, now):
        client, gateway = self.world.client, self.world.gateway
        for packet in client.tun:
            if _number(packet) == self.received + 1:
                self.received += 1
                self.arrivals.append(now)
        if client.tun:
            client.tun.clear()
            client.send_packet(self._packet(ME, SERVER, self.received))
        latest = max(map(_number, gateway.tun), default=0)
        gateway.tun.clear()
        if latest > self.acknowledged:
            self.acknowledged = latest
            self.window = min(2 * self.window, MAX_WINDOW)
            self.gap, self.retransmit_at = self.rto, now + self.rto

    def _send(self, now):
        self.sent = max(self.sent, self.acknowledged)
        if self.sent - self.acknowledged < self.window:
            self.sent += 1
            self.retransmit_at = self.retransmit_at or now + self.gap
        elif self.retransmit_at is not None and now >= self.retransmit_at:
            self.sent, self.window = self.acknowledged + 1, 1
            self.gap *= 2
            self.retransmit_at = now + self.gap
        else:
            return
        self.world.gateway.send_packet(self._packet(SERVER, ME, self.sent))

    def _packet(self, source, destination, number):
        ports = (53, 5000) if source == SERVER else (5000, 53)
        return udp(source, destination, *ports, number.to_bytes(4, "big"))


def _number(packet):
    return int.from_bytes(packet[-4:], "big")


def relay_in_use(world):
    """Of the pair that carries data, the client's own if both ends have one."""
    (c,) = world.client.role.node.connections()
    addresses = [end.address.address for end in (c.way.local, c.way.remote)]
    return next(a for a in addresses for relay in world.relays if relay.address(4) == a)


def die(world, relay):
    """Nothing comes to it or from it, and nobody says so."""
    free = world.network.blocked
    world.network.blocked = lambda s, d: free(s, d) or relay in (s.address, d.address)


def outage(nats, seed, phase, latency=10 * MILLISECOND, portal_latency=5 * MILLISECOND):
    """How long until both ends send on another path, and until the download goes on; the relay in
    use dies `phase` after a moment at which the download flows."""
    world = World(seed=seed, client_nat=nats[0], gateway_nat=nats[1])
    world.network.latency, world.portal.latency = latency, portal_latency
    world.block_direct()
    download = Download(world)
    download.begin()
    download.run(2 * SECOND + phase)
    died_at = world.clock.now
    die(world, relay_in_use(world))
    seen = len(download.arrivals)
    download.run(5 * SECOND)
    assert not world.client.events("connection_lost")
    ends = [c for peer in (world.client, world.gateway) for c in peer.role.node.connections()]
    moved_at = max(c.paths[-1].at for c in ends)
    later = [at for at in download.arrivals[seen:] if at > died_at + 4 * latency + TICK]
    return moved_at - died_at, later[0] - died_at


PERIOD = 1500 * MILLISECOND
"""The longest of the timers that count: the pair in use is checked so often."""
SHARED, SEPARATE = 1, 3
"""Seeds, with which both have the same relay or each its own."""


@pytest.mark.parametrize("seed", [SHARED, SEPARATE])
@pytest.mark.parametrize("nats", [(EI, EI), (SYM, EI), (EI, SYM), (SYM, SYM)])
def test_a_download_goes_on_whenever_the_relay_dies(nats, seed):
    """Asked for are 3 s. In virtual time both ends have moved after 1.1 s, 0.3 s before a sender in
    the same room sends for the third time, and that is what the pause ends with."""
    step = PERIOD // 10
    outages = [outage(nats, seed, phase) for phase in range(0, PERIOD, step)]
    assert max(moved for moved, _ in outages) <= 1100 * MILLISECOND
    assert max(pause for _, pause in outages) <= 2100 * MILLISECOND


@pytest.mark.parametrize("phase", range(0, 1500, 40))
def test_no_moment_is_worse_than_others(phase):
    """With every way there is over the relay that dies."""
    moved, pause = outage((SYM, SYM), SHARED, phase * MILLISECOND)
    assert moved <= 1100 * MILLISECOND
    assert pause <= 2100 * MILLISECOND


@pytest.mark.parametrize("seed", [SHARED, SEPARATE])
@pytest.mark.parametrize("nats", [(EI, EI), (SYM, EI), (EI, SYM), (SYM, SYM)])
@pytest.mark.parametrize(
    ("latency_ms", "portal_ms", "at_most_ms"),
    [(1, 1, 1050), (25, 50, 1300), (10, 300, 1700), (50, 100, 2500)],
)
def test_far_relays_and_a_far_portal_cost_little(nats, seed, latency_ms, portal_ms, at_most_ms):
    """Doubt waits for a few round trips, which over two relays are of 300 ms in the last case, and
    what is signalled takes its way there and back."""
    latency, portal_latency = latency_ms * MILLISECOND, portal_ms * MILLISECOND
    moved, _ = outage(nats, seed, PERIOD // 2, latency, portal_latency)
    assert moved <= at_most_ms * MILLISECOND


def known_relays(world):
    return {relay for relay, _ in world.client.role.node.transport.relays}


def asked_of_relays(world, monkeypatch):
    """When the client asked its relays whether they are there."""
    transport, asked = world.client.role.node.transport, []
    probe = transport.probe
    monkeypatch.setattr(transport, "probe", lambda now: (asked.append(now), probe(now)))
    return asked


def test_a_doubt_that_passes_endangers_no_relay(monkeypatch):
    """Where much is lost there are many of those, and each time a relay is asked it may seem gone;
    to prepare another one harms nothing."""
    world = World(seed=SHARED, client_nat=SYM, gateway_nat=SYM)
    world.block_direct()
    download = Download(world)
    download.begin()
    download.run(2 * SECOND)
    (c,) = world.client.role.node.connections()
    asked, used, relay = asked_of_relays(world, monkeypatch), c.relay, relay_in_use(world)
    free = world.network.blocked
    die(world, relay)
    download.run(650 * MILLISECOND)
    world.network.blocked = free
    download.run(3 * SECOND)
    assert not asked and c.relay != used
    assert c.agent.counters["nominated pair distrusted"] == 0


@pytest.mark.parametrize("seed", [SHARED, SEPARATE])
def test_a_relay_that_died_is_soon_given_up(seed):
    world = World(seed=seed, client_nat=EI, gateway_nat=EI)
    world.block_direct()
    download = Download(world)
    download.begin()
    download.run(2 * SECOND)
    before = known_relays(world)
    die(world, relay_in_use(world))
    download.run(6 * SECOND)
    assert len(known_relays(world)) == len(before) - 1
