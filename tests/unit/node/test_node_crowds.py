"""A gateway with many clients: what one of them needs costs the others nothing."""

from collections import Counter

import pytest
from node_kit import Bench

from firezone.durations import SECOND
from firezone.ice import Agent, Candidate
from firezone.model import Endpoint, IceCredentials
from firezone.node import PeerKeys
from firezone.noise import StaticKeypair

CROWD = 20


def join(bench, number):
    """A client with an address of its own, for which our relay is asked for a channel."""
    static = StaticKeypair.generate(lambda size: number.to_bytes(size, "big"))
    ours, theirs = (IceCredentials(f"{side}{number:03}", "p" * 22) for side in "ab")
    bench.node.upsert_connection(
        str(number), PeerKeys(static.public, bytes(32), ours, theirs), bench.now
    )
    there = Endpoint.of(f"192.0.2.{number}", 7777)
    bench.node.add_remote_candidate(
        str(number), Candidate.server_reflexive(there, there), bench.now
    )
    bench.drain()


def crowded():
    bench = Bench(controlling=False).with_relay()
    for number in range(1, CROWD + 1):
        join(bench, number)
    return bench.after(60)  # a quarter of a second before the checks that are due next


def test_a_newcomer_wakes_nobody_else(monkeypatch: pytest.MonkeyPatch):
    bench = crowded()
    woken = Counter()
    handle_timeout = Agent.handle_timeout

    def counting(agent, now):
        woken[agent] += 1
        handle_timeout(agent, now)

    monkeypatch.setattr(Agent, "handle_timeout", counting)
    join(bench, 100)
    bench.after(0.2)
    (newcomer,) = (c for c in bench.node.connections() if c.id == "100")
    assert woken.keys() == {newcomer.agent}
    channel = next(a.channels() for _, a in bench.node.transport.relays)
    assert channel == CROWD + 1


def test_channels_are_looked_at_now_and_then():
    """Not at each wake, of which there are hundreds in a second."""
    bench = crowded()
    asked = Counter()
    bench.node.transport._channel_received_at = lambda socket, number: asked.update([number]) or 0
    for _ in range(300):
        bench.after(0.1)
        bench.node.handle_timeout(bench.now)
    assert len(asked) == CROWD
    assert max(asked.values()) <= 4, "every ten seconds"


def test_a_channel_that_is_in_use_is_bound_anew_in_time():
    """However rarely that is looked at."""
    bench = crowded()
    received_at = bench.now
    bench.node.transport._channel_received_at = lambda socket, number: received_at
    for _ in range(20):
        bench.after(60)
        received_at = bench.now - SECOND
    assert not bench.node.transport.counters["no channel yet"]
    assert next(a.channels() for _, a in bench.node.transport.relays) == CROWD


def test_nobody_is_asked_for_a_lost_relay_unless_one_was_removed(monkeypatch: pytest.MonkeyPatch):
    bench = crowded()
    bench.node.handle_timeout(bench.now)
    asked = Counter()
    everybody = bench.node._directory.all

    def counting():
        for c in everybody():
            asked[c.id] += 1
            yield c

    monkeypatch.setattr(bench.node._directory, "all", counting)
    for _ in range(50):
        bench.node.handle_timeout(bench.now)
    assert not asked
    bench.node.update_relays([relay for relay, _ in bench.node.transport.relays], [], bench.now)
    asked.clear()
    for _ in range(3):  # there is none to move to yet
        bench.node.handle_timeout(bench.now)
    assert asked.total() == 3
