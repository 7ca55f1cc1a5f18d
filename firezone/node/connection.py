"""One connection to a peer: its ICE agent, its tunnel, and how they stand to each other.

    Connecting --nominated--> Connected <--activity / 20 s of silence--> Idle
         \\______________________________________ any ________________________> removed

A connection is *established* once a pair is nominated and a session stands. Until then the packets
of its peer wait in a ring. Idle only slows the checks down; it changes nothing else.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from firezone.commands import Activity, Path
from firezone.durations import MILLISECOND, SECOND
from firezone.ice import Agent, Candidate, IceState, Nominated, StunTiming
from firezone.model import IceCredentials, RelayId, Timeout, earliest
from firezone.node.direct_retry import DirectRetry
from firezone.node.fast_start import FastStart, Way
from firezone.noise import Tunnel

CANDIDATE_TIMEOUT = 10 * SECOND
DISCONNECT_GRACE = 2 * SECOND
IDLE_AFTER = 20 * SECOND
IN_USE = 30 * SECOND
"""Since the last data. It takes 18.5 s until a connection whose paths died fails."""
HANDSHAKE_DEBOUNCE = 20 * SECOND
SILENCE = 300 * MILLISECOND
"""Data goes out and nothing comes back for so long: the path is looked at. TCP sends again after
200 ms and the round trip, then after twice, four and eight times as long: what this and the doubt
of `ice/doubt.py` take is to be over before the third time, or its sender waits for the fourth."""
LOOK_AGAIN_AFTER, LOOK_AGAIN_AT_MOST = SILENCE // 2, 400 * MILLISECOND
"""How often one looks whether a silence has become one of the path. Some traffic is never answered,
so looks at a long one are rarer."""
RACE_WINDOW = 1 * SECOND
"""A packet that comes back this soon after a session was installed had only missed it."""
WAITING_PACKETS = 128
REMEMBERED_PATHS = 16
MAX_REMOTES = 32


class ConnectionState(Enum):
    CONNECTING = auto()
    CONNECTED = auto()
    IDLE = auto()


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """What makes a connection the same one when it is asked for again."""

    public_key: bytes
    preshared_key: bytes = field(repr=False)
    local: IceCredentials
    remote: IceCredentials

    @property
    def username(self) -> str:
        """USERNAME of the peer's checks. One fragment alone has 20 bits: among a thousand
        connections two are likely to share it."""
        return f"{self.local.username}:{self.remote.username}"


@dataclass(frozen=True, slots=True)
class PathChange:
    """From `at` (ns) on, packets took this pair. `direct` is False if any end is a relay."""

    at: int
    direct: bool
    local: Candidate
    remote: Candidate


@dataclass(frozen=True, slots=True)
class LostConnection:
    """A connection that is gone: why, and from when to when (ns) it existed."""

    id: str
    reason: str
    created_at: int
    ended_at: int
    established: bool


@dataclass(frozen=True, slots=True)
class Timings:
    """How often paths are checked, with data and without."""

    busy: StunTiming
    idle: StunTiming


CLIENT_TIMINGS = Timings(StunTiming.DEFAULT, StunTiming.IDLE)
GATEWAY_TIMINGS = Timings(StunTiming.GATEWAY, StunTiming.GATEWAY_IDLE)


@dataclass(slots=True, eq=False)
class Connection:
    """The facts of one connection. `Node` acts on them."""

    id: str
    slot: int
    keys: PeerKeys
    agent: Agent
    tunnel: Tunnel
    tunnel_id: int
    relay: RelayId
    timings: Timings
    created_at: int
    last_active: int
    last_data: int = -IN_USE
    state: ConnectionState = ConnectionState.CONNECTING
    pair: Nominated | None = None
    preliminary: Nominated | None = None
    """What a handshake was completed on before ICE has nominated a pair; in use until it has."""
    heard_of_at: int | None = None
    """When the peer hears of our candidates, as far as we can tell."""
    fast_start: FastStart | None = None
    direct_retry: DirectRetry = field(default_factory=DirectRetry)
    offered: Way | None = None
    """Where the peer's last initiation came to, and from: a path if it makes a session of it."""
    path: Path | None = None
    has_session: bool = False
    session_at: int = -HANDSHAKE_DEBOUNCE
    resent: int = 0
    """Packets that came back since the newest session was installed, and were sealed once more."""
    established_at: int | None = None
    disconnected_at: int | None = None
    last_proactive: int | None = None
    looked_at: int = 0
    """When the peer's silence was last looked for."""
    failure: str | None = None
    waiting: deque[bytes] = field(default_factory=lambda: deque(maxlen=WAITING_PACKETS), repr=False)
    remotes: list[Candidate] = field(default_factory=list)
    has_gathered: bool = False
    """Whether there was ever a candidate of ours: a relay answered, or the host has addresses."""
    paths: deque[PathChange] = field(default_factory=lambda: deque(maxlen=REMEMBERED_PATHS))

    @property
    def way(self) -> Nominated | None:
        """The pair that packets take."""
        return self.pair or self.preliminary

    @property
    def is_direct(self) -> bool:
        """Whether a pair is nominated that needs no relay."""
        return self.pair is not None and self.pair.is_direct

    @property
    def established(self) -> bool:
        return self.established_at is not None

    def is_in_use(self, now: int) -> bool:
        """Whether it has carried data lately."""
        return self.established and now - self.last_data < IN_USE

    def note_remote(self, candidate: Candidate) -> bool:
        """Remember a candidate of the peer. False if there are too many: each may cost a channel
        of the relay, of which all connections have 4096."""
        if any(candidate.is_same(known) for known in self.remotes):
            return True
        if len(self.remotes) >= MAX_REMOTES:
            return False
        self.remotes.append(candidate)
        return True

    def forget_remote(self, candidate: Candidate) -> None:
        self.remotes[:] = [known for known in self.remotes if not candidate.is_same(known)]

    def note_session(self, now: int) -> None:
        """A new session seals from now on."""
        self.has_session = True
        self.session_at = now
        self.resent = 0

    def may_resend(self, now: int) -> bool:
        """Whether to seal once more a packet that came back, for it has likely missed the newest
        session only. No more of them than may wait: else they would go round and round."""
        if now - self.session_at >= RACE_WINDOW or self.resent >= WAITING_PACKETS:
            return False
        self.resent += 1
        return True

    def may_rehandshake(self, now: int) -> bool:
        """At most one proactive handshake in 20 s, none without a path."""
        last = self.last_proactive
        return self.pair is not None and (last is None or now - last >= HANDSHAKE_DEBOUNCE)

    def note_ice_state(self, state: IceState, now: int) -> None:
        if state is not IceState.DISCONNECTED:
            self.disconnected_at = None
        elif self.disconnected_at is None:
            self.disconnected_at = now

    def check_failure(self, now: int) -> str | None:
        """Why the connection has to be given up now, if so."""
        for timeout in (self._candidate_timeout(), self._disconnect_timeout()):
            if timeout is not None and timeout.deadline <= now:
                self.failure = self.failure or timeout.reason
        return self.failure

    def note_activity(self, activity: Activity, now: int) -> None:
        """Fall idle after 20 s without data, wake with the next."""
        self.last_data = max(activity.sent_data, activity.received_data)
        self.last_active = max(self.last_active, self.last_data)
        if now - self.last_active < IDLE_AFTER:
            self.wake(now)
        elif self.state is ConnectionState.CONNECTED:
            self.state = ConnectionState.IDLE
            self.agent.set_timing(self.timings.idle, now)

    def is_silent(self, activity: Activity, now: int) -> bool:
        """Whether it is time to doubt the path, for data over it goes unanswered."""
        self.looked_at = now
        start = self._silent_since(activity)
        return start is not None and now - start >= SILENCE

    def touch(self, now: int) -> None:
        """Something happened that counts as activity."""
        self.last_active = now
        self.wake(now)

    def wake(self, now: int) -> None:
        if self.state is ConnectionState.IDLE:
            self.state = ConnectionState.CONNECTED
            self.agent.set_timing(self.timings.busy, now)

    def next_timeout(self, activity: Activity) -> Timeout | None:
        """When this connection wants `Node.handle_timeout` next."""
        tunnel = self.tunnel.poll_timeout(activity) if self.way is not None else None
        return earliest(
            self.agent.poll_timeout(),
            tunnel,
            self._fast_timeout(),
            self._idle_timeout(),
            self._direct_timeout(),
            self._silence_timeout(activity),
            self._candidate_timeout(),
            self._disconnect_timeout(),
        )

    def _fast_timeout(self) -> Timeout | None:
        if self.fast_start is None or self.has_session:
            return None
        return self.fast_start.poll_timeout()

    def _idle_timeout(self) -> Timeout | None:
        if self.state is not ConnectionState.CONNECTED:
            return None
        return Timeout(self.last_active + IDLE_AFTER, "idle")

    def may_try_direct(self, now: int) -> bool:
        """Whether to give direct paths another chance. Only the controlling agent chooses, and
        without data nobody minds the relay."""
        return self._direct_timeout() is not None and self.direct_retry.take_due(now)

    def _direct_timeout(self) -> Timeout | None:
        if not self.agent.controlling or self.state is not ConnectionState.CONNECTED:
            return None
        return self.direct_retry.poll_timeout()

    def _silent_since(self, activity: Activity) -> int | None:
        """When data was first sent over the present path without an answer."""
        if activity.unanswered_since <= activity.received_any or not self.paths:
            return None
        return max(activity.unanswered_since, self.paths[-1].at)

    def _silence_timeout(self, activity: Activity) -> Timeout | None:
        """Only the controlling agent can leave a path."""
        if not self.agent.controlling or self.state is not ConnectionState.CONNECTED:
            return None
        since, looked_at = self._silent_since(activity), self.looked_at
        if since is None:
            due = looked_at + SILENCE
        elif since + SILENCE > looked_at:
            due = since + SILENCE
        else:
            longer = (looked_at - since) // 2
            due = looked_at + min(max(LOOK_AGAIN_AFTER, longer), LOOK_AGAIN_AT_MOST)
        return Timeout(due, "silence of the peer")

    def _candidate_timeout(self) -> Timeout | None:
        """A peer that hears of no candidate gives up after as long, so waiting is of no use."""
        if self.pair is not None or (self.remotes and self.has_gathered):
            return None
        reason = "no candidates of ours" if self.remotes else "no remote candidates"
        return Timeout(self.created_at + CANDIDATE_TIMEOUT, reason)

    def _disconnect_timeout(self) -> Timeout | None:
        """While the first candidates trickle in, that none fits yet says nothing of the next."""
        if self.disconnected_at is None:
            return None
        deadline = self.disconnected_at + DISCONNECT_GRACE
        if self.state is ConnectionState.CONNECTING:
            deadline = max(deadline, self.created_at + CANDIDATE_TIMEOUT)
        return Timeout(deadline, "ICE disconnected")
