"""One agent's connectivity checks, and its answers to those of others."""

from __future__ import annotations

import random

import pytest
from ice_agent_kit import (
    LEFT,
    RIGHT,
    RIGHT_RELAY,
    answer_checks,
    checking_agent,
    controlled_agent_with_two_paths,
    drain,
    peer_request,
    responses,
    signed,
    success_of,
)
from ice_wire import (
    CONTROLLED_CREDENTIALS,
    CONTROLLING_CREDENTIALS,
    Wire,
    endpoint,
    host,
    relay,
    srflx,
)

from firezone import stun
from firezone.durations import MILLISECOND, SECOND
from firezone.ice import CandidateKind, CheckState, IceState
from firezone.model import Endpoint


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
    exotic = stun.Attribute[bytes](0x7777, "EXOTIC", stun.Layout.opaque())
    unknown = signed(
        base.with_(stun.PRIORITY, 1).with_(exotic, b""), CONTROLLING_CREDENTIALS.password
    )
    agent.handle_stun(endpoint(LEFT), endpoint(RIGHT), unknown, 0)
    refusals = [stun.decode(payload) for payload in responses(agent)]
    codes = [error.code for m in refusals if (error := m.get(stun.ERROR_CODE))]
    assert codes == [400, 420]
    assert refusals[1].get(stun.UNKNOWN_ATTRIBUTES) == (0x7777,)
