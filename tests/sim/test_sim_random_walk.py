"""Whatever happens to hosts, relays and the portal, in whatever order: traffic flows again.

The model is simple: nothing here cuts one side off from every relay for good, so after any sequence
of steps a packet has to reach the other side, and its answer to come back, within PATIENCE.
"""

import random

import pytest
from packets import udp

from firezone.durations import MINUTE, SECOND
from firezone.sim import NatKind, World
from firezone.sim.portal import CLIENT_ADDRESSES

ME, _ = CLIENT_ADDRESSES
SERVER = "10.9.0.1"
STEPS = 12
PATIENCE = 40 * SECOND
"""A peer that is gone is given up 18.5 s after its last answer, or 17 s after a new candidate
of ours has given hope; then everything begins anew."""


@pytest.mark.parametrize("seed", range(8))
def test_traffic_flows_again(seed):
    walk = Walk(seed)
    walk.check()
    for _ in range(STEPS):
        walk.step()
        if walk.dice.randrange(3):
            walk.speak(walk.dice.randrange(4))
            walk.check()
    walk.check()


class Walk:
    """A world, what is broken in it, and what was done to it."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        client_nat, gateway_nat = (self.dice.choice([None, *NatKind]) for _ in range(2))
        self.families = self.dice.choice([(4,), (4, 6)])
        self.world = World(
            seed, client_nat=client_nat, gateway_nat=gateway_nat, families=self.families
        )
        self.world.client.streams = True
        self.world.network.blocked = self._is_blocked
        self.done = [f"{client_nat}, {gateway_nat}, {self.families}"]
        self.is_cut = self.is_direct_cut = self.is_udp_blocked = False
        self.dead = set()
        self.made = len(self.world.relays)
        self.packets = 0

    def step(self):
        act = self.dice.choice(ACTS)
        self.done.append(act.__name__)
        act(self)

    def check(self):
        start = self.world.clock.now
        while self.world.clock.now - start < PATIENCE:
            if self._is_answered(SECOND // 2):
                return
        raise AssertionError(f"nothing passes after {self.done}")

    def speak(self, seconds):
        for _ in range(seconds):
            self._ask()
            self.world.clock.run_for(SECOND)

    # What may happen.

    def client_moves(self):
        self._move(self.world.client)

    def gateway_moves(self):
        self._move(self.world.gateway)

    def gateway_restarts(self):
        self.world.restart_gateway()

    def client_joins_again(self):
        self.world.client.reconnect_portal()

    def gateway_joins_again(self):
        self.world.gateway.reconnect_portal()

    def client_sleeps(self):
        self._sleep(self.world.client)

    def gateway_sleeps(self):
        self._sleep(self.world.gateway)

    def relay_restarts(self):
        relay = self.dice.choice(self.world.relays)
        relay.restart()
        self.world.portal.announce_relays([relay])

    def relays_are_replaced(self):
        old = list(self.world.relays)
        self.world.relays[:] = [self._new_relay()]
        for relay in old:
            self.world.network.detach(relay.host)
        self.world.portal.announce_relays(old)

    def another_relay_comes(self):
        if len(self.world.relays) < 3:
            self.world.relays.append(self._new_relay())
            self.world.portal.announce_relays([])

    def relays_go_and_come_back(self):
        relays = list(self.world.relays)
        del self.world.relays[:]
        self.world.portal.announce_relays(relays)
        self.speak(self.dice.randrange(20))
        self.world.relays.extend(relays)
        self.world.portal.announce_relays([])

    def a_relay_dies(self):
        if len(self.world.relays) > 1 and not self.dead:
            self.dead |= set(self.dice.choice(self.world.relays).host.addresses.values())

    def it_lives_again(self):
        self.dead.clear()

    def direct_paths_break(self):
        self.is_direct_cut = True

    def direct_paths_work_again(self):
        self.is_direct_cut = False

    def udp_is_blocked(self):
        """At the client's, where streams pass."""
        self.is_udp_blocked = True

    def udp_passes_again(self):
        self.is_udp_blocked = False

    def everything_is_away(self):
        self.is_cut, self.world.client.streams = True, False
        self._cut_streams()
        self.speak(self.dice.choice([1, 5, 20, 40, 90]))
        self.is_cut, self.world.client.streams = False, True

    def portal_is_away(self):
        self.world.portal.is_down = True
        self.speak(self.dice.randrange(10))
        self.world.portal.is_down = False
        self.world.gateway.reconnect_portal()
        self.world.client.reconnect_portal()

    def nobody_speaks(self):
        self.world.clock.run_for(self.dice.choice([30 * SECOND, 6 * MINUTE, 17 * MINUTE]))

    def somebody_speaks(self):
        self.speak(self.dice.randrange(60))

    # How.

    def _is_blocked(self, source, destination):
        ends = {source.address, destination.address}
        if self.is_cut or ends & self.dead:
            return True
        client = self.world._client_host
        ours = client.nat.addresses if client.nat else client.addresses.values()
        if self.is_udp_blocked and ends & {*ours}:
            return True
        relays = {a for r in self.world.relays for a in r.host.addresses.values()}
        return self.is_direct_cut and not ends & relays

    def _move(self, peer):
        peer.role.reset(self.world.clock.now)
        peer.pump()

    def _sleep(self, peer):
        """As a laptop does: nothing is heard, and no timer fires."""
        handler, peer.host.handler, peer._armed = peer.host.handler, None, -1
        peer.pump = lambda: None
        spans = [5 * SECOND, 3 * MINUTE, 20 * MINUTE, 120 * MINUTE]
        self.world.clock.run_for(self.dice.choice(spans))
        peer.host.handler, peer._armed = handler, None
        del peer.pump
        peer.role.handle_timeout(self.world.clock.now)
        peer.pump()

    def _cut_streams(self):
        client = self.world.client
        for relay in list(client._streams):
            client.cut_stream(relay)
            client.role.handle_stream_closed(relay, self.world.clock.now)
        client.pump()

    def _new_relay(self):
        self.made += 1
        return self.world._make_relay(self.made, self.families)

    def _is_answered(self, limit):
        world, asked = self.world, self._ask()
        answer = udp(SERVER, ME, 53, 5000, self.packets.to_bytes(4, "big"))
        if not world.clock.run_until(lambda: asked in world.gateway.tun, limit):
            return False
        world.gateway.send_packet(answer)
        return world.clock.run_until(lambda: answer in world.client.tun, limit)

    def _ask(self):
        self.packets += 1
        self.world.gateway.tun.clear()
        self.world.client.tun.clear()
        asked = udp(ME, SERVER, 5000, 53, self.packets.to_bytes(4, "big"))
        self.world.client.send_packet(asked)
        return asked


ACTS = (
    Walk.client_moves,
    Walk.gateway_moves,
    Walk.gateway_restarts,
    Walk.client_joins_again,
    Walk.gateway_joins_again,
    Walk.client_sleeps,
    Walk.gateway_sleeps,
    Walk.relay_restarts,
    Walk.relays_are_replaced,
    Walk.another_relay_comes,
    Walk.relays_go_and_come_back,
    Walk.a_relay_dies,
    Walk.it_lives_again,
    Walk.direct_paths_break,
    Walk.direct_paths_work_again,
    Walk.udp_is_blocked,
    Walk.udp_passes_again,
    Walk.everything_is_away,
    Walk.portal_is_away,
    Walk.nobody_speaks,
    Walk.somebody_speaks,
)
