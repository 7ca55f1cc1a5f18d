"""When a tunnel must act (WireGuard paper, section 6): deadlines derived from facts.

Nothing here is armed or cancelled. `Facts` is what the tunnel did, `commands.Activity` what the
data plane saw, and `deadlines()` says what follows from both:

    EXPIRE      a session is 180 s old: its keys go
    GIVE_UP     the handshake's first initiation is `rekey_attempt_time` old
    ABANDON     540 s without a session
    INITIATE    an initiation was wanted; it goes out up to a third of a second later, so that two
                peers that want one for the same reason do not do it at the same time
    RETRANSMIT  5 s without a response
    REKEY       our session is old and was used, or has sealed 2^60 packets
    RENEW       our session expired, and the tunnel renews idle ones
    NO_REPLY    15 s since data that nothing answered
    KEEPALIVE   10 s since data that we have not answered with anything
    LOOK        the data plane does not wake us per packet: while there are sessions, look at the
                activity every 10 s. Every deadline that a packet starts is at least 10 s after it,
                so it is seen in time.

While an initiation is scheduled or in progress, nothing asks for another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from firezone.commands import Activity
from firezone.durations import MILLISECOND, SECOND

REKEY_AFTER_TIME = 120 * SECOND
REKEY_ON_RECEIVE_AFTER_TIME = 165 * SECOND
STOP_SENDING_AFTER_TIME = 170 * SECOND
"""An initiator renews the session before its peer may drop what is still under way."""
REJECT_AFTER_TIME = 180 * SECOND
ABANDON_AFTER_TIME = 3 * REJECT_AFTER_TIME
REKEY_ATTEMPT_TIME = 20 * SECOND
REKEY_TIMEOUT = 5 * SECOND
KEEPALIVE_TIMEOUT = 10 * SECOND
NO_REPLY_TIMEOUT = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
LOOK_INTERVAL = KEEPALIVE_TIMEOUT
MAX_JITTER = 333 * MILLISECOND
REKEY_AFTER_MESSAGES = 1 << 60


class Timer(StrEnum):
    """What is due; also the reason that `poll_timeout` gives."""

    EXPIRE = "session expiry"
    GIVE_UP = "handshake give-up"
    ABANDON = "no session for long"
    INITIATE = "jittered initiation"
    RETRANSMIT = "handshake retransmission"
    REKEY = "rekey"
    RENEW = "renewal of an expired session"
    NO_REPLY = "no reply"
    KEEPALIVE = "passive keepalive"
    LOOK = "look at the activity"


WANTS_INITIATION = frozenset({Timer.RETRANSMIT, Timer.REKEY, Timer.RENEW, Timer.NO_REPLY})


@dataclass(slots=True)
class Facts:
    """What the tunnel itself did, and when: absolute nanoseconds, None = not (yet)."""

    created_at: int
    updated_at: int
    """Last call into the tunnel."""
    renew_idle: bool = True
    """Renew sessions for the sake of traffic to come."""
    established_at: int | None = None
    initiator: bool = False
    """Our role in the handshake that established last."""
    heard_at: int | None = None
    """Last authentic handshake message from the peer."""
    oldest_session_ends_at: int | None = None
    current_index: int | None = None
    """The session that we send under."""
    first_initiation_at: int | None = None
    """Of the handshake in progress."""
    last_initiation_at: int | None = None
    scheduled_at: int | None = None
    keepalive_at: int | None = None
    """Last passive keepalive that we asked for."""
    unanswered_since: int | None = None
    """First data seen sent after `heard_at`, where the data plane's own mark is older than that."""


def deadlines(
    facts: Facts, activity: Activity, rekey_attempt_time: int
) -> Iterator[tuple[int, Timer]]:
    """Everything that will be due if nothing more happens, in no order."""
    if facts.oldest_session_ends_at is not None:
        yield facts.oldest_session_ends_at, Timer.EXPIRE
        yield facts.updated_at + LOOK_INTERVAL, Timer.LOOK
    yield max(facts.created_at, facts.established_at or 0) + ABANDON_AFTER_TIME, Timer.ABANDON
    if facts.first_initiation_at is not None:
        yield facts.first_initiation_at + rekey_attempt_time, Timer.GIVE_UP
    if facts.current_index is not None:
        yield from _keepalive(facts, activity)
    if facts.scheduled_at is not None:
        yield facts.scheduled_at, Timer.INITIATE
    elif facts.last_initiation_at is not None:
        yield facts.last_initiation_at + REKEY_TIMEOUT, Timer.RETRANSMIT
    elif facts.established_at is not None:
        yield from _rekey(facts, facts.established_at, activity)
        yield from _no_reply(facts, activity)


def unanswered_since(facts: Facts, activity: Activity) -> int | None:
    """The first data sent after anything authentic came from the peer.

    The data plane does not see handshake messages. Where one of them answered the data that it
    marked, later data is unanswered since we saw it first: late by a look at the most.
    """
    heard = max(activity.received_any, facts.heard_at or 0)
    if activity.unanswered_since > heard:
        return activity.unanswered_since
    if activity.sent_data <= heard:
        return None
    mark = facts.unanswered_since
    return mark if mark is not None and mark > heard else activity.sent_data


def _keepalive(facts: Facts, activity: Activity) -> Iterator[tuple[int, Timer]]:
    """From the *first* unacknowledged data: a steady stream to us must not put it off forever."""
    since = activity.unacknowledged_since
    if since > activity.sent_any:
        yield max(since, facts.keepalive_at or 0) + KEEPALIVE_TIMEOUT, Timer.KEEPALIVE


def _rekey(facts: Facts, established_at: int, activity: Activity) -> Iterator[tuple[int, Timer]]:
    if facts.current_index is not None and (
        activity.current_index == facts.current_index
        and activity.send_counter >= REKEY_AFTER_MESSAGES
    ):
        yield facts.updated_at, Timer.REKEY
    if not facts.initiator:
        return
    if not facts.renew_idle:
        yield from _rekey_on_use(established_at, activity)
        return
    if activity.sent_data and activity.sent_data >= established_at:
        yield established_at + REKEY_AFTER_TIME, Timer.REKEY
    if activity.received_data and activity.received_data >= established_at:
        yield established_at + REKEY_ON_RECEIVE_AFTER_TIME, Timer.REKEY
    yield established_at + REJECT_AFTER_TIME, Timer.RENEW


def _rekey_on_use(established_at: int, activity: Activity) -> Iterator[tuple[int, Timer]]:
    """At once when something was sent, or later received, under an old session. We may see that as
    late as the next look, but long before the session ends."""
    if activity.sent_any >= established_at + REKEY_AFTER_TIME:
        yield activity.sent_any, Timer.REKEY
    if activity.received_any >= established_at + REKEY_ON_RECEIVE_AFTER_TIME:
        yield activity.received_any, Timer.REKEY


def _no_reply(facts: Facts, activity: Activity) -> Iterator[tuple[int, Timer]]:
    since = unanswered_since(facts, activity)
    if since is not None:
        yield since + NO_REPLY_TIMEOUT, Timer.NO_REPLY
