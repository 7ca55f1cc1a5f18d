"""Racing, backoff and candidates of an allocation."""

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
    RELAY_4,
    RELAY_6,
    RELAYED_4,
    RELAYED_6,
    Wire,
    allocated,
    bound,
    challenged,
)

from firezone import stun
from firezone.durations import MILLISECOND, SECOND
from firezone.model import Endpoint
from firezone.stun import Method
from firezone.turn import CandidateAdded, CandidateInvalidated, RelayServer

HOST = CandidateAdded("host", LOCAL_4, LOCAL_4)
SRFLX = CandidateAdded("srflx", MAPPED_4, LOCAL_4)
RELAYED = [CandidateAdded("relay", a, a) for a in (RELAYED_4, RELAYED_6)]


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


def test_looking_at_the_clock_in_between_shifts_no_send() -> None:
    wire = Wire()
    start = wire.now
    wire.drain()

    sent_after = []
    for _ in range(1200):
        wire.now += 10 * MILLISECOND
        wire.allocation.handle_timeout(wire.now)
        sent_after += [(wire.now - start) / SECOND for _ in wire.drain()]

    assert sent_after == [1, 2.5, 4.75]


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
