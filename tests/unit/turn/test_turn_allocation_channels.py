"""Channels of a TURN client: when they are asked for, what passes over them."""

import random

import pytest
from turn_client_kit import (
    LOCAL_4,
    PEER_4,
    PEER_4B,
    PEER_6,
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
from firezone.durations import MINUTE, SECOND
from firezone.model import Endpoint
from firezone.stun import Method
from firezone.turn import (
    Channel,
    ChannelConfirmed,
    ChannelLost,
    Decapsulated,
    encode_channel_data,
)

# Asking.


def test_a_bind_names_peer_and_number() -> None:
    wire = allocated()
    wire.allocation.bind_channel(PEER_4, wire.now)

    bind = wire.only(Method.CHANNEL_BIND)

    assert bind.get(stun.XOR_PEER_ADDRESS) == PEER_4
    assert bind.get(stun.CHANNEL_NUMBER) == 0x4000
    assert bind.get(stun.NONCE) == "nonce-1"
    wire.answer(bind.success())
    assert wire.news() == [ChannelConfirmed(PEER_4, 0x4000, RELAY_4)]


def test_buffer_channel_bind_requests_until_we_have_allocation() -> None:
    wire = Wire()
    wire.allocation.bind_channel(PEER_4, wire.now)
    wire.answer_binding(wire.only(Method.BINDING))

    wire.answer_allocate(wire.only(Method.ALLOCATE))

    assert wire.only(Method.CHANNEL_BIND).get(stun.XOR_PEER_ADDRESS) == PEER_4


def test_buffered_channel_bindings_to_different_peers_work_in_order() -> None:
    wire = challenged()
    for peer in (PEER_4B, PEER_6, PEER_4):
        wire.allocation.bind_channel(peer, wire.now)

    wire.answer_allocate(wire.only(Method.ALLOCATE))

    assert peers_of(wire.drain()) == [PEER_4B, PEER_6, PEER_4]


def test_dont_buffer_channel_bindings_twice() -> None:
    wire = challenged()
    wire.allocation.bind_channel(PEER_4, wire.now)
    wire.allocation.bind_channel(PEER_4, wire.now)

    wire.answer_allocate(wire.only(Method.ALLOCATE))

    assert peers_of(wire.drain()) == [PEER_4]


def test_the_buffer_keeps_the_last_hundred() -> None:
    wire = challenged()
    peers = [Endpoint.of("192.0.2.1", 1 + i) for i in range(130)]
    for peer in peers:
        wire.allocation.bind_channel(peer, wire.now)

    wire.answer_allocate(wire.only(Method.ALLOCATE))

    assert peers_of(wire.drain()) == peers[30:]


def test_dont_send_channel_binding_if_inflight() -> None:
    wire = allocated()
    wire.allocation.bind_channel(PEER_4, wire.now)
    wire.only(Method.CHANNEL_BIND)

    wire.allocation.bind_channel(PEER_4, wire.now)

    assert wire.methods() == []


def test_send_channel_binding_to_second_peer_if_inflight_for_other() -> None:
    wire = allocated()
    wire.allocation.bind_channel(PEER_4, wire.now)
    wire.only(Method.CHANNEL_BIND)

    wire.allocation.bind_channel(PEER_4B, wire.now)

    assert wire.only(Method.CHANNEL_BIND).get(stun.CHANNEL_NUMBER) == 0x4001


def test_rebinding_existing_channel_send_no_message() -> None:
    wire = with_channel()

    wire.allocation.bind_channel(PEER_4, wire.now)

    assert wire.methods() == []


@pytest.mark.parametrize(
    ("relayed", "peer"), [((RELAYED_4,), PEER_6), ((RELAYED_6,), PEER_4)], ids=["no_ip6", "no_ip4"]
)
def test_no_bind_for_a_family_that_is_not_relayed(
    relayed: tuple[Endpoint, ...], peer: Endpoint
) -> None:
    wire = challenged(relayed=relayed)
    wire.allocation.bind_channel(peer, wire.now)
    wire.answer_allocate(wire.only(Method.ALLOCATE))
    assert wire.methods() == [], "the buffered one"

    wire.allocation.bind_channel(peer, wire.now)

    assert wire.methods() == []
    assert wire.allocation.channel_to(peer, wire.now) is None


def test_given_only_ip4_buffered_binds_of_that_family_go_out() -> None:
    wire = challenged(relayed=(RELAYED_4,))
    for peer in (PEER_6, PEER_4):
        wire.allocation.bind_channel(peer, wire.now)

    wire.answer_allocate(wire.only(Method.ALLOCATE))

    assert peers_of(wire.drain()) == [PEER_4]


def test_failed_channel_binding_removes_state() -> None:
    wire = allocated()
    wire.allocation.bind_channel(PEER_4, wire.now)
    bind = wire.only(Method.CHANNEL_BIND)
    assert wire.allocation.channel_to(PEER_4, wire.now) is not None

    wire.refuse(bind, 400)

    assert wire.allocation.channel_to(PEER_4, wire.now) is None
    assert wire.news() == [ChannelLost(0x4000, RELAY_4, PEER_4)], "it was good for sending"
    wire.allocation.bind_channel(PEER_4, wire.now)
    assert wire.only(Method.CHANNEL_BIND).get(stun.CHANNEL_NUMBER) == 0x4001


def test_a_peer_that_the_relay_must_not_send_to_is_asked_for_every_five_minutes() -> None:
    wire = allocated()
    wire.allocation.bind_channel(PEER_4, wire.now)
    wire.refuse(wire.only(Method.CHANNEL_BIND), 403)

    for _ in range(3):
        wire.allocation.bind_channel(PEER_4, wire.now)
        assert wire.methods() == []
        wire.alive_for(99)
    wire.allocation.bind_channel(PEER_4B, wire.now)
    assert peers_of(wire.drain()) == [PEER_4B], "others are not concerned"
    wire.alive_for(4)

    wire.allocation.bind_channel(PEER_4, wire.now)

    assert peers_of(wire.drain()) == [PEER_4]


def test_a_new_allocation_has_refused_nobody() -> None:
    wire = allocated()
    wire.allocation.bind_channel(PEER_4, wire.now)
    wire.refuse(wire.only(Method.CHANNEL_BIND), 403)
    wire.allocation.refresh(wire.now)
    wire.refuse(wire.only(Method.REFRESH), 437)
    wire.answer_allocate(wire.only(Method.ALLOCATE))

    wire.allocation.bind_channel(PEER_4, wire.now)

    assert peers_of(wire.drain()) == [PEER_4]


def test_refused_peers_do_not_pile_up() -> None:
    wire = allocated()
    peers = [Endpoint.of("192.0.2.1", 1 + i) for i in range(300)]
    for peer in peers:
        wire.allocation.bind_channel(peer, wire.now)
        wire.refuse(wire.only(Method.CHANNEL_BIND), 403)

    for peer in peers:
        wire.allocation.bind_channel(peer, wire.now)

    assert peers_of(wire.drain()) == peers[:44], "the first are forgotten"


def test_allocation_mismatch_in_channel_binding_clears_and_reallocates() -> None:
    wire = with_channel(PEER_4B)
    wire.allocation.bind_channel(PEER_4, wire.now)

    wire.refuse(wire.only(Method.CHANNEL_BIND), 437)

    allocate = wire.only(Method.ALLOCATE)
    assert wire.allocation.channel_to(PEER_4B, wire.now) is None
    wire.answer_allocate(allocate)
    assert peers_of(wire.drain()) == [PEER_4]


def test_stale_nonces_hit_many_binds_at_once() -> None:
    wire = allocated()
    for index in range(20):
        wire.allocation.bind_channel(Endpoint.of("192.0.2.1", 1 + index), wire.now)
    for index, bind in enumerate(wire.drain()):
        wire.refuse(bind, 438, nonce=f"fresh-{index}")

    wire.grant_all()

    assert sum(isinstance(event, ChannelConfirmed) for event in wire.news()) == 20


# Sending and receiving.


def test_does_relay_to_with_bound_channel() -> None:
    wire = with_channel()

    assert wire.allocation.channel_to(PEER_4, wire.now) == Channel(RELAY_4, 0x4000)


def test_relays_to_inflight_channel() -> None:
    wire = allocated()
    wire.allocation.bind_channel(PEER_4, wire.now)

    assert wire.allocation.channel_to(PEER_4, wire.now) == Channel(RELAY_4, 0x4000)


def test_does_not_relay_to_with_unbound_channel() -> None:
    assert allocated().allocation.channel_to(PEER_4, 0) is None
    assert bound().allocation.channel_to(PEER_4, 0) is None


def test_bound_channel_can_decode_data() -> None:
    wire = with_channel()
    data = encode_channel_data(0x4000, b"payload")

    inner = wire.allocation.decapsulate(RELAY_4, data, wire.now)

    assert inner == Decapsulated(PEER_4, RELAYED_4, b"payload")


def test_a_peer_of_the_other_family_comes_in_at_that_relayed_address() -> None:
    wire = with_channel(PEER_6)

    inner = wire.allocation.decapsulate(RELAY_4, encode_channel_data(0x4000, b""), wire.now)

    assert inner == Decapsulated(PEER_6, RELAYED_6, b"")


def test_data_that_no_bound_channel_of_ours_carries_is_dropped() -> None:
    wire = with_channel()
    wire.allocation.bind_channel(PEER_4B, wire.now)
    good = encode_channel_data(0x4000, b"x")
    cases = [
        (RELAY_4, encode_channel_data(0x4001, b"x")),  # asked for, not confirmed
        (RELAY_4, encode_channel_data(0x4002, b"x")),
        (RELAY_4, good + b"\0\0\0"),
        (RELAY_4, good[:-1]),
        (RELAY_6, good),
        (PEER_4, good),
        (RELAY_4, b""),
    ]

    for source, data in cases:
        assert wire.allocation.decapsulate(source, data, wire.now) is None
    assert sum(wire.allocation.counters.values()) >= len(cases)


# Time.


def test_channel_with_received_data_is_refreshed_at_5_minutes() -> None:
    wire = with_channel()
    wire.alive_for(60)
    wire.allocation.decapsulate(RELAY_4, encode_channel_data(0x4000, b"x"), wire.now)

    wire.alive_for(239.9)
    assert binds(wire) == 1
    wire.after(0.1)
    (bind,) = (m for m in wire.drain() if m.method == Method.CHANNEL_BIND)

    assert bind.get(stun.CHANNEL_NUMBER) == 0x4000
    assert bind.get(stun.XOR_PEER_ADDRESS) == PEER_4
    wire.after(0)
    assert wire.methods() == [], "it is in flight"
    wire.answer(bind.success())
    assert wire.news() == [], "a refresh is no news"


def test_what_the_data_plane_saw_counts_as_received() -> None:
    wire = with_channel()
    for _ in range(40):
        wire.alive_for(30)
        wire.allocation.handle_channel_activity(0x4000, wire.now)

    assert wire.allocation.channel_to(PEER_4, wire.now) is not None
    assert 4 <= binds(wire) <= 5
    assert wire.news() == []


def test_a_channel_without_data_is_lost_after_10_minutes() -> None:
    wire = with_channel()
    wire.alive_for(599.9)
    assert wire.news() == []

    wire.alive_for(0.1)

    assert wire.news() == [ChannelLost(0x4000, RELAY_4, PEER_4)]
    assert binds(wire) == 1
    assert wire.allocation.channel_to(PEER_4, wire.now) is None
    data = encode_channel_data(0x4000, b"x")
    assert wire.allocation.decapsulate(RELAY_4, data, wire.now) is None


def test_a_lost_channel_comes_back_under_its_number_while_it_cools_down() -> None:
    wire = with_channel()
    wire.alive_for(12 * 60)
    wire.news()

    wire.allocation.bind_channel(PEER_4, wire.now)

    bind = wire.only(Method.CHANNEL_BIND)
    assert bind.get(stun.CHANNEL_NUMBER) == 0x4000
    wire.answer(bind.success())
    assert wire.news() == [ChannelConfirmed(PEER_4, 0x4000, RELAY_4)]


def test_the_wake_for_a_channel_is_announced() -> None:
    wire = with_channel()
    wire.allocation.handle_channel_activity(0x4000, wire.now + SECOND)
    wire.now += 5 * MINUTE
    timeout = wire.allocation.poll_timeout()

    assert timeout is not None and timeout.deadline <= wire.now


# Anything at all.


@pytest.mark.parametrize("source", [RELAY_4, RELAY_6, PEER_4])
def test_no_datagram_raises(source: Endpoint) -> None:
    generator = random.Random(11)
    wire = with_channel()
    wire.allocation.refresh(wire.now)
    wire.allocation.bind_channel(PEER_4B, wire.now)
    answers = [request.success().encode() for request in wire.drain()]
    answers += [request.error(438).encode() for request, _ in wire.sent]
    answers.append(encode_channel_data(0x4000, bytes(40)))
    for _ in range(3000):
        data = bytearray(generator.choice(answers))
        for _ in range(generator.randrange(4)):
            data[generator.randrange(len(data))] ^= generator.randrange(256)
        data = data[: generator.randrange(len(data) + 1)] if generator.random() < 0.3 else data
        wire.allocation.handle_datagram(LOCAL_4, source, bytes(data), wire.now)
        wire.allocation.decapsulate(source, bytes(data), wire.now)
    assert wire.allocation.has_allocation


def peers_of(requests: list[stun.Message]) -> list[Endpoint | None]:
    assert all(request.method == Method.CHANNEL_BIND for request in requests)
    return [request.get(stun.XOR_PEER_ADDRESS) for request in requests]


def binds(wire: Wire) -> int:
    return sum(request.method == Method.CHANNEL_BIND for request, _ in wire.sent)
