"""When a relay is reached over a stream, by the clock alone."""

from __future__ import annotations

from firezone.durations import SECOND
from firezone.node import StreamKind
from firezone.node.fallback import FALLBACK_AFTER, REOPEN_AFTER, Fallback, Step

NOW = 7 * SECOND


def opening() -> Fallback:
    fallback = Fallback(NOW)
    assert fallback.wants_stream(NOW + FALLBACK_AFTER)
    return fallback


def test_a_stream_is_wanted_once_and_not_at_once() -> None:
    fallback = Fallback(NOW)
    assert not fallback.wants_stream(NOW + FALLBACK_AFTER - 1)
    timeout = fallback.poll_timeout()
    assert timeout is not None
    assert timeout.deadline == NOW + FALLBACK_AFTER
    assert fallback.wants_stream(timeout.deadline)
    assert fallback.kind is StreamKind.TCP
    assert fallback.is_in_use
    assert not fallback.wants_stream(timeout.deadline + 60 * SECOND)
    assert fallback.poll_timeout() is None


def test_udp_that_answers_puts_it_off() -> None:
    fallback = Fallback(NOW)
    fallback.handle_udp_answers(NOW + 2 * SECOND)
    assert not fallback.wants_stream(NOW + FALLBACK_AFTER)
    assert fallback.wants_stream(NOW + 2 * SECOND + FALLBACK_AFTER)


def test_tls_comes_after_tcp_and_nothing_after_tls() -> None:
    fallback = opening()
    assert fallback.handle_closed(NOW)
    assert fallback.kind is StreamKind.TLS
    assert not fallback.handle_closed(NOW)
    assert fallback.step is Step.REFUSED
    assert not fallback.is_in_use
    assert not fallback.wants_stream(NOW + 3600 * SECOND)


def test_a_stream_that_broke_is_wanted_again_soon() -> None:
    fallback = opening()
    fallback.handle_opened()
    assert not fallback.handle_closed(NOW)
    assert not fallback.is_in_use
    assert fallback.wants_stream(NOW + REOPEN_AFTER)
    assert fallback.kind is StreamKind.TCP


def test_a_stream_that_was_left_waits_for_udp_to_fail() -> None:
    fallback = opening()
    fallback.handle_opened()
    fallback.handle_left(NOW)
    assert not fallback.wants_stream(NOW + FALLBACK_AFTER - 1)
