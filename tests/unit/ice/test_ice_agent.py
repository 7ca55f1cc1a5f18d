from __future__ import annotations

import random

import pytest
from ice_wire import (
    CONTROLLED_CREDENTIALS,
    CONTROLLING_CREDENTIALS,
    Wire,
    endpoint,
    host,
    make_agent,
    relay,
    srflx,
)

from firezone import stun
from firezone.durations import MILLISECOND, SECOND
from firezone.ice import (
    Agent,
    Candidate,
    CandidateKind,
    CheckState,
    IceState,
    Nominated,
    StateChanged,
)
from firezone.model import Endpoint

LEFT, RIGHT = "10.0.0.1:1", "10.0.0.2:2"
LEFT_RELAY, RIGHT_RELAY = "5.5.5.5:50001", "6.6.6.6:50002"
CONNECTED_STATES = [IceState.CHECKING, IceState.CONNECTED, IceState.COMPLETED]


# Two agents


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


# One agent: candidates and pairs


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


# One agent: messages


def test_a_check_on_the_wire() -> None:
    agent = checking_agent(controlling=True)
    transmit = agent.poll_transmit()
    assert transmit is not None
    assert (transmit.local, transmit.destination) == (endpoint(LEFT), endpoint(RIGHT))
    request = stun.decode(transmit.payload)
    assert request.get(stun.USERNAME) == "rigu:lefu"
    assert request.get(stun.PRIORITY) == 110 << 24 | 65534 << 8 | 255
    assert request.get(stun.ICE_CONTROLLING) is not None
    assert request.get(stun.ICE_CONTROLLED) is request.get(stun.USE_CANDIDATE) is None
    assert request.verify_fingerprint()
    assert request.verify_integrity(stun.short_term_key(CONTROLLED_CREDENTIALS.password))
    assert agent.owns_transaction(request.transaction_id)
    assert CONTROLLED_CREDENTIALS.password not in repr(transmit) + repr(vars(agent))


def test_a_response_on_the_wire() -> None:
    agent = checking_agent(controlling=True)
    request = peer_request(controlling=False)
    assert agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), request, 0)
    response = stun.decode(responses(agent)[0])
    assert response.class_ is stun.Class.SUCCESS
    assert response.transaction_id == request.transaction_id
    assert response.get(stun.XOR_MAPPED_ADDRESS) == endpoint(RIGHT)
    assert response.verify_integrity(stun.short_term_key(CONTROLLING_CREDENTIALS.password))


def test_the_controlling_agent_nominates_in_an_extra_check() -> None:
    agent = checking_agent(controlling=True)
    answer_checks(agent, 10 * MILLISECOND)
    timeout = agent.poll_timeout()
    assert timeout is not None and timeout.deadline == 10 * MILLISECOND
    agent.handle_timeout(timeout.deadline)
    transmit = agent.poll_transmit()
    assert transmit is not None
    assert stun.decode(transmit.payload).get(stun.USE_CANDIDATE)


def test_the_controlled_agent_follows_a_nomination() -> None:
    agent = checking_agent(controlling=False)
    answer_checks(agent, 10 * MILLISECOND)
    assert agent.nominated is None
    request = peer_request(controlling=True, use_candidate=True)
    agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), request, 20 * MILLISECOND)
    assert agent.nominated is not None and agent.nominated.remote.address == endpoint(RIGHT)


def test_a_nomination_counts_once_the_path_works_for_us_too() -> None:
    agent = checking_agent(controlling=False)
    checks = drain(agent)
    request = peer_request(controlling=True, use_candidate=True)
    agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), request, 0)
    assert agent.nominated is None
    response = success_of(stun.decode(checks[0].payload), endpoint(LEFT))
    agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), response, 0)
    assert agent.nominated is not None


def test_a_peer_that_nominates_only_once_keeps_its_pair() -> None:
    agent = checking_agent(controlling=False)
    answer_checks(agent, 0)
    for use_candidate in (True, False, False):
        request = peer_request(controlling=True, use_candidate=use_candidate)
        agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), request, 0)
    assert agent.nominated is not None


def test_a_peer_that_nominates_every_pair_once_keeps_the_best() -> None:
    """Aggressive nomination (RFC 5245 section 8.1.1.2), then checks that say nothing of it."""
    agent = controlled_agent_with_two_paths()
    for source, use_candidate in ((RIGHT, True), (RIGHT_RELAY, True), (RIGHT, False)):
        request = peer_request(controlling=True, use_candidate=use_candidate)
        agent.handle_stun(endpoint(LEFT), endpoint(source), request, 0)
    assert agent.nominated is not None and agent.nominated.remote.address == endpoint(RIGHT)


def test_a_peer_that_moves_to_a_lower_priority_is_followed() -> None:
    agent = controlled_agent_with_two_paths()
    for source, use_candidate in ((RIGHT, True), (RIGHT, False), (RIGHT_RELAY, True)):
        request = peer_request(controlling=True, use_candidate=use_candidate)
        agent.handle_stun(endpoint(LEFT), endpoint(source), request, 0)
    assert agent.nominated is not None
    assert agent.nominated.remote.address == endpoint(RIGHT_RELAY)


def test_the_best_of_several_nominated_pairs_is_used() -> None:
    agent = controlled_agent_with_two_paths()
    for source in (RIGHT, RIGHT_RELAY, RIGHT, RIGHT_RELAY):
        request = peer_request(controlling=True, use_candidate=True)
        agent.handle_stun(endpoint(LEFT), endpoint(source), request, 0)
    assert agent.nominated is not None and agent.nominated.remote.address == endpoint(RIGHT)


def test_the_first_request_triggers_a_check() -> None:
    agent = checking_agent(controlling=True)
    drain(agent)
    agent.handle_timeout(250 * MILLISECOND)
    drain(agent)
    for now, due in ((300 * MILLISECOND, 300 * MILLISECOND), (310 * MILLISECOND, None)):
        request = peer_request(controlling=False)
        agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), request, now)
        drain(agent)
        timeout = agent.poll_timeout()
        assert timeout is not None
        assert timeout.deadline == due or (due is None and timeout.deadline > now)
        agent.handle_timeout(now)
        drain(agent)


def test_the_answer_to_a_cancelled_check_counts() -> None:
    agent = checking_agent(controlling=True)
    checks = drain(agent)
    request = peer_request(controlling=False)
    agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), request, 10 * MILLISECOND)
    response = success_of(stun.decode(checks[0].payload), endpoint(LEFT))
    assert agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), response, 20 * MILLISECOND)
    assert agent.nominated is not None


@pytest.mark.parametrize("error", ["username", "order", "password", "unsigned", "method"])
def test_requests_of_strangers_are_not_accepted(error: str) -> None:
    agent = checking_agent(controlling=True)
    username = {"username": "lefu:othr", "order": "rigu:lefu"}.get(error, "lefu:rigu")
    key = b"wrong" if error == "password" else CONTROLLING_CREDENTIALS.password.encode()
    method = stun.Method.ALLOCATE if error == "method" else stun.Method.BINDING
    request = (
        stun.Message.request(method, random.Random(1).randbytes)
        .with_(stun.USERNAME, username)
        .with_(stun.PRIORITY, 1)
    )
    payload = request.encode(integrity_key=None if error == "unsigned" else key)
    message = stun.decode(payload)
    assert not agent.accepts(message)
    assert not agent.handle_stun(endpoint(LEFT), endpoint("7.7.7.7:7"), message, 0)
    assert len(agent.remote_candidates()) == 1 and responses(agent) == []


def test_indications_are_ignored() -> None:
    indication = stun.Message.indication(stun.Method.BINDING, random.Random(1).randbytes)
    assert not checking_agent(True).accepts(stun.decode(indication.encode()))


def test_a_response_to_an_unknown_transaction_is_not_accepted() -> None:
    agent = checking_agent(controlling=True)
    stranger = stun.Message.request(stun.Method.BINDING, random.Random(9).randbytes)
    response = success_of(stranger, endpoint(LEFT))
    assert not agent.accepts(response)
    assert not agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), response, 0)


def test_a_response_under_the_wrong_password_is_not_accepted() -> None:
    agent = checking_agent(controlling=True)
    check = stun.decode(drain(agent)[0].payload)
    forged = success_of(check, endpoint(LEFT), CONTROLLING_CREDENTIALS.password)
    assert not agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), forged, 0)
    assert agent.nominated is None


@pytest.mark.parametrize(("local", "source"), [(LEFT, "7.7.7.7:7"), ("10.0.0.9:1", RIGHT)])
def test_a_response_on_another_path_proves_nothing(local: str, source: str) -> None:
    agent = checking_agent(controlling=True)
    response = success_of(stun.decode(drain(agent)[0].payload), endpoint(LEFT))
    assert agent.handle_stun(endpoint(local), endpoint(source), response, 0)
    assert agent.nominated is None
    assert agent.counters["response on another path"] == 1


def test_a_second_response_changes_nothing() -> None:
    agent = checking_agent(controlling=True)
    response = success_of(stun.decode(drain(agent)[0].payload), endpoint(LEFT))
    assert agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), response, 0)
    assert not agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), response, SECOND)
    assert agent.pairs()[0].round_trip == 0


def test_a_request_to_an_address_that_is_not_ours_leaves_no_trace() -> None:
    # The original keeps a peer-reflexive candidate although it drops such a request.
    agent = checking_agent(controlling=False)
    drain(agent)
    request = peer_request(controlling=True)
    assert agent.handle_stun(endpoint("10.9.9.9:9"), endpoint("7.7.7.7:7"), request, 0)
    assert len(agent.remote_candidates()) == 1 and responses(agent) == []
    assert agent.counters["request to an unknown address"] == 1


def test_no_answer_on_an_invalidated_local_candidate() -> None:
    agent = checking_agent(controlling=False)
    drain(agent)
    agent.invalidate_local_candidate(host(LEFT), 0)
    agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), peer_request(controlling=True), 0)
    assert responses(agent) == []


def test_no_answer_to_an_invalidated_remote_candidate() -> None:
    agent = checking_agent(controlling=False)
    drain(agent)
    agent.invalidate_remote_candidate(host(RIGHT), 0)
    agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), peer_request(controlling=True), 0)
    assert responses(agent) == [] and agent.remote_candidates() == ()
    assert agent.counters["request from an invalidated candidate"] == 1


def test_a_peer_reflexive_candidate_lives_as_long_as_its_pair() -> None:
    agent = checking_agent(controlling=False)
    agent.handle_stun(endpoint(LEFT), endpoint("7.7.7.7:7"), peer_request(controlling=True), 0)
    assert len(agent.remote_candidates()) == 2
    while (timeout := agent.poll_timeout()) is not None:
        drain(agent)
        agent.handle_timeout(timeout.deadline)
    assert [str(c.address) for c in agent.remote_candidates()] == [RIGHT]
    assert agent.state is IceState.DISCONNECTED


def test_a_relay_under_another_port_is_not_preferred_to_a_direct_path() -> None:
    wire = Wire()
    wire.nat |= {endpoint(RIGHT): endpoint("8.8.8.8:8"), endpoint(RIGHT_RELAY): shown_relay()}
    wire.add(wire.right, host(RIGHT), srflx("8.8.8.8:8", RIGHT), relay(RIGHT_RELAY, RIGHT))
    wire.add(wire.left, host(LEFT))
    wire.run()
    guessed = [c for c in wire.left.remote_candidates() if c.address == shown_relay()]
    assert [c.kind for c in guessed] == [CandidateKind.PEER_REFLEXIVE]
    assert wire.path(wire.left) == (LEFT, "8.8.8.8:8")
    assert wire.nominations[wire.left][-1].is_direct


@pytest.mark.parametrize("signalled_first", [True, False])
def test_a_relay_under_another_port_is_relayed(signalled_first: bool) -> None:
    agent = checking_agent(controlling=True)
    relayed = relay(RIGHT_RELAY)
    if signalled_first:
        agent.add_remote_candidate(relayed, 0)
    agent.handle_stun(endpoint(LEFT), shown_relay(), peer_request(controlling=False), 0)
    if not signalled_first:
        agent.add_remote_candidate(relayed, 0)
    (way,) = [way for way in agent.ways() if way.remote.address == shown_relay()]
    assert not way.is_direct
    assert way.remote.priority == relayed.priority


def test_it_is_forgotten_like_any_other_guess() -> None:
    agent = checking_agent(controlling=True)
    agent.add_remote_candidate(relay(RIGHT_RELAY), 0)
    agent.handle_stun(endpoint(LEFT), shown_relay(), peer_request(controlling=False), 0)
    while (timeout := agent.poll_timeout()) is not None:
        drain(agent)
        agent.handle_timeout(timeout.deadline)
    assert shown_relay() not in [c.address for c in agent.remote_candidates()]


def test_another_host_than_the_relay_is_no_relay() -> None:
    agent = checking_agent(controlling=True)
    agent.add_remote_candidate(relay(RIGHT_RELAY), 0)
    agent.handle_stun(endpoint(LEFT), endpoint("7.7.7.7:7"), peer_request(controlling=False), 0)
    (way,) = [way for way in agent.ways() if way.remote.address == endpoint("7.7.7.7:7")]
    assert way.is_direct


def shown_relay() -> Endpoint:
    """The right side's relayed address, as a NAT in front of the left side may show it."""
    return Endpoint(endpoint(RIGHT_RELAY).address, 45678)


def test_made_up_source_addresses_do_not_pile_up() -> None:
    agent = checking_agent(controlling=False)
    for n in range(400):
        source = endpoint(f"7.7.{n // 250}.{n % 250}:7")
        agent.handle_stun(endpoint(LEFT), source, peer_request(controlling=True), 0)
    assert len(agent.remote_candidates()) <= 100 and len(agent.pairs()) <= 100


def test_a_controlled_peer_cannot_nominate() -> None:
    agent = checking_agent(controlling=True)
    drain(agent)
    request = peer_request(controlling=False, use_candidate=True)
    agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), request, 0)
    assert responses(agent) == []


def test_the_larger_tie_breaker_keeps_controlling() -> None:
    agent = checking_agent(controlling=True)
    drain(agent)
    weak = peer_request(controlling=True, tie_breaker=0)
    agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), weak, 0)
    (payload,) = responses(agent)
    error = stun.decode(payload).get(stun.ERROR_CODE)
    assert error is not None and error.code == 487 and agent.controlling
    strong = peer_request(controlling=True, tie_breaker=2**64 - 1)
    agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), strong, 0)
    assert not agent.controlling
    assert stun.decode(responses(agent)[0]).class_ is stun.Class.SUCCESS


def test_a_late_role_conflict_does_not_flap() -> None:
    agent = checking_agent(controlling=True)
    agent.handle_timeout(250 * MILLISECOND)
    first, second = (stun.decode(t.payload) for t in drain(agent))
    for check in (first, second):
        refusal = signed(check.error(487), CONTROLLED_CREDENTIALS.password)
        assert agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), refusal, 300 * MILLISECOND)
    assert not agent.controlling


def test_a_refused_check_is_no_answer() -> None:
    agent = checking_agent(controlling=True)
    check = stun.decode(drain(agent)[0].payload)
    refusal = signed(check.error(400), CONTROLLED_CREDENTIALS.password)
    assert agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), refusal, 0)
    assert agent.counters["check refused"] == 1
    assert agent.pairs()[0].state is CheckState.IN_PROGRESS


def test_requests_that_cannot_be_understood_are_refused() -> None:
    agent = checking_agent(controlling=True)
    drain(agent)
    base = stun.Message.request(stun.Method.BINDING, random.Random(5).randbytes).with_(
        stun.USERNAME, "lefu:rigu"
    )
    without_priority = signed(base, CONTROLLING_CREDENTIALS.password)
    agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), without_priority, 0)
    exotic = stun.Attribute(0x7777, "EXOTIC", stun.DATA.decode, stun.DATA.encode)
    unknown = signed(
        base.with_(stun.PRIORITY, 1).with_(exotic, b""), CONTROLLING_CREDENTIALS.password
    )
    agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), unknown, 0)
    refusals = [stun.decode(payload) for payload in responses(agent)]
    codes = [error.code for m in refusals if (error := m.get(stun.ERROR_CODE))]
    assert codes == [400, 420]
    assert refusals[1].get(stun.UNKNOWN_ATTRIBUTES) == (0x7777,)


# Helpers


def connected_wire(relays: bool = False) -> Wire:
    wire = Wire()
    wire.add(wire.left, host(LEFT), *([relay(LEFT_RELAY, LEFT)] if relays else []))
    wire.add(wire.right, host(RIGHT), *([relay(RIGHT_RELAY, RIGHT)] if relays else []))
    wire.run()
    assert wire.path(wire.left) == (LEFT, RIGHT)
    return wire


def relayed_wire() -> Wire:
    """Connected through both relays, as nothing passes otherwise."""
    wire = Wire()
    wire.block(LEFT, RIGHT)
    wire.block(LEFT_RELAY, RIGHT)
    wire.block(LEFT, RIGHT_RELAY)
    wire.add(wire.left, host(LEFT), relay(LEFT_RELAY, LEFT))
    wire.add(wire.right, host(RIGHT), relay(RIGHT_RELAY, RIGHT))
    wire.run(5)
    assert wire.path(wire.left) == (LEFT_RELAY, RIGHT_RELAY)
    assert wire.path(wire.right) == (RIGHT_RELAY, LEFT_RELAY)
    return wire


def controlled_agent_with_two_paths() -> Agent:
    agent = checking_agent(controlling=False)
    agent.add_remote_candidate(relay(RIGHT_RELAY), 0)
    agent.handle_timeout(0)
    answer_checks(agent, 0)
    return agent


def checking_agent(controlling: bool) -> Agent:
    """An agent with the left side's credentials that has just sent its first check."""
    agent = Agent(
        controlling=controlling,
        local=CONTROLLING_CREDENTIALS,
        remote=CONTROLLED_CREDENTIALS,
        entropy=random.Random(3).randbytes,
        now=0,
    )
    agent.add_local_candidate(host(LEFT), 0)
    agent.add_remote_candidate(host(RIGHT), 0)
    agent.handle_timeout(0)
    return agent


_peer_entropy = random.Random(4).randbytes


def peer_request(
    controlling: bool, use_candidate: bool = False, tie_breaker: int = 1
) -> stun.Message:
    role = stun.ICE_CONTROLLING if controlling else stun.ICE_CONTROLLED
    request = (
        stun.Message.request(stun.Method.BINDING, _peer_entropy)
        .with_(stun.USERNAME, "lefu:rigu")
        .with_(stun.PRIORITY, 110 << 24 | 65534 << 8 | 255)
        .with_(role, tie_breaker)
    )
    if use_candidate:
        request = request.with_(stun.USE_CANDIDATE, True)
    return signed(request, CONTROLLING_CREDENTIALS.password)


def success_of(
    request: stun.Message, mapped: Endpoint, password: str = CONTROLLED_CREDENTIALS.password
) -> stun.Message:
    return signed(request.success().with_(stun.XOR_MAPPED_ADDRESS, mapped), password)


def signed(message: stun.Message, password: str) -> stun.Message:
    return stun.decode(message.encode(integrity_key=stun.short_term_key(password)))


def answer_checks(agent: Agent, now: int) -> None:
    for transmit in drain(agent):
        request = stun.decode(transmit.payload)
        if request.class_ is stun.Class.REQUEST:
            response = success_of(request, transmit.local)
            agent.handle_stun(transmit.local, transmit.destination, response, now)
    while agent.poll_event() is not None:
        pass


def drain(agent: Agent) -> list:  # type: ignore[type-arg]
    while agent.poll_event() is not None:
        pass
    transmits = []
    while (transmit := agent.poll_transmit()) is not None:
        transmits.append(transmit)
    return transmits


def responses(agent: Agent) -> list[bytes]:
    payloads = [t.payload for t in drain(agent)]
    return [p for p in payloads if stun.decode(p).class_ is not stun.Class.REQUEST]
