"""The control machine of one WireGuard tunnel (WireGuard paper, sections 5 and 6).

It makes handshakes and decides when; transport data never comes here. The session kernel of the
data plane seals and opens it under the keypairs that this machine installs by command, and tells
back what it saw: `commands.Activity` as facts, `handle_session_confirmed` and `handle_unsent_data`
as the two events that cannot wait for the next look at the facts.

- Handshake. An initiation of ours is *current* until a response ends it; a retransmission (a new
  initiation) moves it to *previous*, and the response to either makes a session. Accepting the
  peer's initiation or any response ends the attempt, but the initiation that was under way can
  still be answered: initiations that cross converge.
- Sessions. Up to eight, by local index modulo 8; all of them open until they are 180 s old. We
  send under one: as initiator under the new session at once, with a keepalive that confirms it to
  the responder; as responder only from the peer's first packet under it on, which proves that the
  peer has it. Never back to an older one.
- Timers. See timers.py.
- The end. No response within `rekey_attempt_time`, or no session for 540 s: `Expired`, keys wiped.
  Nothing happens from then on until we initiate again or the peer does.

Commands must be carried out before the transmits of the same moment, or the peer's answer can meet
a data plane that has no keys yet.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from firezone.commands import Activity, InstallKeypair, RemoveKeypair, SendKeepalive
from firezone.errors import LocalError
from firezone.model import Entropy, Timeout
from firezone.noise import timers
from firezone.noise.cookie import MacGenerator
from firezone.noise.errors import NoiseError, Reason
from firezone.noise.handshake import (
    NO_PRESHARED_KEY,
    OpenedInitiation,
    SentInitiation,
    SessionKeys,
    consume_initiation,
    consume_response,
    create_initiation,
    create_response,
    open_decoded,
    tai64n,
)
from firezone.noise.index import LocalIndices
from firezone.noise.keys import StaticKeypair
from firezone.noise.messages import (
    HandshakeCookie,
    HandshakeInitiation,
    HandshakeResponse,
    decode,
)
from firezone.noise.primitives import KEY_SIZE
from firezone.noise.timers import WANTS_INITIATION, Facts, Timer

SESSION_SLOTS = 8


@dataclass(frozen=True, slots=True)
class SessionEstablished:
    """We now send under this session. Comes again for each that replaces it."""

    local_index: int
    initiator: bool


@dataclass(frozen=True, slots=True)
class Expired:
    """The peer does not answer: the tunnel has no keys and rests."""


@dataclass(frozen=True, slots=True)
class SessionReport:
    """What may be known of one session. Times are absolute nanoseconds."""

    local_index: int
    initiator: bool
    created_at: int
    send_until: int
    receive_until: int
    sending: bool
    """Whether we send under it."""


TunnelCommand = InstallKeypair | RemoveKeypair | SendKeepalive
TunnelEvent = SessionEstablished | Expired


class Tunnel:
    """Handshakes, sessions and timers with one peer; `slot` is the peer's in the data plane.

    `unix_now` is the wall clock, in nanoseconds, at `now`; from there on it advances with `now`.
    With `renew_idle` the initiator has a session at all times; without, as the paper has it, only
    traffic under an old session renews it.
    Raises LocalError if a key has the wrong size or the peer's is of small order.
    """

    def __init__(
        self,
        *,
        slot: int,
        tunnel_id: int,
        static: StaticKeypair,
        peer_public_key: bytes,
        preshared_key: bytes | None,
        entropy: Entropy,
        unix_now: int,
        now: int,
        rekey_attempt_time: int = timers.REKEY_ATTEMPT_TIME,
        renew_idle: bool = True,
    ) -> None:
        self._static_secret = _shared_secret(static, peer_public_key, preshared_key)
        self.slot = slot
        self.peer_public_key = peer_public_key
        self.counters: Counter[str] = Counter()
        self._static = static
        self._preshared_key = preshared_key or NO_PRESHARED_KEY
        self._entropy = entropy
        self._indices = LocalIndices(tunnel_id)
        self._macs = MacGenerator(peer_public_key)
        self._unix_offset = unix_now - now
        self._rekey_attempt_time = rekey_attempt_time
        self._renew_idle = renew_idle
        self._sent_timestamp = 0
        self._received_timestamp = b""
        self._current: SentInitiation | None = None
        self._previous: SentInitiation | None = None
        self._initiation: bytes | None = None
        self._sessions: dict[int, _Session] = {}
        self._facts = Facts(created_at=now, updated_at=now, renew_idle=self._renew_idle)
        self._expired = False
        self._transmits: deque[bytes] = deque()
        self._commands: deque[TunnelCommand] = deque()
        self._events: deque[TunnelEvent] = deque()

    @property
    def tunnel_id(self) -> int:
        """The upper 24 bits of every local index."""
        return self._indices.tunnel_id

    @property
    def handshake_in_progress(self) -> bool:
        """True from an initiation of ours until a handshake completes or we give up."""
        return self._current is not None

    @property
    def handshake_since(self) -> int | None:
        """When the first initiation of the handshake in progress was sent; None without one."""
        return self._facts.first_initiation_at if self._current is not None else None

    @property
    def established_at(self) -> int | None:
        """When the last handshake completed on our side, in either role; None before the first."""
        return self._facts.established_at

    @property
    def expired(self) -> bool:
        """True from `Expired` until the next handshake begins."""
        return self._expired

    def sessions(self) -> tuple[SessionReport, ...]:
        """All sessions, newest first, without their keys."""
        newest_first = sorted(self._sessions.values(), key=lambda s: s.created_at, reverse=True)
        sending = self._facts.current_index
        return tuple(
            SessionReport(
                s.local_index,
                s.initiator,
                s.created_at,
                s.send_until,
                s.receive_until,
                sending=s.local_index == sending,
            )
            for s in newest_first
        )

    def set_preshared_key(self, preshared_key: bytes | None) -> None:
        """Use another one from the next handshake on; None for none. Sessions stay."""
        _check_sizes(self.peer_public_key, preshared_key)
        self._preshared_key = preshared_key or NO_PRESHARED_KEY

    def has_session(self, now: int) -> bool:
        """True if data can be sent now."""
        session = self._sending_session()
        return session is not None and now < session.send_until

    def handle_handshake(self, message: bytes, now: int) -> None:
        """Take in an initiation, a response or a cookie reply that the `RateLimiter` accepted."""
        self._facts.updated_at = now
        try:
            match decode(message):
                case HandshakeInitiation() as initiation:
                    self._accept_initiation(open_decoded(self._static, initiation), now)
                case HandshakeResponse() as response:
                    self._accept_response(response, now)
                case HandshakeCookie() as cookie:
                    self._macs.handle_cookie(cookie, now)
        except NoiseError as error:
            self.counters[error.reason] += 1

    def handle_initiation(self, opened: OpenedInitiation, now: int) -> None:
        """Take in an initiation that was opened to find this tunnel."""
        self._facts.updated_at = now
        try:
            self._accept_initiation(opened, now)
        except NoiseError as error:
            self.counters[error.reason] += 1

    def handle_session_confirmed(self, local_index: int, now: int) -> None:
        """The data plane opened the first packet under a session in which we are the responder."""
        self._facts.updated_at = now
        session = self._sessions.get(local_index % SESSION_SLOTS)
        if session is None or session.local_index != local_index:
            self.counters[Reason.UNEXPECTED] += 1
            return
        sending = self._sending_session()
        if sending is None or session.created_at >= sending.created_at:
            self._send_under(session)

    def handle_unsent_data(self, now: int) -> None:
        """Data waits for a session: initiate, unless that is under way or was overtaken."""
        if not self.has_session(now):
            self.initiate(now)

    def initiate(self, now: int) -> bool:
        """Begin a handshake at once. False if one is in progress. Revives an expired tunnel."""
        self._facts.updated_at = now
        if self._current is not None:
            return False
        self._initiate(now)
        return True

    def repeat_initiation(self, now: int) -> bytes | None:
        """The initiation in progress once more, None without one. It has a mac2 if a cookie came
        meanwhile. For ways that lose it: a peer takes it once, however often it comes."""
        if self._initiation is None or self._current is None:
            return None
        return self._macs.close(self._initiation, now)

    def begin_again(self, now: int) -> None:
        """Begin a handshake although one may be in progress: that one had no chance."""
        self._facts.updated_at = now
        self._facts.first_initiation_at = None
        self._initiate(now)

    def handle_timeout(self, activity: Activity, now: int) -> None:
        """Do what is due by our own facts and by what the data plane saw."""
        facts = self._facts
        facts.updated_at = now
        if self._expired:
            return
        self._remove_old_sessions(now)
        facts.unanswered_since = timers.unanswered_since(facts, activity)
        due = {
            timer
            for deadline, timer in timers.deadlines(facts, activity, self._rekey_attempt_time)
            if deadline <= now
        }
        if due & {Timer.GIVE_UP, Timer.ABANDON}:
            self._expire()
            return
        if Timer.INITIATE in due:
            self._initiate(now)
        elif due & WANTS_INITIATION:
            facts.scheduled_at = now + self._jitter()
        if Timer.KEEPALIVE in due:
            facts.keepalive_at = now
            self._commands.append(SendKeepalive(self.slot))

    def poll_timeout(self, activity: Activity) -> Timeout | None:
        """The next deadline and its reason; None when expired.

        The data plane wakes nobody for a packet. So while there is a session this is at the latest
        10 s after the last `handle_*`, in time for every deadline that a packet can have started.
        """
        if self._expired:
            return None
        deadline, timer = min(timers.deadlines(self._facts, activity, self._rekey_attempt_time))
        return Timeout(deadline, timer.value)

    def poll_command(self) -> TunnelCommand | None:
        """The next order to the data plane."""
        return self._commands.popleft() if self._commands else None

    def poll_transmit(self) -> bytes | None:
        """The next handshake message to send on the peer's path."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> TunnelEvent | None:
        return self._events.popleft() if self._events else None

    def close(self) -> None:
        """Wipe every key, without an event. The data plane is told to remove its own."""
        for session in self._sessions.values():
            self._commands.append(RemoveKeypair(self.slot, session.local_index))
        self._sessions.clear()
        for sent in (self._current, self._previous):
            if sent is not None:
                sent.wipe()
        self._current = self._previous = None
        self._transmits.clear()
        self._expired = True

    def _initiate(self, now: int) -> None:
        self._revive(now)
        self._retire_current()
        self._current, message = create_initiation(
            self._static,
            self.peer_public_key,
            self._static_secret,
            self._indices.next(),
            self._timestamp(now),
            self._entropy,
        )
        self._initiation = message.encode()
        self._transmits.append(self._macs.close(self._initiation, now))
        facts = self._facts
        if facts.first_initiation_at is None:
            facts.first_initiation_at = now
        facts.last_initiation_at = now
        facts.scheduled_at = None

    def _accept_initiation(self, opened: OpenedInitiation, now: int) -> None:
        received = consume_initiation(opened, self.peer_public_key, self._static_secret)
        if received.timestamp <= self._received_timestamp:
            raise NoiseError(Reason.REPLAYED)
        local_index = self._indices.next()
        response, keys = create_response(
            received, self.peer_public_key, self._preshared_key, local_index, self._entropy
        )
        self._received_timestamp = received.timestamp
        self._revive(now)
        self._retire_current()
        self._transmits.append(self._macs.close(response.encode(), now))
        self._install(local_index, received.remote_index, keys, initiator=False, now=now)

    def _accept_response(self, response: HandshakeResponse, now: int) -> None:
        sent = self._initiation_of(response.receiver_index)
        keys = consume_response(sent, self._static, self._preshared_key, response)
        if sent is self._previous:
            self._previous = None
            self._retire_current()
        else:
            self._current = None
        sent.wipe()
        session = self._install(
            sent.local_index, response.sender_index, keys, initiator=True, now=now
        )
        self._send_under(session)
        self._commands.append(SendKeepalive(self.slot))

    def _initiation_of(self, local_index: int) -> SentInitiation:
        for sent in (self._current, self._previous):
            if sent is not None and sent.local_index == local_index:
                return sent
        raise NoiseError(Reason.WRONG_INDEX)

    def _retire_current(self) -> None:
        if self._current is None:
            return
        if self._previous is not None:
            self._previous.wipe()
        self._previous, self._current = self._current, None

    def _install(
        self, local_index: int, remote_index: int, keys: SessionKeys, *, initiator: bool, now: int
    ) -> _Session:
        lifetime = timers.STOP_SENDING_AFTER_TIME if initiator else timers.REJECT_AFTER_TIME
        session = _Session(
            local_index, initiator, now, now + lifetime, now + timers.REJECT_AFTER_TIME
        )
        self._put_session(session)
        self._commands.append(
            InstallKeypair(
                slot=self.slot,
                local_index=local_index,
                remote_index=remote_index,
                send_key=keys.sending,
                receive_key=keys.receiving,
                initiator=initiator,
                created_at=session.created_at,
                send_until=session.send_until,
                receive_until=session.receive_until,
            )
        )
        self._note_established(initiator, now)
        return session

    def _note_established(self, initiator: bool, now: int) -> None:
        facts = self._facts
        facts.established_at = facts.heard_at = now
        facts.initiator = initiator
        facts.first_initiation_at = facts.last_initiation_at = facts.scheduled_at = None

    def _put_session(self, session: _Session) -> None:
        replaced = self._sessions.get(session.local_index % SESSION_SLOTS)
        if replaced is not None and replaced.local_index == self._facts.current_index:
            self._facts.current_index = None
        self._sessions[session.local_index % SESSION_SLOTS] = session
        self._note_oldest_session()

    def _remove_old_sessions(self, now: int) -> None:
        for slot, session in list(self._sessions.items()):
            if now >= session.receive_until:
                del self._sessions[slot]
                self._commands.append(RemoveKeypair(self.slot, session.local_index))
                if session.local_index == self._facts.current_index:
                    self._facts.current_index = None
        self._note_oldest_session()

    def _note_oldest_session(self) -> None:
        ends = [session.receive_until for session in self._sessions.values()]
        self._facts.oldest_session_ends_at = min(ends, default=None)

    def _sending_session(self) -> _Session | None:
        index = self._facts.current_index
        return None if index is None else self._sessions.get(index % SESSION_SLOTS)

    def _send_under(self, session: _Session) -> None:
        if self._facts.current_index != session.local_index:
            self._facts.current_index = session.local_index
            self._events.append(SessionEstablished(session.local_index, session.initiator))

    def _expire(self) -> None:
        self.close()
        self._events.append(Expired())

    def _revive(self, now: int) -> None:
        if self._expired:
            self._expired = False
            self._facts = Facts(created_at=now, updated_at=now, renew_idle=self._renew_idle)

    def _timestamp(self, now: int) -> bytes:
        """Later than every one before, even if `now` stood still: the peer refuses an equal one."""
        self._sent_timestamp = max(now + self._unix_offset, self._sent_timestamp + 1)
        return tai64n(self._sent_timestamp)

    def _jitter(self) -> int:
        return int.from_bytes(self._entropy(8), "big") % (timers.MAX_JITTER + 1)


@dataclass(frozen=True, slots=True)
class _Session:
    local_index: int
    initiator: bool
    created_at: int
    send_until: int
    receive_until: int


def _shared_secret(static: StaticKeypair, peer_public: bytes, preshared_key: bytes | None) -> bytes:
    """What the two static keys share, the same for every handshake. Raises LocalError."""
    _check_sizes(peer_public, preshared_key)
    try:
        return static.dh(peer_public)
    except NoiseError:
        raise LocalError("the peer's public key is of small order") from None


def _check_sizes(peer_public: bytes, preshared_key: bytes | None) -> None:
    for name, key in (("public key", peer_public), ("pre-shared key", preshared_key)):
        if key is not None and len(key) != KEY_SIZE:
            raise LocalError(f"the peer's {name} has {len(key)} bytes, not {KEY_SIZE}")
