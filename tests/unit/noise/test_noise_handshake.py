"""Handshakes that go wrong, cross, or are attacked."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise_pair import INITIATION, LATENCY, RESPONSE, Pair, Side, kind_of

from firezone.durations import MILLISECOND, SECOND
from firezone.errors import LocalError
from firezone.noise import (
    Expired,
    MessageType,
    Reason,
    SessionEstablished,
    StaticKeypair,
    Tunnel,
    open_initiation,
)
from firezone.noise.handshake import tai64n


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_responder_sends_only_after_the_first_packet_of_the_new_session(pair: Pair) -> None:
    response = respond(pair, pair.b, initiation_of(pair, pair.a))
    pair.b.drain(pair.now)
    assert len(pair.b.keypairs) == 1
    assert pair.b.current is None
    assert not pair.b.tunnel.has_session(pair.now)
    assert not pair.b.events
    pair.a.receive(response, pair.now)
    assert pair.a.tunnel.has_session(pair.now)
    (keepalive,) = pair.a.out
    pair.b.receive(keepalive, pair.now)
    assert pair.b.tunnel.has_session(pair.now)
    assert pair.b.events == [SessionEstablished(0x0A000101, initiator=False)]


def test_simultaneous_initiations_converge(pair: Pair) -> None:
    for side in (pair.a, pair.b):
        pair.send(side, side.name.encode())
    pair.run(SECOND)
    assert pair.a.received == [b"b"]
    assert pair.b.received == [b"a"]
    assert not pair.a.tunnel.handshake_in_progress
    assert not pair.b.tunnel.handshake_in_progress
    assert len(pair.sent(INITIATION)) == len(pair.sent(RESPONSE)) == 2
    assert not pair.counters()
    pair.run(100 * SECOND)
    assert len(pair.sent(INITIATION)) == 2


@pytest.mark.parametrize("late_first", [True, False])
def test_late_response_to_a_superseded_initiation(pair: Pair, late_first: bool) -> None:
    first = initiation_of(pair, pair.a)
    second = retransmission_of(pair, pair.a)
    responses = [respond(pair, pair.b, message) for message in (first, second)]
    pair.b.drain(pair.now)
    for response in responses if late_first else reversed(responses):
        pair.a.receive(response, pair.now)
        pair.flush()
    pair.run(SECOND)
    assert len(pair.a.established) == 2
    assert not pair.a.tunnel.handshake_in_progress
    pair.send(pair.a, b"to b")
    pair.send(pair.b, b"to a")
    pair.run(SECOND)
    assert pair.b.received == [b"to b"]
    assert pair.a.received == [b"to a"]


def test_session_from_a_superseded_initiation_ends_the_attempt(pair: Pair) -> None:
    """Else the newer initiation, unanswered, would expire a tunnel that works."""
    first = initiation_of(pair, pair.a)
    response = respond(pair, pair.b, first)
    pair.b.drain(pair.now)
    retransmission_of(pair, pair.a)
    pair.a.receive(response, pair.now)
    pair.run(60 * SECOND)
    assert Expired() not in pair.a.events
    assert not pair.sent(INITIATION)


def test_third_initiation_forgets_the_first(pair: Pair) -> None:
    first = initiation_of(pair, pair.a)
    retransmission_of(pair, pair.a)
    retransmission_of(pair, pair.a)
    pair.a.receive(respond(pair, pair.b, first), pair.now)
    assert pair.a.tunnel.counters == {Reason.WRONG_INDEX: 1}


def test_initiations_of_one_instant_are_not_replays_of_each_other(pair: Pair) -> None:
    """The clock may stand still between two of them; the timestamp may not."""
    first = initiation_of(pair, pair.a)
    pair.a.tunnel.close()
    second = initiation_of(pair, pair.a)
    respond(pair, pair.b, first)
    respond(pair, pair.b, second)
    assert not pair.b.tunnel.counters


def test_replayed_initiation(pair: Pair) -> None:
    first = initiation_of(pair, pair.a)
    second = retransmission_of(pair, pair.a)
    respond(pair, pair.b, second)
    for old in (first, second):
        pair.b.tunnel.handle_handshake(old, pair.now)
        assert pair.b.tunnel.poll_transmit() is None
    assert pair.b.tunnel.counters == {Reason.REPLAYED: 2}


def test_replayed_response(pair: Pair) -> None:
    response = respond(pair, pair.b, initiation_of(pair, pair.a))
    pair.a.receive(response, pair.now)
    pair.a.receive(response, pair.now)
    assert len(pair.a.established) == 1
    assert pair.a.tunnel.counters == {Reason.WRONG_INDEX: 1}


def test_response_with_a_wrong_index(pair: Pair) -> None:
    response = respond(pair, pair.b, initiation_of(pair, pair.a))
    wrong = response[:8] + b"\xff\xff\xff\xff" + response[12:]
    pair.a.receive(wrong, pair.now)
    assert pair.a.tunnel.counters == {Reason.WRONG_INDEX: 1}
    pair.a.receive(response, pair.now)
    assert len(pair.a.established) == 1


@given(st.integers(0, 148 * 8 - 1))
def test_tampered_initiation(bit: int) -> None:
    """Any bit but those of the MACs, which the rate limiter checks, and of the sender index."""
    pair = Pair()
    initiation = initiation_of(pair, pair.a)
    pair.b.tunnel.handle_handshake(flipped(initiation, bit), pair.now)
    if 4 <= bit // 8 < 8 or bit // 8 >= 116:
        return
    assert pair.b.tunnel.poll_transmit() is None
    assert pair.b.tunnel.poll_command() is None
    assert pair.b.tunnel.counters.total() == 1
    respond(pair, pair.b, initiation)


@given(st.integers(0, 60 * 8 - 1))
def test_tampered_response(bit: int) -> None:
    pair = Pair()
    response = respond(pair, pair.b, initiation_of(pair, pair.a))
    pair.a.tunnel.handle_handshake(flipped(response, bit), pair.now)
    if 4 <= bit // 8 < 8:
        return
    assert pair.a.tunnel.poll_command() is None
    assert pair.a.tunnel.counters.total() == 1
    pair.a.receive(response, pair.now)
    assert len(pair.a.established) == 1


def test_low_order_ephemerals(pair: Pair) -> None:
    initiation = initiation_of(pair, pair.a)
    pair.b.tunnel.handle_handshake(initiation[:8] + bytes(32) + initiation[40:], pair.now)
    response = respond(pair, pair.b, initiation)
    pair.a.tunnel.handle_handshake(response[:12] + bytes(32) + response[44:], pair.now)
    assert pair.counters() == {Reason.LOW_ORDER: 2}


def test_preshared_keys_differ() -> None:
    pair = Pair(psk_a=b"p" * 32, psk_b=b"q" * 32)
    pair.send(pair.a)
    pair.run(60 * SECOND)
    assert not pair.a.established
    assert not pair.b.established
    assert pair.a.events == [Expired()]
    assert pair.a.tunnel.counters == {Reason.BAD_TAG: 4}


@pytest.mark.parametrize("absent", [None, bytes(32)])
def test_no_preshared_key_is_32_zero_bytes(absent: bytes | None) -> None:
    Pair(psk_a=None, psk_b=absent).connect()


def test_initiation_of_somebody_else(pair: Pair) -> None:
    stranger = Pair(seed=2)
    mallory = Tunnel(
        slot=1,
        tunnel_id=9,
        static=stranger.keys[0],
        peer_public_key=pair.keys[1].public,
        preshared_key=b"p" * 32,
        entropy=stranger.entropy,
        unix_now=0,
        now=0,
    )
    mallory.initiate(0)
    message = mallory.poll_transmit()
    assert message is not None
    assert open_initiation(pair.keys[1], message).initiator == stranger.keys[0].public
    pair.b.tunnel.handle_handshake(message, pair.now)
    assert pair.b.tunnel.counters == {Reason.WRONG_KEY: 1}
    assert pair.b.tunnel.poll_transmit() is None


def test_confirmation_of_an_unknown_or_older_session(pair: Pair) -> None:
    respond(pair, pair.b, initiation_of(pair, pair.a))
    respond(pair, pair.b, retransmission_of(pair, pair.a))
    pair.b.drain(pair.now)
    older, newer = sorted(pair.b.keypairs.values(), key=lambda keypair: keypair.created_at)
    pair.b.tunnel.handle_session_confirmed(newer.local_index, pair.now)
    pair.b.tunnel.handle_session_confirmed(newer.local_index, pair.now)
    pair.b.tunnel.handle_session_confirmed(older.local_index, pair.now)
    pair.b.tunnel.handle_session_confirmed(older.local_index + 8, pair.now)
    assert pair.b.tunnel.counters == {Reason.UNEXPECTED: 1}
    pair.b.drain(pair.now)
    assert pair.b.events == [SessionEstablished(newer.local_index, initiator=False)]


def test_ninth_session_replaces_the_first(pair: Pair) -> None:
    pair.connect()
    for _ in range(8):
        pair.run(SECOND)
        pair.a.tunnel.initiate(pair.now)
        pair.a.drain(pair.now)
        pair.flush()
    pair.run(4 * LATENCY)
    assert len(pair.a.keypairs) == len(pair.b.keypairs) == 8
    pair.send(pair.a, b"x")
    pair.run(SECOND)
    assert pair.b.received == [b"x"]


def test_close_removes_every_key(pair: Pair) -> None:
    pair.connect()
    pair.a.tunnel.initiate(pair.now)
    pair.a.tunnel.close()
    pair.a.drain(pair.now)
    assert not pair.a.keypairs
    assert not pair.a.out
    assert not pair.a.tunnel.has_session(pair.now)
    assert Expired() not in pair.a.events
    assert pair.a.tunnel.poll_timeout(pair.a.activity) is None


def test_secrets_are_in_no_repr(pair: Pair) -> None:
    pair.a.tunnel.initiate(pair.now)
    pair.b.receive(polled(pair.a), pair.now)
    (keypair,) = pair.b.keypairs.values()
    private = bytes(range(32, 64))
    ours = StaticKeypair.from_private(private)
    shown = f"{pair.a.tunnel!r} {ours!r} {ours._private!r} {keypair!r}"
    for secret in (keypair.send_key, keypair.receive_key, private, b"p" * 32):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


@pytest.mark.parametrize(
    ("peer", "psk"),
    [
        (bytes(31), None),
        (bytes(range(32)), bytes(31)),
        (bytes(32), None),
        (b"\1" + bytes(31), None),
    ],
)
def test_bad_keys_are_the_callers_mistake(peer: bytes, psk: bytes | None) -> None:
    with pytest.raises(LocalError):
        Tunnel(
            slot=1,
            tunnel_id=1,
            static=StaticKeypair.from_private(b"s" * 32),
            peer_public_key=peer,
            preshared_key=psk,
            entropy=bytes,
            unix_now=0,
            now=0,
        )


def test_tai64n() -> None:
    assert tai64n(0).hex() == "400000000000002500000000"
    assert tai64n(1 * SECOND - 1) < tai64n(1 * SECOND) < tai64n(1 * SECOND + 1)


@pytest.mark.parametrize("seed", range(8))
def test_recovers_from_a_bad_wire(seed: int) -> None:
    """Five minutes of heavy loss with traffic both ways, then none: both sides get through."""
    pair, chance = Pair(seed=seed), random.Random(seed)
    pair.lost = lambda sender, message: chance.random() < 0.6
    for _ in range(300):
        for side in (pair.a, pair.b):
            pair.send(side, b"noise")
        pair.run(chance.randrange(2 * SECOND))
    pair.lost = lambda sender, message: False
    for _ in range(40):
        for side in (pair.a, pair.b):
            pair.send(side, b"noise")
        pair.run(SECOND)
    for side in (pair.a, pair.b):
        pair.send(side, b"clear")
    pair.run(SECOND)
    assert pair.a.received[-1] == pair.b.received[-1] == b"clear"


@pytest.mark.parametrize("kind", [INITIATION, RESPONSE])
def test_lost_message_is_made_up_for(pair: Pair, kind: MessageType) -> None:
    pair.lost = lambda sender, message: kind_of(message) is kind and not pair.sent(kind)[1:]
    pair.send(pair.a, b"x")
    pair.run(6 * SECOND)
    assert pair.b.received == [b"x"]
    assert len(pair.sent(INITIATION)) == 2


def flipped(message: bytes, bit: int) -> bytes:
    changed = bytearray(message)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def initiation_of(pair: Pair, side: Side) -> bytes:
    assert side.tunnel.initiate(pair.now)
    return polled(side)


def retransmission_of(pair: Pair, side: Side) -> bytes:
    """Let the timer and then the jitter pass."""
    for duration in (5 * SECOND, 333 * MILLISECOND):
        pair.now += duration
        side.tunnel.handle_timeout(side.activity, pair.now)
    return polled(side)


def polled(side: Side) -> bytes:
    message = side.tunnel.poll_transmit()
    assert message is not None
    return message


def respond(pair: Pair, side: Side, initiation: bytes) -> bytes:
    side.tunnel.handle_handshake(initiation, pair.now)
    return polled(side)
