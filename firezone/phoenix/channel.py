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

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from firezone.durations import SECOND
from firezone.model import Entropy, Timeout
from firezone.phoenix.login_url import LoginUrl

Message = TypeVar("Message")

HEARTBEAT_INTERVAL = 10 * SECOND
MAX_UNANSWERED_HEARTBEATS = 4
JOIN_TIMEOUT = 5 * SECOND
MAX_QUEUED = 32


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
        user_agent: str = "",
        now: int = 0,
    ) -> None:
        self.counters: Counter[str] = Counter()

    def connect(self, query: Mapping[str, str], now: int) -> None:
        """Connect at once, with `query` (as `public_key`) added to the URL.

        Does nothing while an attempt at the same URL is under way.
        """
        raise NotImplementedError

    def send(self, event: str, payload: object, now: int) -> None:
        """Queue a message on our topic. Too long a queue is dropped as a whole: it is stale."""
        raise NotImplementedError

    def close(self, now: int) -> None:
        """End the connection for good, until the next `connect`."""
        raise NotImplementedError

    def handle_connected(self, now: int) -> None:
        """The WebSocket of the last Connect is open."""
        raise NotImplementedError

    def handle_text(self, text: str | bytes, now: int) -> None:
        """A text frame arrived."""
        raise NotImplementedError

    def handle_disconnected(self, reason: str, now: int) -> None:
        """The attempt failed, or the connection ended."""
        raise NotImplementedError

    def handle_untrusted(self, reason: str, now: int) -> None:
        """The portal's certificate did not verify."""
        raise NotImplementedError

    def handle_http_error(self, status: int, body: str, retry_after: int | None, now: int) -> None:
        """The portal answered the upgrade with a status. `retry_after` is in nanoseconds."""
        raise NotImplementedError

    def handle_timeout(self, now: int) -> None:
        raise NotImplementedError

    def poll_action(self) -> Action | None:
        raise NotImplementedError

    def poll_event(self) -> Event[Message] | None:
        raise NotImplementedError

    def poll_timeout(self) -> Timeout | None:
        raise NotImplementedError
