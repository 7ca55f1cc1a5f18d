"""Cookies of the handshake's machine open the data plane's higher rate, and nothing else does."""

import os

from firezone.commands import DatagramReceived
from firezone.dataplane import SingleThreaded
from firezone.durations import SECOND
from firezone.model import Endpoint
from firezone.noise import Accepted, CookieReply, RateLimiter, StaticKeypair
from firezone.noise.cookie import MacGenerator
from firezone.noise.messages import HandshakeCookie, decode

OURS = Endpoint.of("192.0.2.1", 51820)
THEIRS = Endpoint.of("192.0.2.2", 51820)
NOW = 1000 * SECOND


def test_who_uses_a_cookie_passes_a_flood_of_those_who_do_not() -> None:
    key = StaticKeypair.generate(os.urandom).public
    limiter = RateLimiter(key, os.urandom, limit=0, now=NOW)
    plane = SingleThreaded(
        own_public_key=key, cookie_secret=limiter.cookie_secret, entropy=os.urandom
    )
    peer = MacGenerator(key)
    first = peer.close(initiation(), NOW)
    while arrives(plane, first):
        pass
    reply = limiter.verify(first, THEIRS, NOW)
    assert isinstance(reply, CookieReply)
    cookie = decode(reply.message)
    assert isinstance(cookie, HandshakeCookie)
    peer.handle_cookie(cookie, NOW)
    second = peer.close(initiation(), NOW)
    assert arrives(plane, second) and not arrives(plane, first)
    assert isinstance(limiter.verify(second, THEIRS, NOW), Accepted)


def initiation() -> bytes:
    return b"\1\0\0\0" + bytes(112)


def arrives(plane: SingleThreaded, message: bytes) -> bool:
    """True if the control layer gets it."""
    plane.feed_down(message, OURS, THEIRS, NOW)
    return isinstance(plane.poll_event(), DatagramReceived)
