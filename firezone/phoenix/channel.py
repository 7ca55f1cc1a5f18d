"""The peer's side of the portal channel: connect, join, talk, keep alive, come back.

The channel owns no socket. It tells its driver what to do through `poll_action()` and hears of
the outcome through `handle_*`. A new `Connect` replaces whatever connection there was: of the old
one the driver reports nothing more.

Joining. On every connection the login topic is joined first. Ordinary messages wait in a queue
while a join is unanswered; the queue outlives a reconnect. A join must be answered in 5 s.

Heartbeats. Every 10 s of a joined connection. Four in a row without any reply mean that the portal
is gone, and we reconnect; no WebSocket ping is used.

Coming back. The first attempt after a failure is immediate, later ones wait 500 ms growing by half
each time, give or take half, at most 60 s, within a budget that runs from the first failure. A
joined channel has a fresh budget. The portal's own `Retry-After` wins when it is longer.

What ends it. The portal refuses us (any 4xx except 408 and 429, which heal with time), its
certificate is not trusted, it answers the join with an error, says `token_expired`, or the budget
is spent. Then `Failed` is emitted once and the channel is silent until the next `connect`.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from firezone.durations import HOUR, SECOND
from firezone.errors import RemoteError
from firezone.model import Entropy, Timeout
from firezone.phoenix import frames
from firezone.phoenix.backoff import Backoff
from firezone.phoenix.frames import (
    PHOENIX_TOPIC,
    ChannelClosed,
    Disconnect,
    ErrorReason,
    ErrorReply,
    Frame,
    MalformedFrame,
    OkReply,
    classify,
    decode,
    encode,
)
from firezone.phoenix.login_url import LoginUrl
from firezone.phoenix.user_agent import CLIENT_VERSION, connlib_user_agent

Message = TypeVar("Message")

HEARTBEAT_INTERVAL = 10 * SECOND
MAX_UNANSWERED_HEARTBEATS = 4
JOIN_TIMEOUT = 5 * SECOND
MAX_QUEUED = 32
MAX_RETRY_AFTER = HOUR
"""A portal may not put us off for longer."""

DEFAULT_USER_AGENT = connlib_user_agent(CLIENT_VERSION, "Linux", None, None, None)

_HEALING_STATUSES = frozenset({408, 429})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a WebSocket to `url`, in place of any there is. `headers` is the User-Agent."""

    url: LoginUrl
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SendText:
    """Send a text frame."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Close:
    """Close the WebSocket in good order, or drop the attempt."""


Action = Connect | SendText | Close


@dataclass(frozen=True, slots=True)
class Connected:
    """The WebSocket is open; the join is under way."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The portal answered our join: messages flow."""


@dataclass(frozen=True, slots=True)
class Inbound(Generic[Message]):
    """A message of our topic."""

    message: Message


@dataclass(frozen=True, slots=True)
class Hiccup:
    """The connection is lost; the next attempt comes after `delay` nanoseconds."""

    error: str
    delay: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The end. `is_authentication` tells that the token is no good (any more)."""

    reason: str
    is_authentication: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """We closed it with `close()`."""


Event = Connected | Joined | Inbound[Message] | Hiccup | Failed | Closed


class Channel(Generic[Message]):
    """A channel to the portal on one topic, with a message set given by `decode`.

    `decode` raises RemoteError for what it does not take. `max_elapsed` is the retry budget in
    nanoseconds, None for no end. Nothing happens before `connect`.
    """

    def __init__(
        self,
        *,
        url: LoginUrl,
        topic: str,
        join_payload: object,
        decode: Callable[[str, object], Message],
        max_elapsed: int | None,
        entropy: Entropy,
        user_agent: str = DEFAULT_USER_AGENT,
        now: int = 0,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._base_url = url
        self._url = url
        self._topic = topic
        self._join_payload = join_payload
        self._decode = decode
        self._max_elapsed = max_elapsed
        self._entropy = entropy
        self._headers = (("User-Agent", user_agent),)
        self._state: _State = _Idle()
        self._backoff: Backoff | None = None
        self._next_ref = 0
        self._queue: deque[Frame] = deque()
        self._actions: deque[Action] = deque()
        self._events: deque[Event[Message]] = deque()

    @property
    def is_joined(self) -> bool:
        """Whether messages flow now."""
        return isinstance(self._state, _Online) and not self._state.joins

    def connect(self, query: Mapping[str, str], now: int) -> None:
        """Connect at once, with `query` (as `public_key`) added to the URL.

        Does nothing while an attempt at the same URL is under way.
        """
        url = self._base_url.with_query(query)
        if isinstance(self._state, _Connecting) and url == self._url:
            return
        self._url = url
        self._backoff = None
        self._open()

    def send(self, event: str, payload: object, now: int) -> None:
        """Queue a message on our topic, unless the same one waits already.

        A queue that grew too long is dropped as a whole first: what it says is stale.
        """
        if any(waiting.event == event and waiting.payload == payload for waiting in self._queue):
            self.counters["send_duplicate"] += 1
            return
        if len(self._queue) > MAX_QUEUED:
            self.counters["queue_dropped"] += len(self._queue)
            self._queue.clear()
        self._queue.append(self._frame(self._topic, event, payload))
        self._flush()

    def close(self, now: int) -> None:
        """End the connection or the attempt for good, until the next `connect`."""
        if isinstance(self._state, _Idle):
            return
        self._end(Closed())

    def handle_connected(self, now: int) -> None:
        """The WebSocket of the last Connect is open."""
        if not isinstance(self._state, _Connecting):
            return
        self._state = _Online(heartbeat_at=now + HEARTBEAT_INTERVAL)
        self._events.append(Connected())
        self._join(self._state, self._topic, now)

    def handle_text(self, text: str | bytes, now: int) -> None:
        """A text frame arrived."""
        if not isinstance(self._state, _Online):
            return
        try:
            self._handle_inbound(self._state, classify(decode(text)), now)
        except MalformedFrame as error:
            self._handle_malformed(error, now)
        except RemoteError as error:
            self._count("unreadable_message", error)

    def handle_disconnected(self, reason: str, now: int) -> None:
        """The attempt failed, or the connection ended."""
        self._retry(reason, 0, now)

    def handle_untrusted(self, reason: str, now: int) -> None:
        """The portal's certificate did not verify."""
        self._fail(f"the portal's certificate is not trusted: {reason}", False)

    def handle_http_error(self, status: int, body: str, retry_after: int | None, now: int) -> None:
        """The portal answered the upgrade with a status. `retry_after` is in nanoseconds."""
        if 400 <= status < 500 and status not in _HEALING_STATUSES:
            said = f": {body.strip()[:200]}" if body.strip() else ""
            self._fail(f"the portal refused us: HTTP {status}{said}", status in (401, 403))
            return
        wait = min(max(retry_after or 0, 0), MAX_RETRY_AFTER)
        self._retry(f"HTTP {status}", wait, now)

    def handle_timeout(self, now: int) -> None:
        """Do what is due."""
        match self._state:
            case _Waiting(until) if until <= now:
                self._open()
            case _Online(joins=joins) if joins and min(joins.values()) <= now:
                self._retry("the portal does not answer our join", 0, now)
            case _Online() as online if not online.joins and online.heartbeat_at <= now:
                self._heartbeat(online, now)

    def poll_action(self) -> Action | None:
        """What the driver must do next."""
        return self._actions.popleft() if self._actions else None

    def poll_event(self) -> Event[Message] | None:
        """What happened."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> Timeout | None:
        """When to call `handle_timeout`."""
        match self._state:
            case _Waiting(until):
                return Timeout(until, "reconnect")
            case _Online(joins=joins) if joins:
                return Timeout(min(joins.values()), "join unanswered")
            case _Online(heartbeat_at=at):
                return Timeout(at, "heartbeat")
        return None

    # Inbound.

    def _handle_inbound(self, online: _Online, inbound: frames.Inbound, now: int) -> None:
        match inbound:
            case Frame(event=event, payload=payload):
                self._events.append(Inbound(self._decode(event, payload)))
            case OkReply():
                self._handle_ok(online, inbound)
            case ErrorReply():
                self._handle_error(online, inbound, now)
            case Disconnect("token_expired"):
                self._fail("token_expired", True)
            case ChannelClosed():
                self._retry("the portal closed the channel", 0, now)
            case _:
                self.counters["ignored"] += 1

    def _handle_ok(self, online: _Online, reply: OkReply) -> None:
        """An answer that is not plain leaves a join pending: it is not the one we asked for."""
        online.unanswered_heartbeats = 0
        if reply.ref not in online.joins or not reply.plain:
            return
        del online.joins[reply.ref]
        if not online.joins:
            self._backoff = None
            if not online.announced:
                online.announced = True
                self._events.append(Joined())
        self._flush()

    def _handle_error(self, online: _Online, reply: ErrorReply, now: int) -> None:
        online.unanswered_heartbeats = 0
        if reply.ref in online.joins:
            self._fail(f"the portal refused our join: {reply.text[:200]}", False)
        elif reply.reason is ErrorReason.UNMATCHED_TOPIC and reply.topic == self._topic:
            self._join(online, reply.topic, now)
        else:
            self._count("error_reply", reply.reason)

    def _handle_malformed(self, error: MalformedFrame, now: int) -> None:
        self._count("malformed_frame", error)
        if error.truncated:
            self._retry("the portal sent half a message", 0, now)

    def _count(self, what: str, why: object) -> None:
        self.counters[what] += 1
        _log.debug("%s: %s", what, why)

    # Outbound.

    def _frame(self, topic: str, event: str, payload: object) -> Frame:
        ref = self._next_ref
        self._next_ref += 1
        return Frame(topic, event, payload, ref)

    def _join(self, online: _Online, topic: str, now: int) -> None:
        """A topic whose join is under way is not joined twice."""
        if online.joins:
            return
        frame = self._frame(topic, "phx_join", self._join_payload)
        assert frame.ref is not None
        online.joins[frame.ref] = now + JOIN_TIMEOUT
        self._actions.append(SendText(encode(frame)))

    def _heartbeat(self, online: _Online, now: int) -> None:
        if online.unanswered_heartbeats >= MAX_UNANSWERED_HEARTBEATS:
            self._retry("the portal does not answer our heartbeats", 0, now)
            return
        online.unanswered_heartbeats += 1
        online.heartbeat_at = now + HEARTBEAT_INTERVAL
        self._actions.append(SendText(encode(self._frame(PHOENIX_TOPIC, "heartbeat", {}))))

    def _flush(self) -> None:
        while self._queue and self.is_joined:
            self._actions.append(SendText(encode(self._queue.popleft())))

    # Connecting and ending.

    def _open(self) -> None:
        """What was to be sent on the old connection is not for the new one."""
        self._state = _Connecting()
        self._actions.clear()
        self._actions.append(Connect(self._url, self._headers))

    def _retry(self, error: str, at_least: int, now: int) -> None:
        if isinstance(self._state, _Idle | _Waiting):
            return
        if self._backoff is None:
            self._backoff = Backoff(self._max_elapsed, self._entropy, now)
        delay = self._backoff.next_delay(at_least, now)
        if delay is None:
            self._fail(f"gave up connecting to the portal: {error}", False)
            return
        self._state = _Waiting(now + delay)
        self._actions.clear()
        self._actions.append(Close())
        self._events.append(Hiccup(error, delay))

    def _fail(self, reason: str, is_authentication: bool) -> None:
        if not isinstance(self._state, _Idle):
            self._end(Failed(reason, is_authentication))

    def _end(self, event: Failed | Closed) -> None:
        self._state = _Idle()
        self._backoff = None
        self._actions.append(Close())
        self._events.append(event)


@dataclass(frozen=True, slots=True)
class _Idle:
    """Before the first connect and after the end."""


@dataclass(frozen=True, slots=True)
class _Connecting:
    """A Connect is with the driver."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """For the next attempt."""

    until: int


@dataclass(slots=True)
class _Online:
    """The WebSocket is open. `joins` holds what is unanswered: ref and when we lose patience."""

    heartbeat_at: int
    joins: dict[int, int] = field(default_factory=dict)
    unanswered_heartbeats: int = 0
    announced: bool = False


_State = _Idle | _Connecting | _Waiting | _Online
