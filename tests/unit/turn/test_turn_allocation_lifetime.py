"""The life of an allocation: refreshes, expiry, failures and a restart."""

import pytest
from turn_client_kit import (
    BOTH,
    LOCAL_4,
    MAPPED_4,
    PEER_4,
    PEER_4B,
    RELAY_4,
    RELAYED_4,
    RELAYED_6,
    allocated,
    bound,
    challenged,
    with_channel,
)

from firezone import stun
from firezone.stun import Method
from firezone.turn import CandidateAdded, CandidateInvalidated, ChannelLost

HOST = CandidateAdded("host", LOCAL_4, LOCAL_4)
SRFLX = CandidateAdded("srflx", MAPPED_4, LOCAL_4)
RELAYED = [CandidateAdded("relay", a, a) for a in (RELAYED_4, RELAYED_6)]
INVALIDATED = [CandidateInvalidated("relay", a, a) for a in (RELAYED_4, RELAYED_6)]


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
