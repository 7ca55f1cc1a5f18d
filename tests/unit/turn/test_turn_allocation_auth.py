"""Whom an allocation believes: challenges, nonces, refusals that are signed or forged."""

import random

import pytest
from turn_client_kit import (
    CREDENTIALS,
    ONLY_4,
    PEER_4,
    RELAY_4,
    RELAYED_4,
    RELAYED_6,
    Wire,
    allocated,
    bound,
    challenged,
)

from firezone import stun
from firezone.errors import LocalError
from firezone.stun import Method
from firezone.turn import Allocation, CandidateInvalidated

INVALIDATED = [CandidateInvalidated("relay", a, a) for a in (RELAYED_4, RELAYED_6)]


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
