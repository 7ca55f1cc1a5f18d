"""Two agents find the best path between them, and another when that is gone."""

from __future__ import annotations

import pytest
from ice_agent_kit import LEFT, LEFT_RELAY, RIGHT, RIGHT_RELAY, connected_wire, relayed_wire
from ice_wire import Wire, endpoint, host, make_agent, relay, srflx

from firezone.ice import Agent, CandidateKind, CheckState, IceState, Nominated

CONNECTED_STATES = [IceState.CHECKING, IceState.CONNECTED, IceState.COMPLETED]


def test_host_to_host() -> None:
    wire = connected_wire()
    assert wire.path(wire.left) == (LEFT, RIGHT)
    assert wire.path(wire.right) == (RIGHT, LEFT)
    assert wire.states[wire.left] == wire.states[wire.right]
    assert wire.states[wire.left] == [IceState.CHECKING, IceState.COMPLETED]
    assert len(wire.nominations[wire.left]) == len(wire.nominations[wire.right]) == 1


def test_a_fast_path_is_nominated_in_two_round_trips() -> None:
    wire = Wire()
    wire.add(wire.left, host(LEFT))
    wire.add(wire.right, host(RIGHT))
    wire.run(0.020)
    assert wire.left.nominated is not None
    wire.run(0.010)
    assert wire.right.nominated is not None


def test_host_behind_a_nat_becomes_peer_reflexive() -> None:
    wire = Wire()
    wire.nat[endpoint(LEFT)] = endpoint("9.9.9.9:9000")
    wire.add(wire.left, host(LEFT))
    wire.add(wire.right, host(RIGHT))
    wire.run(40)
    assert wire.path(wire.right) == (RIGHT, "9.9.9.9:9000")
    nominated = wire.right.nominated
    assert nominated is not None and nominated.remote.kind is CandidateKind.PEER_REFLEXIVE
    assert wire.path(wire.left) == (LEFT, RIGHT)
    # Our own peer-reflexive candidate is nothing to signal.
    assert [c.kind for c in wire.left.local_candidates()] == [CandidateKind.HOST]
    # The pair with the private address has failed by now.
    assert wire.right.state is IceState.COMPLETED
    assert {p.state for p in wire.right.pairs()} == {CheckState.SUCCEEDED, CheckState.FAILED}


def test_signalled_late_a_peer_reflexive_candidate_is_replaced_without_disconnect() -> None:
    wire = Wire()
    wire.nat[endpoint(LEFT)] = endpoint("9.9.9.9:9000")
    wire.left.add_local_candidate(host(LEFT), 0)
    wire.add(wire.right, host(RIGHT))
    wire.run()
    real = srflx("9.9.9.9:9000", LEFT)
    wire.right.add_remote_candidate(real, wire.now)
    wire.run()
    assert IceState.DISCONNECTED not in wire.states[wire.right]
    assert [c.kind for c in wire.right.remote_candidates()] == [CandidateKind.SERVER_REFLEXIVE]
    (pair,) = wire.right.pairs()
    assert pair.nominated and pair.remote.kind is CandidateKind.SERVER_REFLEXIVE
    assert [n.remote.kind for n in wire.nominations[wire.right]] == [
        CandidateKind.PEER_REFLEXIVE,
        CandidateKind.SERVER_REFLEXIVE,
    ]


def test_symmetric_nat_towards_a_public_host() -> None:
    wire = Wire()
    wire.symmetric_nat[endpoint(LEFT)] = "9.9.9.9"
    wire.add(wire.left, host(LEFT), srflx("9.9.9.9:40009", LEFT))
    wire.add(wire.right, host(RIGHT))
    wire.run()
    assert wire.path(wire.left) == (LEFT, RIGHT)
    path = wire.path(wire.right)
    assert path is not None and path[1].startswith("9.9.9.9:4000")


def test_symmetric_nats_on_both_sides_need_a_relay() -> None:
    wire = Wire()
    wire.symmetric_nat |= {endpoint(LEFT): "9.9.9.9", endpoint(RIGHT): "8.8.8.8"}
    wire.add(wire.left, host(LEFT), srflx("9.9.9.9:1009", LEFT), relay(LEFT_RELAY, LEFT))
    wire.add(wire.right, host(RIGHT), srflx("8.8.8.8:1009", RIGHT), relay(RIGHT_RELAY, RIGHT))
    wire.run()
    for agent in (wire.left, wire.right):
        nominated = agent.nominated
        assert nominated is not None
        assert CandidateKind.RELAYED in (nominated.local.kind, nominated.remote.kind)


def test_moves_up_from_a_relay_when_a_direct_path_opens() -> None:
    wire = relayed_wire()
    wire.blocked.clear()
    wire.run()
    assert wire.path(wire.left) == (LEFT, RIGHT)
    assert wire.path(wire.right) == (RIGHT, LEFT)


def test_candidates_may_trickle_after_a_nomination() -> None:
    wire = Wire()
    wire.add(wire.left, relay(LEFT_RELAY, LEFT))
    wire.add(wire.right, relay(RIGHT_RELAY, RIGHT))
    wire.run()
    assert wire.path(wire.left) == (LEFT_RELAY, RIGHT_RELAY)
    wire.add(wire.left, host(LEFT))
    wire.add(wire.right, host(RIGHT))
    wire.run()
    assert wire.path(wire.left) == (LEFT, RIGHT)
    assert wire.path(wire.right) == (RIGHT, LEFT)


def test_a_second_relay_does_not_displace_the_first() -> None:
    wire = relayed_wire()
    wire.add(wire.left, relay("5.5.5.6:50003", LEFT))
    wire.add(wire.right, relay("6.6.6.7:50004", RIGHT))
    wire.run()
    assert wire.path(wire.left) == (LEFT_RELAY, RIGHT_RELAY)
    assert len(wire.nominations[wire.left]) == 1


def test_prefers_a_relay_within_one_family() -> None:
    wire = Wire()
    wire.add(wire.left, relay("[2001:db8::5]:1", LEFT), relay(LEFT_RELAY, LEFT))
    wire.add(wire.right, relay("[2001:db8::6]:2", RIGHT), relay(RIGHT_RELAY, RIGHT))
    wire.run()
    assert wire.path(wire.left) == (LEFT_RELAY, RIGHT_RELAY)


def test_fails_over_at_once_when_a_candidate_is_invalidated() -> None:
    wire = connected_wire(relays=True)
    left_host = wire.left.local_candidates()[0]
    wire.left.invalidate_local_candidate(left_host, wire.now)
    event = wire.left.poll_event()
    assert isinstance(event, Nominated) and event.local.address == endpoint(LEFT_RELAY)
    wire.right.invalidate_remote_candidate(left_host, wire.now)
    wire.run(0.1)
    assert wire.path(wire.left) == (LEFT_RELAY, RIGHT)
    assert wire.path(wire.right) == (RIGHT, LEFT_RELAY)


def test_migrates_to_new_candidates_after_invalidation_without_timeout() -> None:
    wire = relayed_wire()
    for agent, old in ((wire.left, LEFT_RELAY), (wire.right, RIGHT_RELAY)):
        candidate = next(c for c in agent.local_candidates() if c.address == endpoint(old))
        wire.invalidate(agent, candidate)
    wire.add(wire.left, relay("5.5.5.6:50003", LEFT))
    wire.add(wire.right, relay("6.6.6.7:50004", RIGHT))
    wire.run(1)
    path = wire.path(wire.left)
    assert path is not None and path == (wire.path(wire.right) or ())[::-1]
    assert "5.5.5.6:50003" in path or "6.6.6.7:50004" in path


def test_a_host_that_disappears_disconnects() -> None:
    wire = connected_wire()
    wire.lost = lambda: True
    wire.run(20)
    assert wire.left.state is wire.right.state is IceState.DISCONNECTED
    assert wire.left.nominated is wire.right.nominated is None


def test_new_candidates_after_a_disconnect_are_checked() -> None:
    wire = connected_wire()
    wire.lost = lambda: True
    wire.run(20)
    wire.lost = lambda: False
    wire.add(wire.left, host("10.0.0.7:7"))
    assert wire.left.state is wire.right.state is IceState.CHECKING
    wire.run()
    assert wire.path(wire.left) == ("10.0.0.7:7", RIGHT)
    assert wire.states[wire.left][-3:] == [
        IceState.DISCONNECTED,
        IceState.CHECKING,
        IceState.COMPLETED,
    ]


@pytest.mark.parametrize("side", ["left", "right"])
def test_re_adding_an_invalidated_local_candidate(side: str) -> None:
    wire = connected_wire()
    agent: Agent = getattr(wire, side)
    (candidate,) = agent.local_candidates()
    wire.invalidate(agent, candidate)
    wire.run()
    assert agent.nominated is None and agent.local_candidates() == ()
    assert agent.state is IceState.DISCONNECTED
    (again,) = wire.add(agent, host(str(candidate.address)))
    assert again == candidate
    wire.run()
    assert wire.path(wire.left) == (LEFT, RIGHT)
    assert wire.path(wire.right) == (RIGHT, LEFT)


def test_signalling_a_known_candidate_again_retries_its_failed_pairs() -> None:
    wire = relayed_wire()
    wire.run(20)
    assert CheckState.FAILED in {pair.state for pair in wire.left.pairs()}
    wire.blocked.clear()
    wire.run(20)
    assert wire.path(wire.left) == (LEFT_RELAY, RIGHT_RELAY)
    wire.signal(wire.left, wire.right.local_candidates())
    wire.run(1)
    assert wire.path(wire.left) == (LEFT, RIGHT)


def test_the_path_survives_the_loss_of_the_nomination() -> None:
    wire = Wire()
    wire.add(wire.left, host(LEFT))
    wire.add(wire.right, host(RIGHT))
    wire.run(0.02)
    assert wire.left.nominated is not None and wire.right.nominated is None
    wire.lost = lambda: True
    wire.run(2)
    wire.lost = lambda: False
    wire.run(2)
    assert wire.path(wire.right) == (RIGHT, LEFT)


def test_the_same_inputs_give_the_same_bytes() -> None:
    first, second = connected_wire(relays=True), connected_wire(relays=True)
    assert [payload for *_, payload in first.sent] == [payload for *_, payload in second.sent]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("role", ["both controlling", "both controlled"])
def test_a_role_conflict_is_resolved(role: str, seed: int) -> None:
    both_controlling = role == "both controlling"
    left = make_agent(True, seed, role=not both_controlling)
    right = make_agent(False, seed + 7, role=both_controlling)
    assert left.controlling is right.controlling is both_controlling
    wire = Wire(left, right)
    wire.add(left, host(LEFT))
    wire.add(right, host(RIGHT))
    wire.run()
    assert left.controlling is not right.controlling
    assert wire.path(left) == (LEFT, RIGHT) and wire.path(right) == (RIGHT, LEFT)
    assert {pair.priority for pair in left.pairs()} == {pair.priority for pair in right.pairs()}
