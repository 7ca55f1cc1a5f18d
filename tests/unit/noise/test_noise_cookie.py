"""mac1, the limit, and the round trip of a cookie."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise_pair import Pair, Side

from firezone.durations import MILLISECOND, SECOND
from firezone.model import Endpoint
from firezone.noise import Accepted, CookieReply, RateLimiter, Reason, Rejected

SOURCE = Endpoint.of("192.0.2.1", 1000)
OTHER = Endpoint.of("192.0.2.2", 1000)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_below_the_limit_no_cookie_is_asked(pair: Pair) -> None:
    limiter = limiter_of(pair, pair.b, 3)
    message = initiation(pair)
    verdicts = [limiter.verify(message, SOURCE, pair.now) for _ in range(4)]
    assert verdicts[:3] == [Accepted()] * 3
    assert isinstance(verdicts[3], CookieReply)
    assert len(verdicts[3].message) == 64


def test_window_resets_on_use(pair: Pair) -> None:
    limiter = limiter_of(pair, pair.b, 1)
    message = initiation(pair)
    assert limiter.verify(message, None, pair.now) == Accepted()
    nearly = pair.now + SECOND - 1
    assert limiter.verify(message, None, nearly) == Rejected(Reason.UNDER_LOAD)
    assert limiter.verify(message, None, pair.now + SECOND) == Accepted()
    assert limiter.verify(message, None, pair.now + SECOND) == Rejected(Reason.UNDER_LOAD)


def test_cookie_gets_the_next_initiation_through(pair: Pair) -> None:
    limiter = limiter_of(pair, pair.b, 0)
    reply = challenged(pair, limiter, initiation(pair))
    assert limiter.verify(reply, SOURCE, pair.now) == Accepted()
    pair.a.tunnel.handle_handshake(reply, pair.now)
    assert pair.a.tunnel.poll_transmit() is None, "a cookie triggers nothing"
    pair.now += 5 * SECOND
    message = initiation(pair)
    assert message[-16:] != bytes(16)
    assert limiter.verify(message, SOURCE, pair.now) == Accepted()
    assert isinstance(limiter.verify(message, OTHER, pair.now), CookieReply)
    assert limiter.verify(message, None, pair.now) == Rejected(Reason.UNDER_LOAD)


def test_responses_are_limited_too(pair: Pair) -> None:
    limiter = limiter_of(pair, pair.a, 0)
    pair.b.tunnel.handle_handshake(initiation(pair), pair.now)
    response = pair.b.tunnel.poll_transmit()
    assert response is not None
    pair.b.tunnel.handle_handshake(challenged(pair, limiter, response), pair.now)
    pair.b.tunnel.handle_handshake(initiation(pair), pair.now)
    again = pair.b.tunnel.poll_transmit()
    assert again is not None
    assert limiter.verify(again, SOURCE, pair.now) == Accepted()


def test_cookie_expires_after_two_minutes(pair: Pair) -> None:
    limiter = limiter_of(pair, pair.b, 0)
    pair.a.tunnel.handle_handshake(challenged(pair, limiter, initiation(pair)), pair.now)
    pair.now += 120 * SECOND - MILLISECOND
    assert initiation(pair)[-16:] != bytes(16)
    pair.now += MILLISECOND
    assert initiation(pair)[-16:] == bytes(16)


def test_cookie_of_an_earlier_epoch_is_refused(pair: Pair) -> None:
    limiter = limiter_of(pair, pair.b, 0)
    pair.now += 100 * SECOND
    pair.a.tunnel.handle_handshake(challenged(pair, limiter, initiation(pair)), pair.now)
    pair.now += 27 * SECOND
    assert limiter.verify(initiation(pair), SOURCE, pair.now) == Accepted()
    pair.now += 2 * SECOND
    assert isinstance(limiter.verify(initiation(pair), SOURCE, pair.now), CookieReply)


def test_cookie_for_nothing(pair: Pair) -> None:
    other = Pair(seed=7)
    reply = challenged(pair, limiter_of(pair, pair.b, 0), initiation(pair))
    other.a.tunnel.handle_handshake(reply, pair.now)
    assert other.a.tunnel.counters == {Reason.UNEXPECTED: 1}


def test_cookie_for_a_superseded_initiation(pair: Pair) -> None:
    reply = challenged(pair, limiter_of(pair, pair.b, 0), initiation(pair))
    initiation(pair)
    pair.a.tunnel.handle_handshake(reply, pair.now)
    assert pair.a.tunnel.counters == {Reason.WRONG_INDEX: 1}


@given(st.integers(8, 63), st.integers(0, 7))
def test_tampered_cookie(at: int, bit: int) -> None:
    pair = Pair()
    reply = bytearray(challenged(pair, limiter_of(pair, pair.b, 0), initiation(pair)))
    reply[at] ^= 1 << bit
    pair.a.tunnel.handle_handshake(bytes(reply), pair.now)
    assert pair.a.tunnel.counters == {Reason.BAD_TAG: 1}
    assert initiation(pair)[-16:] == bytes(16)


@given(st.integers(0, 131), st.integers(0, 7))
def test_wrong_mac1_is_rejected_and_not_counted(at: int, bit: int) -> None:
    pair = Pair()
    limiter = limiter_of(pair, pair.b, 1)
    message = initiation(pair)
    changed = bytearray(message)
    changed[at] ^= 1 << bit
    reason = Reason.MALFORMED if at < 4 else Reason.BAD_MAC1
    assert limiter.verify(bytes(changed), SOURCE, pair.now) == Rejected(reason)
    assert limiter.verify(message, SOURCE, pair.now) == Accepted()


def test_mac1_is_bound_to_the_receiver(pair: Pair) -> None:
    limiter = limiter_of(pair, pair.a, 100)
    assert limiter.verify(initiation(pair), SOURCE, pair.now) == Rejected(Reason.BAD_MAC1)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_cookie_is_bound_to_the_address_but_not_the_port(pair: Pair, address: str) -> None:
    limiter = limiter_of(pair, pair.b, 0)
    verdict = limiter.verify(initiation(pair), Endpoint.of(address, 1), pair.now)
    assert isinstance(verdict, CookieReply)
    pair.a.tunnel.handle_handshake(verdict.message, pair.now)
    message = initiation(pair)
    assert limiter.verify(message, Endpoint.of(address, 2), pair.now) == Accepted()
    assert isinstance(limiter.verify(message, OTHER, pair.now), CookieReply)


def test_transport_data_is_not_for_the_limiter(pair: Pair) -> None:
    limiter = limiter_of(pair, pair.b, 1)
    data = b"\4" + bytes(31)
    assert limiter.verify(data, SOURCE, pair.now) == Rejected(Reason.MALFORMED)


@given(st.binary(max_size=200))
def test_limiter_survives_anything(message: bytes) -> None:
    limiter = RateLimiter(bytes(32), bytes, limit=0, now=0)
    assert isinstance(limiter.verify(message, SOURCE, 5), Rejected | Accepted)


def limiter_of(pair: Pair, side: Side, limit: int) -> RateLimiter:
    key = pair.keys[0 if side is pair.a else 1]
    return RateLimiter(key.public, pair.entropy, limit=limit, now=pair.now)


def initiation(pair: Pair) -> bytes:
    """A new one, whatever went before."""
    pair.a.tunnel.close()
    assert pair.a.tunnel.initiate(pair.now)
    message = pair.a.tunnel.poll_transmit()
    assert message is not None
    return message


def challenged(pair: Pair, limiter: RateLimiter, message: bytes) -> bytes:
    verdict = limiter.verify(message, SOURCE, pair.now)
    assert isinstance(verdict, CookieReply)
    return verdict.message
