"""What one agent makes of candidates: which are refused, and which become pairs."""

from __future__ import annotations

import pytest
from ice_agent_kit import LEFT, LEFT_RELAY, RIGHT, RIGHT_RELAY, connected_wire
from ice_wire import host, make_agent, relay, srflx

from firezone.durations import SECOND
from firezone.ice import Candidate, CandidateKind, IceState, StateChanged


def test_an_agent_wants_to_start_at_once_and_then_waits_for_candidates() -> None:
    agent = make_agent(True)
    assert agent.state is IceState.NEW
    timeout = agent.poll_timeout()
    assert timeout is not None and timeout.deadline == 0
    agent.handle_timeout(0)
    assert agent.poll_event() == StateChanged(IceState.CHECKING)
    assert agent.poll_timeout() is None


@pytest.mark.parametrize("side", ["local", "remote", "neither"])
def test_without_candidates_of_both_sides_nothing_disconnects(side: str) -> None:
    agent = make_agent(True)
    if side == "local":
        agent.add_local_candidate(host(LEFT), 0)
    elif side == "remote":
        agent.add_remote_candidate(host(RIGHT), 0)
    agent.handle_timeout(0)
    agent.handle_timeout(60 * SECOND)
    assert agent.state is IceState.CHECKING


def test_pairs_need_one_family() -> None:
    agent = make_agent(True)
    agent.add_local_candidate(host(LEFT), 0)
    agent.add_local_candidate(host("[::1]:1"), 0)
    agent.add_remote_candidate(host(RIGHT), 0)
    agent.add_remote_candidate(host("[::2]:2"), 0)
    paired = {(str(p.local.address), str(p.remote.address)) for p in agent.pairs()}
    assert paired == {(LEFT, RIGHT), ("[::1]:1", "[::2]:2")}


def test_nothing_that_can_be_paired_disconnects() -> None:
    agent = make_agent(True)
    agent.add_local_candidate(host(LEFT), 0)
    agent.add_remote_candidate(host("[::2]:2"), 0)
    agent.handle_timeout(0)
    assert agent.state is IceState.DISCONNECTED


def test_server_reflexive_candidates_are_signalled_but_checked_from_their_base() -> None:
    agent = make_agent(True)
    agent.add_remote_candidate(host(RIGHT), 0)
    assert agent.add_local_candidate(srflx("9.9.9.9:9", LEFT), 0) is not None
    assert agent.pairs() == ()
    agent.add_local_candidate(host(LEFT), 0)
    assert [p.local.kind for p in agent.pairs()] == [CandidateKind.HOST]


def test_identical_host_and_server_reflexive_candidates_make_one_pair() -> None:
    agent = make_agent(True)
    assert agent.add_local_candidate(host(LEFT), 0) is not None
    assert agent.add_local_candidate(srflx(LEFT, LEFT), 0) is None
    agent.add_remote_candidate(host(RIGHT), 0)
    agent.add_remote_candidate(srflx(RIGHT, RIGHT), 0)
    (pair,) = agent.pairs()
    assert (pair.local.kind, pair.remote.kind) == (CandidateKind.HOST, CandidateKind.HOST)
    # The one that stood back steps in for the other.
    agent.invalidate_remote_candidate(host(RIGHT), 0)
    (pair,) = agent.pairs()
    assert pair.remote.kind is CandidateKind.SERVER_REFLEXIVE


def test_a_host_candidate_replaces_an_equal_server_reflexive_one() -> None:
    agent = make_agent(True)
    agent.add_local_candidate(srflx(LEFT, LEFT), 0)
    assert agent.add_local_candidate(host(LEFT), 0) is not None
    assert [c.kind for c in agent.local_candidates()] == [CandidateKind.HOST]


def test_a_known_local_candidate_is_not_new() -> None:
    agent = make_agent(True)
    assert agent.add_local_candidate(host(LEFT), 0) is not None
    assert agent.add_local_candidate(host(LEFT), 0) is None


@pytest.mark.parametrize(
    "candidate",
    [host("0.0.0.0:1"), host("10.0.0.1:0"), srflx("[::9]:9", "10.0.0.1:1"), host("224.0.0.1:1")],
    ids=str,
)
def test_unusable_local_candidates_are_refused(candidate: Candidate) -> None:
    agent = make_agent(True)
    assert agent.add_local_candidate(candidate, 0) is None
    assert agent.counters["unusable local candidate"] == 1


def test_a_nat64_gives_an_ipv6_base_an_ipv4_address() -> None:
    agent = make_agent(True)
    adopted = agent.add_local_candidate(srflx("9.9.9.9:9", "[2001:db8::1]:1"), 0)
    assert adopted is not None
    assert adopted.base.family == 6


def test_unsuitable_remote_candidates_are_dropped() -> None:
    agent = make_agent(True)
    line = "candidate:1 1 udp 2130706175 192.0.2.4 52625 typ host"
    for bad in (line.replace("1 udp", "2 udp"), line + " ufrag othr"):
        agent.add_remote_candidate(Candidate.from_sdp(bad), 0)
    agent.add_remote_candidate(host("0.0.0.0:1"), 0)
    assert agent.remote_candidates() == ()
    assert sum(agent.counters.values()) == 3
    agent.add_remote_candidate(Candidate.from_sdp(line + " ufrag rigu"), 0)
    assert len(agent.remote_candidates()) == 1


def test_invalidation_tells_kinds_apart() -> None:
    agent = make_agent(True)
    agent.add_local_candidate(srflx("9.9.9.9:9", LEFT), 0)
    agent.add_remote_candidate(host(RIGHT), 0)
    assert not agent.invalidate_local_candidate(host("9.9.9.9:9"), 0)
    agent.invalidate_remote_candidate(relay(RIGHT), 0)
    assert len(agent.local_candidates()) == len(agent.remote_candidates()) == 1


def test_the_number_of_pairs_is_bounded() -> None:
    wire = connected_wire()
    for n in range(20):
        wire.left.add_local_candidate(host(f"10.1.0.{n}:1"), wire.now)
        wire.left.add_remote_candidate(host(f"10.2.0.{n}:2"), wire.now)
    pairs = wire.left.pairs()
    assert len(pairs) == 100
    # The pair that works is kept, whatever its priority.
    assert any(pair.nominated for pair in pairs)


def test_many_hosts_at_both_ends_leave_the_other_kinds_their_pairs() -> None:
    agent = make_agent(True)
    agent.add_local_candidate(relay(LEFT_RELAY, LEFT), 0)
    for n in range(20):
        agent.add_local_candidate(host(f"10.1.0.{n}:1"), 0)
    agent.add_remote_candidate(relay(RIGHT_RELAY, RIGHT), 0)
    agent.add_remote_candidate(srflx("8.8.8.8:1009", RIGHT), 0)
    for n in range(20):
        agent.add_remote_candidate(host(f"10.2.0.{n}:2"), 0)
    pairs = agent.pairs()
    kinds = {(pair.local.kind, pair.remote.kind) for pair in pairs}
    assert len(pairs) == 100
    assert len(kinds) == 6
    best = pairs[0]
    assert (best.local, best.remote) == (agent.local_candidates()[1], host("10.2.0.0:2"))


def test_the_number_of_remote_candidates_is_bounded() -> None:
    agent = make_agent(True)
    for n in range(300):
        agent.add_remote_candidate(host(f"10.0.{n // 250}.{n % 250}:1"), 0)
    assert len(agent.remote_candidates()) == 100
    assert agent.counters["too many remote candidates"] == 200


def test_no_two_candidates_of_a_kind_ever_share_a_priority() -> None:
    agent = make_agent(True)
    for n in range(300):
        candidate = relay(f"5.5.{n // 250}.{n % 250}:1", LEFT)
        adopted = agent.add_local_candidate(candidate, 0)
        assert adopted is not None
        assert adopted.priority not in {
            c.priority for c in agent.local_candidates() if c is not adopted
        }
        if n >= 2:
            previous = agent.local_candidates()[0]
            assert agent.invalidate_local_candidate(previous, 0)
