"""The relay's role: a TURN server that the portal knows of.

It serves from the start, whether the portal can be reached or not; a lost link costs nobody an
allocation. The portal learns the stamp secret when we join and hands out credentials made from it,
so the secret is made anew at every start and kept in memory only: a changed one is how the portal
knows that the allocations are gone.

    SERVING  --terminate, or refused by the portal-->  DRAINING
    DRAINING --no allocation left, or terminate------>  STOPPED
    any      --interrupt------------------------------>  STOPPED

A draining relay has left the portal, refuses new allocations and serves the present ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from firezone.durations import MINUTE, SECOND
from firezone.model import Endpoint, Entropy, Timeout, earliest
from firezone.phoenix import Channel, Event, Failed, Hiccup, Joined, LoginUrl
from firezone.phoenix.messages import relay as messages
from firezone.phoenix.user_agent import RELAY_USER_AGENT
from firezone.turn.relay import Relay
from firezone.turn.relay_commands import RelayCommand

STATISTICS_INTERVAL: Final = 10 * SECOND
UNHEALTHY_AFTER: Final = 15 * MINUTE
"""Without the portal, once it was reached."""


class State(Enum):
    SERVING = auto()
    DRAINING = auto()
    STOPPED = auto()


@dataclass(frozen=True, slots=True)
class Progress:
    """Something a person who watches the program wants to see."""

    event: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LeavePortal:
    """Close the link to the portal in good order."""


@dataclass(frozen=True, slots=True)
class Stop:
    """All is done: exit with this code."""

    exit_code: int


RoleEvent = Progress | LeavePortal | Stop


class RelayRole:
    """Joins a `Relay` with its portal link and its life. Poll all outputs after each input.

    Datagrams and sockets may go to `server` directly; then call `handle_activity`.
    """

    def __init__(self, server: Relay, *, has_portal: bool = True, now: int) -> None:
        self.server = server
        self._has_portal = has_portal
        self.state = State.SERVING
        self._exit_code = 0
        self._was_joined = False
        self._portal_lost_at: int | None = None
        self._events: deque[RoleEvent] = deque()
        self._statistics_at = now + STATISTICS_INTERVAL
        self._last_statistics = (0, 0, 0)
        self._relayed_bytes = 0

    def is_healthy(self, now: int) -> bool:
        """Whether the portal was reached lately; true as long as it never was."""
        lost_at = self._portal_lost_at
        return lost_at is None or now - lost_at < UNHEALTHY_AFTER

    @property
    def is_ready(self) -> bool:
        """Whether clients may come: the portal sends them here, or there is none to do so."""
        is_known = self._was_joined and self._portal_lost_at is None
        return self.state is State.SERVING and (is_known or not self._has_portal)

    def handle_client_datagram(
        self, local: Endpoint | None, source: Endpoint, data: bytes, now: int
    ) -> None:
        """See `Relay.handle_client_datagram`."""
        self.server.handle_client_datagram(local, source, data, now)
        self.handle_activity(now)

    def handle_peer_datagram(self, port: int, peer: Endpoint, data: bytes, now: int) -> None:
        """See `Relay.handle_peer_datagram`."""
        self.server.handle_peer_datagram(port, peer, data, now)

    def handle_socket_opened(self, port: int, family: int, ok: bool, now: int) -> None:
        """See `Relay.handle_socket_opened`."""
        self.server.handle_socket_opened(port, family, ok, now)
        self.handle_activity(now)

    def handle_stream_closed(self, bridge: Endpoint, now: int) -> None:
        """See `Relay.handle_stream_closed`."""
        self.server.handle_stream_closed(bridge, now)
        self.handle_activity(now)

    def handle_portal_event(self, event: Event[messages.Message], now: int) -> None:
        """What happened on the channel to the portal. Its messages ask nothing of a relay."""
        match event:
            case Joined():
                self._was_joined, self._portal_lost_at = True, None
                self._progress("portal_connected")
            case Hiccup(error, delay):
                if self._was_joined and self._portal_lost_at is None:
                    self._portal_lost_at = now
                self._progress("portal_lost", error=error, retry_ms=delay * 1000 // SECOND)
            case Failed(reason):
                self._exit_code = 1
                self._progress("portal_refused", reason=reason)
                self._drain(now)

    def handle_terminate(self, now: int) -> None:
        """Asked to end: the first time with patience, the second time at once."""
        if self.state is State.SERVING:
            self._events.append(LeavePortal())
            self._drain(now)
        else:
            self._stop()

    def handle_interrupt(self, now: int) -> None:
        """Asked to end at once."""
        self._stop()

    def handle_relayed(self, count: int) -> None:
        """Payload bytes that the shell relayed by itself."""
        self._relayed_bytes += count

    def handle_activity(self, now: int) -> None:
        """The server was given something: see whether it is done."""
        if self.state is State.DRAINING and self.server.allocation_count == 0:
            self._stop()

    def handle_timeout(self, now: int) -> None:
        """Ends what has expired, and tells statistics."""
        self.server.handle_timeout(now)
        self.handle_activity(now)
        if self._statistics_at <= now:
            self._tell_statistics(now)

    def poll_timeout(self) -> Timeout | None:
        """When `handle_timeout` is wanted next."""
        return earliest(self.server.poll_timeout(), Timeout(self._statistics_at, "statistics"))

    def poll_command(self) -> RelayCommand | None:
        """See `Relay.poll_command`."""
        return self.server.poll_command()

    def poll_event(self) -> RoleEvent | None:
        """What happened."""
        return self._events.popleft() if self._events else None

    def _drain(self, now: int) -> None:
        self.state = State.DRAINING
        self.server.drain()
        self._progress("draining", allocations=self.server.allocation_count)
        self.handle_activity(now)

    def _stop(self) -> None:
        if self.state is not State.STOPPED:
            self.state = State.STOPPED
            self._progress("stopped", allocations=self.server.allocation_count)
            self._events.append(Stop(self._exit_code))

    def _tell_statistics(self, now: int) -> None:
        """Only if something changed: an idle relay is silent."""
        interval = now - self._statistics_at + STATISTICS_INTERVAL
        self._statistics_at = now + STATISTICS_INTERVAL
        relayed = self._relayed_bytes + self.server.counters["relayed_bytes"]
        present = (self.server.allocation_count, self.server.channel_count, relayed)
        if present == self._last_statistics:
            return
        bits = (relayed - self._last_statistics[2]) * 8 * SECOND // interval
        self._last_statistics = present
        self._progress(
            "statistics",
            allocations=present[0],
            channels=present[1],
            throughput=human_throughput(bits),
            relayed_bytes=relayed,
        )

    def _progress(self, event: str, **fields: object) -> None:
        self._events.append(Progress(event, fields))


def portal_channel(
    url: LoginUrl, stamp_secret: str, *, entropy: Entropy, now: int
) -> Channel[messages.Message]:
    """The channel of a relay. It never gives up on a portal that is merely away."""
    return Channel(
        url=url,
        topic=messages.TOPIC,
        join_payload=messages.join_payload(stamp_secret),
        decode=messages.decode,
        max_elapsed=None,
        entropy=entropy,
        user_agent=RELAY_USER_AGENT,
        now=now,
    )


def human_throughput(bits_per_second: int) -> str:
    """`1.50 Mbit/s`; each unit is a thousand of the one below."""
    amount = float(bits_per_second)
    for unit in ("", "k", "M", "G"):
        if amount < 1000:
            return f"{amount:.2f} {unit}bit/s"
        amount /= 1000
    return f"{amount:.2f} Tbit/s"
