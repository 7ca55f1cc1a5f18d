"""Racing, authentication, candidates and the life of an allocation."""

import random

import pytest
from turn_client_kit import (
    BOTH,
    CREDENTIALS,
    LOCAL_4,
    LOCAL_6,
    MAPPED_4,
    ONLY_4,
    PEER_4,
    PEER_4B,
    RELAY_4,
    RELAY_6,
    RELAYED_4,
    RELAYED_6,
    Wire,
    allocated,
    bound,
    challenged,
    with_channel,
)

from firezone import stun
from firezone.durations import SECOND
from firezone.errors import LocalError
from firezone.model import Endpoint
from firezone.stun import Method
from firezone.turn import (
    Allocation,
    CandidateAdded,
    CandidateInvalidated,
    ChannelLost,
    RelayServer,
)

HOST = CandidateAdded("host", LOCAL_4, LOCAL_4)
SRFLX = CandidateAdded("srflx", MAPPED_4, LOCAL_4)
RELAYED = [CandidateAdded("relay", a, a) for a in (RELAYED_4, RELAYED_6)]
INVALIDATED = [CandidateInvalidated("relay", a, a) for a in (RELAYED_4, RELAYED_6)]

# Start and racing.


def test_starts_with_a_binding_to_each_address() -> None:
    wire = Wire(BOTH)

    assert wire.methods() == [Method.BINDING, Method.BINDING]
    assert [destination for _, destination in wire.sent] == [RELAY_4, RELAY_6]
    assert wire.allocation.active_socket is None
    assert not any(request.has_integrity for request, _ in wire.sent)


def test_first_binding_response_sets_socket_to_use() -> None:
    wire = Wire(BOTH)
    _, over_6 = wire.drain()

    assert wire.answer_binding(over_6, LOCAL_6, source=RELAY_6, local=LOCAL_6)

    assert wire.allocation.active_socket == RELAY_6
    wire.only(Method.ALLOCATE)
    assert wire.sent[-1][1] == RELAY_6


def test_the_loser_of_the_race_only_contributes_candidates() -> None:
    wire = Wire(BOTH)
    over_4, over_6 = wire.drain()
    wire.answer_binding(over_4)
    wire.only(Method.ALLOCATE)
    wire.news()

    assert wire.answer_binding(over_6, LOCAL_6, source=RELAY_6, local=LOCAL_6)

    assert wire.methods() == []
    assert wire.allocation.active_socket == RELAY_4
    assert wire.news() == [
        CandidateAdded("host", LOCAL_6, LOCAL_6),
        CandidateAdded("srflx", LOCAL_6, LOCAL_6),
    ]


def test_second_stun_request_gives_up_eventually_and_harms_nothing() -> None:
    wire = challenged(BOTH)
    wire.answer_allocate(wire.only(Method.ALLOCATE))

    wire.alive_for(9)

    assert [m.method for m, to in wire.sent if to == RELAY_6] == [Method.BINDING] * 4
    assert wire.allocation.has_allocation
    assert wire.allocation.active_socket == RELAY_4
    assert wire.allocation.counters["request_timed_out"] == 1


@pytest.mark.parametrize(
    ("server", "address", "matches"),
    [
        (ONLY_4, RELAY_4, True),
        (ONLY_4, RELAY_6, False),
        (RelayServer(None, RELAY_6), RELAY_6, True),
        (RelayServer(None, RELAY_6), RELAY_4, False),
        (BOTH, RELAY_4, True),
        (BOTH, RELAY_6, True),
        (BOTH, Endpoint(RELAY_4.address, 3479), False),
    ],
)
def test_relay_socket_matches(server: RelayServer, address: Endpoint, matches: bool) -> None:
    assert Wire(server).allocation.matches(address) is matches


def test_sends_binding_request_on_nominated_socket_every_25_seconds() -> None:
    wire = allocated(BOTH)
    wire.alive_for(24.9)
    wire.sent.clear()

    wire.after(0.1)

    request = wire.only(Method.BINDING)
    assert wire.sent[-1][1] == RELAY_4
    wire.answer_binding(request)
    assert wire.after(24.9).methods() == []
    assert wire.after(0.1).methods() == [Method.BINDING]


def test_no_keepalive_without_an_allocation() -> None:
    wire = bound()
    wire.refuse(wire.only(Method.ALLOCATE), 500)

    assert wire.allocation.poll_timeout() is None
    assert wire.after(60).methods() == []


# Backoff.


def test_retries_requests_using_backoff_and_gives_up_eventually() -> None:
    wire = Wire()
    first = wire.only(Method.BINDING)

    wakes = []
    while (timeout := wire.allocation.poll_timeout()) is not None:
        wakes.append(timeout.deadline / SECOND)
        wire.now = timeout.deadline
        wire.allocation.handle_timeout(wire.now)

    assert wakes == [1, 2.5, 4.75, 8.125]
    assert [m.transaction_id for m in wire.drain()] == [first.transaction_id] * 3


def test_an_authenticated_resend_has_a_new_transaction_and_the_current_nonce() -> None:
    wire = challenged()
    first = wire.only(Method.ALLOCATE)

    second = wire.after(1).only(Method.ALLOCATE)

    assert first.transaction_id != second.transaction_id
    assert second.get(stun.NONCE) == "nonce-1"
    assert not wire.answer_allocate(first), "late"
    assert wire.answer_allocate(second)


def test_allocation_is_not_freed_on_startup() -> None:
    wire = Wire()

    assert wire.allocation.can_be_freed() is None
    wire.drain()
    assert wire.allocation.can_be_freed() is None


def test_allocation_can_be_freed_after_all_requests_time_out() -> None:
    wire = allocated()
    while wire.allocation.poll_timeout() is not None:
        wire.now = wire.allocation.poll_timeout().deadline
        wire.allocation.handle_timeout(wire.now)
        wire.drain()

    assert wire.allocation.can_be_freed() is None, "events wait"
    wire.news()
    assert wire.allocation.can_be_freed() == "no response"
    assert 8 * SECOND < wire.now - 25 * SECOND < 9 * SECOND


def test_a_mismatch_does_not_end_the_race_of_the_other_family() -> None:
    wire = challenged(BOTH)
    over_6 = next(m for m, to in wire.sent if to == RELAY_6)
    wire.refuse(wire.only(Method.ALLOCATE), 437)
    wire.news()

    assert wire.answer_binding(over_6, LOCAL_6, source=RELAY_6, local=LOCAL_6)

    assert [event.address for event in wire.news()] == [LOCAL_6, LOCAL_6]


# Authentication.


def test_initial_allocate_has_username_realm_and_message_integrity_set() -> None:
    allocate = bound().only(Method.ALLOCATE)

    assert allocate.get(stun.USERNAME) == CREDENTIALS.username
    assert allocate.get(stun.REALM) == "firezone"
    assert allocate.verify_integrity(CREDENTIALS.key)
    assert allocate.get(stun.REQUESTED_TRANSPORT) == 17
    assert allocate.get(stun.ADDITIONAL_ADDRESS_FAMILY) == 6
    assert allocate.get(stun.LIFETIME) is None


def test_initial_allocate_is_missing_nonce() -> None:
    assert bound().only(Method.ALLOCATE).get(stun.NONCE) is None


def test_a_401_without_nonce_is_a_challenge_with_its_own_budget() -> None:
    wire = bound()
    wire.after(4.75)
    wire.refuse(wire.drain()[-1], 401, nonce="nonce-1")

    again = wire.only(Method.ALLOCATE)

    assert again.get(stun.NONCE) == "nonce-1"
    assert wire.alive_for(8).allocation.active_socket == RELAY_4


def test_upon_stale_nonce_reauthorizes_using_new_nonce() -> None:
    wire = challenged()
    wire.refuse(wire.only(Method.ALLOCATE), 438, nonce="nonce-2")

    assert wire.only(Method.ALLOCATE).get(stun.NONCE) == "nonce-2"


def test_nonces_that_are_always_stale_end_somewhere() -> None:
    wire = challenged()
    for index in range(20):
        requests = wire.drain()
        if not requests:
            break
        wire.refuse(requests[0], 438, nonce=f"nonce-{index}")

    assert index < 12
    assert wire.allocation.poll_timeout() is None


def test_given_a_request_with_nonce_and_we_are_unauthorized_dont_retry() -> None:
    wire = challenged()
    wire.news()

    assert wire.refuse(wire.only(Method.ALLOCATE), 401, nonce="nonce-2")

    assert wire.methods() == []
    assert wire.allocation.poll_timeout() is None
    assert wire.allocation.credentials is None
    assert wire.allocation.can_be_freed() == "authentication error"


def test_invalid_credentials_invalidates_existing_allocation() -> None:
    wire = allocated()
    wire.allocation.refresh(wire.now)

    wire.refuse(wire.only(Method.REFRESH), 401, nonce="nonce-2")

    assert wire.allocation.poll_timeout() is None
    assert wire.allocation.can_be_freed() is None
    assert wire.news() == INVALIDATED
    assert wire.allocation.can_be_freed() == "authentication error"
    wire.allocation.refresh(wire.now)
    wire.allocation.bind_channel(PEER_4, wire.now)
    assert wire.methods() == []


@pytest.mark.parametrize("key", [None, b"another key"])
@pytest.mark.parametrize("code", [401, 437, 438, 420, 500])
def test_errors_that_nobody_vouches_for_are_ignored(code: int, key: bytes | None) -> None:
    wire = bound()
    request = wire.only(Method.ALLOCATE)

    assert wire.refuse(request, code, nonce="forged", key=key)

    assert wire.methods() == []
    assert wire.allocation.counters["unauthenticated_response"] == 1
    assert wire.after(1).only(Method.ALLOCATE).get(stun.NONCE) is None


def test_an_unsigned_success_is_ignored() -> None:
    wire = challenged()
    request = wire.only(Method.ALLOCATE)
    response = request.success().with_(stun.LIFETIME, 600)

    wire.answer(response.with_(stun.XOR_RELAYED_ADDRESS, RELAYED_4), key=None)

    assert not wire.allocation.has_allocation
    assert wire.answer_allocate(request), "still pending"


def test_a_relay_that_refuses_the_first_allocate_unsigned_goes_by_the_book() -> None:
    """RFC 8489 section 9.2: the user is named once there is a nonce, and nobody signs before."""
    wire = bound()
    wire.refuse(wire.only(Method.ALLOCATE), 400, key=None)

    unsigned = wire.only_unsigned(Method.ALLOCATE)
    assert unsigned.get(stun.USERNAME) is unsigned.get(stun.REALM) is None
    wire.refuse(unsigned, 401, nonce="nonce-1", key=None)
    wire.refuse(wire.only(Method.ALLOCATE), 438, nonce="nonce-2", key=None)
    signed = wire.only(Method.ALLOCATE)
    assert signed.get(stun.NONCE) == "nonce-2"
    wire.answer_allocate(signed)
    wire.allocation.refresh(wire.now)
    assert wire.only(Method.REFRESH).get(stun.REQUESTED_TRANSPORT) is None, "that is for Allocate"


def by_the_book() -> tuple[Wire, stun.Message]:
    """With the signed Allocate that waits for its answer."""
    wire = bound()
    wire.refuse(wire.only(Method.ALLOCATE), 400, key=None)
    wire.refuse(wire.only_unsigned(Method.ALLOCATE), 401, nonce="nonce-1", key=None)
    return wire, wire.only(Method.ALLOCATE)


@pytest.mark.parametrize("code", [400, 401, 403, 420, 437, 500])
def test_even_by_the_book_refusals_of_the_user_are_signed(code: int) -> None:
    wire, request = by_the_book()

    wire.refuse(request, code, nonce="forged", key=None)

    assert wire.methods() == []
    assert wire.allocation.counters["unauthenticated_response"] == 1
    assert wire.answer_allocate(request), "still pending"


def test_an_unsigned_success_is_no_success_by_the_book() -> None:
    wire, request = by_the_book()
    response = request.success().with_(stun.LIFETIME, 600)

    wire.answer(response.with_(stun.XOR_RELAYED_ADDRESS, RELAYED_4), key=None)

    assert not wire.allocation.has_allocation


@pytest.mark.parametrize("key", [CREDENTIALS.key, b"another key"])
def test_a_signed_400_is_a_refusal_and_a_forged_one_nothing(key: bytes) -> None:
    wire = bound()

    wire.refuse(wire.only(Method.ALLOCATE), 400, key=key)

    assert wire.methods() == []
    suspended = wire.allocation.poll_timeout() is None
    assert suspended is (key == CREDENTIALS.key)


def test_a_400_after_a_nonce_changes_nothing() -> None:
    wire = challenged()

    wire.refuse(wire.only(Method.ALLOCATE), 400, key=None)

    assert wire.methods() == []
    assert wire.after(1).only(Method.ALLOCATE).get(stun.NONCE) == "nonce-1"


def test_forged_400s_do_not_make_it_ask_for_ever() -> None:
    wire = bound()
    wire.refuse(wire.only(Method.ALLOCATE), 400, key=None)
    wire.refuse(wire.only_unsigned(Method.ALLOCATE), 400, key=None)

    assert wire.allocation.counters["unauthenticated_response"] == 1
    assert wire.allocation.poll_transmit() is None


@pytest.mark.parametrize("code", [401, 438])
def test_another_realm_stops(code: int) -> None:
    wire = bound()
    request = wire.only(Method.ALLOCATE)
    error = request.error(code).with_(stun.REALM, "elsewhere").with_(stun.NONCE, "nonce-1")

    assert wire.answer(error)

    assert wire.methods() == []
    assert wire.allocation.poll_timeout() is None


@pytest.mark.parametrize(
    ("username", "realm", "software"),
    [("x" * 513, "firezone", ""), ("u", "x" * 128, ""), ("u", "firezone", "x" * 128)],
)
def test_credentials_that_stun_cannot_bear(username: str, realm: str, software: str) -> None:
    with pytest.raises(LocalError):
        Allocation(
            server=ONLY_4,
            username=username,
            password="secret",
            realm=realm,
            software=software,
            entropy=random.Random(1).randbytes,
            now=0,
        )


def test_an_allocate_that_is_given_up_leaves_no_relay() -> None:
    wire = challenged()
    first = wire.only(Method.ALLOCATE)
    for seconds in (1, 1.5, 2.25, 3.375):
        wire.after(seconds)

    assert not wire.answer_allocate(first)
    assert wire.allocation.can_be_freed() is None, "sends and events wait"
    wire.drain()
    wire.news()
    assert wire.allocation.can_be_freed() == "no response"


def test_the_password_is_never_shown() -> None:
    assert "password" not in repr(CREDENTIALS).replace("password=", "")


# Candidates.


def test_returns_new_candidates_on_successful_allocation() -> None:
    wire = challenged()
    wire.answer_allocate(wire.only(Method.ALLOCATE))

    assert wire.news() == [HOST, SRFLX, *RELAYED]
    assert wire.allocation.candidates() == [HOST, SRFLX, *RELAYED]
    assert wire.allocation.relayed_addresses() == [RELAYED_4, RELAYED_6]


def test_both_stun_responses_are_returned_as_candidates() -> None:
    wire = Wire(BOTH)
    over_4, over_6 = wire.drain()
    wire.answer_binding(over_4)
    wire.answer_binding(over_6, LOCAL_6, source=RELAY_6, local=LOCAL_6)

    v6 = [CandidateAdded(kind, LOCAL_6, LOCAL_6) for kind in ("host", "srflx")]
    assert wire.news() == [HOST, SRFLX, *v6]
    assert wire.allocation.candidates() == [HOST, v6[0], SRFLX, v6[1]]


def test_a_changed_mapping_is_added_before_the_old_one_goes() -> None:
    wire = allocated()
    wire.after(25)
    elsewhere = Endpoint.parse("203.0.113.5:40001")

    wire.answer_binding(wire.only(Method.BINDING), elsewhere)

    assert wire.news() == [
        CandidateAdded("srflx", elsewhere, LOCAL_4),
        CandidateInvalidated("srflx", MAPPED_4, LOCAL_4),
    ]
    wire.after(25)
    wire.answer_binding(wire.only(Method.BINDING), elsewhere)
    assert wire.news() == []


@pytest.mark.parametrize(
    ("local", "mapped", "kinds"),
    [
        ("0.0.0.0:1", "203.0.113.5:1", []),
        ("127.0.0.1:1", "127.0.0.1:1", ["host", "srflx"]),
        ("169.254.1.1:1", "203.0.113.5:1", []),
        ("192.168.1.5:1", "255.255.255.255:1", ["host"]),
        ("192.168.1.5:1", "224.0.0.1:1", ["host"]),
        ("192.168.1.5:1", "203.0.113.5:0", ["host"]),
        ("192.168.1.5:1", "[2001:db8::1]:1", ["host"]),
    ],
)
def test_addresses_that_cannot_be_candidates(local: str, mapped: str, kinds: list[str]) -> None:
    wire = Wire()
    wire.answer_binding(
        wire.only(Method.BINDING), Endpoint.parse(mapped), local=Endpoint.parse(local)
    )

    assert [event.kind for event in wire.news()] == kinds
    assert wire.allocation.active_socket == RELAY_4


def test_a_relayed_address_of_each_family_and_the_first_of_it_counts() -> None:
    other = Endpoint.parse("198.51.100.1:50009")
    wire = challenged(relayed=(RELAYED_6, RELAYED_4, other))
    wire.news()
    wire.answer_allocate(wire.only(Method.ALLOCATE))

    assert wire.news() == RELAYED


# Lifetime.


def test_allocation_is_refreshed_after_half_its_lifetime() -> None:
    wire = allocated()
    wire.alive_for(299.9)
    assert Method.REFRESH not in [m.method for m, _ in wire.sent]

    wire.after(0.1)

    requests = {m.method: m for m in wire.drain()}
    assert Method.REFRESH in requests
    assert requests[Method.REFRESH].get(stun.LIFETIME) is None
    assert requests[Method.REFRESH].get(stun.NONCE) == "nonce-1"


def test_allocation_is_refreshed_only_once() -> None:
    wire = allocated()
    wire.alive_for(299.9)
    wire.after(0.1)
    assert Method.REFRESH in wire.grant_all()

    timeout = wire.allocation.poll_timeout()

    assert timeout is not None and timeout.deadline > wire.now
    assert Method.REFRESH not in wire.after(0.1).methods()


def test_an_allocation_lives_on_and_does_not_spin() -> None:
    wire = allocated()
    wire.alive_for(3600)

    methods = [m.method for m, _ in wire.sent]
    assert methods.count(Method.ALLOCATE) == 2
    assert methods.count(Method.REFRESH) == 12
    assert methods.count(Method.BINDING) == 1 + 144
    assert wire.news() == []


def test_a_refused_refresh_is_retried_later_not_at_once() -> None:
    """The original retries as fast as the relay refuses."""
    wire = allocated()
    wire.alive_for(299.9)
    wire.after(0.1)
    refresh = next(m for m in wire.drain() if m.method == Method.REFRESH)

    wire.refuse(refresh, 500)

    assert wire.after(0).methods() == []
    assert wire.after(1).methods() == [Method.BINDING], "of the keepalive"
    assert wire.allocation.has_allocation
    assert Method.REFRESH in wire.after(29).methods()


def test_expires_allocation_invalidates_candidates_and_allocates_anew() -> None:
    """The original stays without an allocation; a host that slept needs a new one."""
    wire = allocated()

    wire.after(600)

    assert wire.news() == INVALIDATED
    assert Method.ALLOCATE in wire.methods()
    assert wire.allocation.can_be_freed() is None


def test_timed_out_binding_requests_invalid_candidates() -> None:
    wire = allocated()
    wire.after(25)
    wire.only(Method.BINDING)
    for seconds in (1, 1.5, 2.25, 3.375):
        wire.after(seconds)

    assert wire.news() == INVALIDATED
    assert wire.allocation.active_socket is None
    assert wire.allocation.candidates() == [HOST, SRFLX]


def test_calling_refresh_with_same_credentials_will_trigger_refresh() -> None:
    wire = allocated()

    wire.allocation.refresh(wire.now)

    assert wire.only(Method.REFRESH).get(stun.LIFETIME) != 0


def test_a_demanded_refresh_is_a_single_attempt_of_a_second() -> None:
    wire = allocated()
    wire.allocation.refresh(wire.now)
    wire.only(Method.REFRESH)
    wire.allocation.refresh(wire.now)
    assert wire.methods() == [], "one is in flight"

    wire.after(1)

    assert wire.methods() == []
    assert wire.news() == INVALIDATED
    assert wire.allocation.can_be_freed() == "no response"


def test_refresh_does_nothing_if_we_dont_have_an_allocation_yet() -> None:
    wire = bound()
    wire.only(Method.ALLOCATE)

    wire.allocation.refresh(wire.now)

    assert wire.methods() == []


def test_failed_refresh_will_invalidate_relay_candidates() -> None:
    wire = allocated()
    wire.allocation.refresh(wire.now)

    wire.refuse(wire.only(Method.REFRESH), 437)

    assert wire.news() == INVALIDATED
    assert wire.allocation.candidates() == [HOST, SRFLX]


def test_failed_refresh_clears_all_channel_bindings() -> None:
    wire = with_channel()
    wire.allocation.refresh(wire.now)

    wire.refuse(wire.only(Method.REFRESH), 437)

    assert wire.news() == [*INVALIDATED, ChannelLost(0x4000, RELAY_4, PEER_4)]
    assert wire.allocation.channel_to(PEER_4, wire.now) is None


def test_failed_refresh_attempts_to_make_new_allocation() -> None:
    wire = allocated()
    wire.allocation.refresh(wire.now)
    wire.refuse(wire.only(Method.REFRESH), 437)

    wire.answer_allocate(wire.only(Method.ALLOCATE))

    assert wire.news() == [*INVALIDATED, *RELAYED]


def test_mismatch_on_allocate_deletes_the_old_one_first() -> None:
    wire = challenged()
    wire.refuse(wire.only(Method.ALLOCATE), 437)

    delete = wire.only(Method.REFRESH)

    assert delete.get(stun.LIFETIME) == 0
    wire.answer_refresh(delete, lifetime=0)
    wire.answer_allocate(wire.only(Method.ALLOCATE))
    assert wire.allocation.has_allocation


def test_mismatches_end_somewhere() -> None:
    wire = challenged()
    rounds = 0
    while (requests := wire.drain()) and rounds < 50:
        wire.refuse(requests[0], 437)
        rounds += 1

    assert rounds < 10
    assert wire.allocation.poll_timeout() is None
    wire.allocation.refresh(wire.now)
    assert wire.methods() == [Method.BINDING]


@pytest.mark.parametrize("code", [400, 403, 442, 486, 500, 508])
def test_failed_allocation_is_suspended(code: int) -> None:
    wire = challenged()

    wire.refuse(wire.only(Method.ALLOCATE), code)

    assert wire.methods() == []
    assert wire.allocation.poll_timeout() is None
    wire.news()
    assert wire.allocation.can_be_freed() is None


def test_when_refreshed_with_no_allocation_after_failed_response_tries_to_allocate() -> None:
    wire = challenged()
    wire.refuse(wire.only(Method.ALLOCATE), 500)

    wire.allocation.refresh(wire.now)

    wire.answer_binding(wire.only(Method.BINDING))
    wire.answer_allocate(wire.only(Method.ALLOCATE))
    assert wire.allocation.has_allocation


def test_a_slow_loser_of_the_race_does_not_hide_that_we_are_suspended() -> None:
    wire = challenged(BOTH)
    wire.refuse(wire.only(Method.ALLOCATE), 508)

    wire.allocation.bind_channel(PEER_4, wire.now)
    wire.allocation.refresh(wire.now)

    assert wire.methods() == [Method.BINDING, Method.BINDING]


def test_failed_allocation_clears_buffered_channel_bindings() -> None:
    wire = challenged()
    wire.allocation.bind_channel(PEER_4, wire.now)
    wire.refuse(wire.only(Method.ALLOCATE), 500)
    wire.allocation.bind_channel(PEER_4B, wire.now)

    wire.allocation.refresh(wire.now)

    assert wire.grant_all() == [Method.BINDING, Method.ALLOCATE]


def test_an_unknown_attribute_error_frees_at_once() -> None:
    wire = allocated()
    wire.allocation.bind_channel(PEER_4, wire.now)

    wire.refuse(wire.only(Method.CHANNEL_BIND), 420)

    assert wire.allocation.can_be_freed() == "protocol failure"


@pytest.mark.parametrize("lifetime", [None, 0])
def test_a_success_that_grants_nothing_is_no_allocation(lifetime: int | None) -> None:
    wire = challenged()
    response = wire.only(Method.ALLOCATE).success().with_(stun.XOR_RELAYED_ADDRESS, RELAYED_4)

    wire.answer(response if lifetime is None else response.with_(stun.LIFETIME, lifetime))

    assert not wire.allocation.has_allocation
    assert wire.methods() == []


def test_restart_keeps_the_credentials_and_forgets_the_addresses() -> None:
    wire = with_channel()

    wire.allocation.restart(wire.now)

    assert wire.news() == [
        *INVALIDATED,
        ChannelLost(0x4000, RELAY_4, PEER_4),
        CandidateInvalidated("host", LOCAL_4, LOCAL_4),
        CandidateInvalidated("srflx", MAPPED_4, LOCAL_4),
    ]
    wire.answer_binding(wire.only(Method.BINDING))
    assert wire.only(Method.ALLOCATE).get(stun.NONCE) == "nonce-1"


# What is not for us.


def test_datagrams_that_are_not_answers_of_the_relay() -> None:
    wire = challenged()
    request = wire.only(Method.ALLOCATE)
    allocation, now = wire.allocation, wire.now
    good = request.success().encode(CREDENTIALS.key)

    assert not allocation.handle_datagram(LOCAL_4, PEER_4, good, now)
    assert not allocation.handle_datagram(LOCAL_4, RELAY_6, good, now)
    assert not allocation.handle_datagram(LOCAL_4, RELAY_4, good[:-1], now)
    assert not allocation.handle_datagram(LOCAL_4, RELAY_4, b"", now)
    assert not allocation.handle_datagram(LOCAL_4, RELAY_4, request.encode(), now)
    other_method = stun.Message.request(Method.REFRESH, lambda _: request.transaction_id)
    assert not wire.answer(other_method.success())
    stranger = stun.Message.request(Method.ALLOCATE, random.Random(9).randbytes)
    assert not wire.answer_allocate(stranger)
    assert wire.answer_allocate(request)
    assert not wire.answer_allocate(request), "it was answered"


def test_an_answer_from_the_other_family_does_not_count() -> None:
    wire = Wire(BOTH)
    over_4, _ = wire.drain()

    assert not wire.answer_binding(over_4, source=RELAY_6)
    assert wire.allocation.active_socket is None
