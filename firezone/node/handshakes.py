"""WireGuard's handshakes of all connections: which message is whose, and which way it takes.

Messages of a peer are answered on the way they came; others take the pair in use, or before there
is one, all ways that may lead to the peer (`fast_start.py`).
"""

from __future__ import annotations

from firezone.model import Entropy
from firezone.node.connection import Connection, PeerKeys
from firezone.node.directory import Directory
from firezone.node.fast_start import Answered, FastStart, Way, plan
from firezone.node.outputs import Outputs
from firezone.node.traffic import Traffic
from firezone.node.transport import Arrival, Transport
from firezone.noise import (
    Accepted,
    CookieReply,
    Expired,
    RateLimiter,
    SessionEstablished,
    StaticKeypair,
    Tunnel,
    open_initiation,
)

_INITIATION, _RESPONSE, _COOKIE_REPLY = 1, 2, 3
_RECEIVER_INDEX = {_RESPONSE: 8, _COOKIE_REPLY: 4}


class Handshakes:
    """`unix_now` is the wall clock in nanoseconds at `now`. The `controlling` side initiates."""

    def __init__(
        self,
        directory: Directory,
        transport: Transport,
        traffic: Traffic,
        outputs: Outputs,
        *,
        controlling: bool,
        entropy: Entropy,
        unix_now: int,
        now: int,
    ) -> None:
        self.static = StaticKeypair.generate(entropy)
        self.limiter = RateLimiter(self.static.public, entropy, now=now)
        self.preliminary_paths = 0
        """How often data did not have to wait for ICE."""
        self._directory = directory
        self._transport = transport
        self._traffic = traffic
        self._outputs = outputs
        self._controlling = controlling
        self._entropy = entropy
        self._unix_offset = unix_now - now
        self._answered: Answered[Connection] = Answered()

    def reset(self, now: int) -> None:
        """A new key, as whom nobody knows us."""
        self._answered.clear()
        self.static = StaticKeypair.generate(self._entropy)
        self.limiter = RateLimiter(self.static.public, self._entropy, now=now)

    def handle_wall_clock(self, unix_now: int, now: int) -> None:
        """Timestamps of new handshakes follow it, but only forward: peers refuse one that is older
        than the last (WireGuard paper, section 5.1)."""
        self._unix_offset = max(self._unix_offset, unix_now - now)

    def open_tunnel(self, slot: int, tunnel_id: int, keys: PeerKeys, now: int) -> Tunnel:
        """One end of WireGuard, ours, for a new connection."""
        return Tunnel(
            slot=slot,
            tunnel_id=tunnel_id,
            static=self.static,
            peer_public_key=keys.public_key,
            preshared_key=keys.preshared_key,
            entropy=self._entropy,
            unix_now=self._unix_offset + now,
            now=now,
        )

    def handle_message(self, arrival: Arrival, now: int) -> Connection | None:
        """A message of any stranger. Whose it is, if it has changed anything."""
        message = arrival.payload
        kind = int.from_bytes(message[:4], "little") if len(message) >= 12 else 0
        if kind == _INITIATION and self._answer_again(arrival, now):
            return None
        if kind in (_INITIATION, _RESPONSE) and not self._admits(arrival, now):
            return None
        c = self._take(kind, arrival, now)
        if c is None:
            self._outputs.counters["handshake of nobody"] += 1
            return None
        self.drain(c, arrival, now)
        return c

    def handle_confirmed(self, c: Connection, local_index: int, now: int) -> None:
        """The first packet under a keypair of ours as responder came in."""
        c.tunnel.handle_session_confirmed(local_index, now)
        self._adopt_preliminary(c, c.offered, now)

    def drain(self, c: Connection, arrival: Arrival | None, now: int) -> None:
        """Do what the tunnel says. `arrival` is what it answers, if it does."""
        while (message := c.tunnel.poll_transmit()) is not None:
            if arrival is not None:
                self._note_answer(c, arrival, message, now)
                self._transport.send(message, arrival.local, arrival.source, now)
            elif c.way is not None:
                self._transport.send(message, c.way.local.base, c.way.remote.address, now)
        while (command := c.tunnel.poll_command()) is not None:
            self._outputs.commands.append(command)
        while (event := c.tunnel.poll_event()) is not None:
            match event:
                case SessionEstablished():
                    c.note_session(now)
                    self._traffic.establish(c, now)
                case Expired() if self._controlling:
                    c.failure = "no handshake"
                case Expired():
                    # The client may be on its way back to this very connection: ICE decides.
                    self._outputs.counters["handshakes given up"] += 1

    def start_fast(self, c: Connection, now: int) -> None:
        """Send an initiation over what may lead to the peer."""
        if not self._controlling or c.has_session:
            return
        pairs = c.agent.ways() if c.pair is None else [c.pair]
        if c.fast_start is None:
            if not pairs or not c.tunnel.initiate(now):
                return
            c.tunnel.poll_transmit()
            c.fast_start, c.last_proactive = self._plan(c, now), now
        for base, address in c.fast_start.take_due(pairs, now):
            message = c.tunnel.repeat_initiation(now)
            if message is not None:
                self._transport.send(message, base, address, now)

    def handle_way_opened(self, c: Connection, way: Way) -> None:
        """The peer's request came over this way, so ours is no longer in vain."""
        if c.fast_start is not None and not c.has_session:
            c.fast_start.handle_opened(way)

    def handle_nominated(self, c: Connection, now: int) -> None:
        """A pair carries data from now on, and has to lead to a peer that still knows us."""
        if c.fast_start is not None and not c.has_session:
            self._continue_fast(c, c.fast_start, now)
        else:
            self.renew(c, now)

    def renew(self, c: Connection, now: int) -> None:
        """A new session, unless there was one just now: a peer that lost its state is back."""
        if self._controlling and c.may_rehandshake(now) and c.tunnel.initiate(now):
            c.last_proactive = now

    def _admits(self, arrival: Arrival, now: int) -> bool:
        match self.limiter.verify(arrival.payload, arrival.source, now):
            case CookieReply(reply):
                self._transport.send(reply, arrival.local, arrival.source, now)
            case Accepted():
                return True
            case rejected:
                self._outputs.counters[f"handshake: {rejected.reason}"] += 1
        return False

    def _answer_again(self, arrival: Arrival, now: int) -> bool:
        """Whether it is an initiation that was answered a moment ago, when it came another way. The
        same bytes were authenticated then, and are no new work."""
        answered = self._answered.answer_to(arrival.payload, now)
        if answered is None:
            return False
        c, answer = answered
        if c in self._directory:
            self._transport.send(answer, arrival.local, arrival.source, now)
        return True

    def _take(self, kind: int, arrival: Arrival, now: int) -> Connection | None:
        """Give a message to the tunnel it is for: an initiation names its sender's key, the others
        an index of ours."""
        message = arrival.payload
        if kind == _INITIATION:
            opened = open_initiation(self.static, message)
            c = self._directory.of_key(opened.initiator) if opened is not None else None
            if c is not None and opened is not None:
                c.tunnel.handle_initiation(opened, now)
            return c
        offset = _RECEIVER_INDEX.get(kind)
        if offset is None:
            return None
        c = self._directory.of_index(int.from_bytes(message[offset : offset + 4], "little"))
        if c is not None:
            before = c.tunnel.established_at
            c.tunnel.handle_handshake(message, now)
            if c.tunnel.established_at != before:
                self._adopt_preliminary(c, (arrival.local, arrival.source), now)
        return c

    def _plan(self, c: Connection, now: int) -> FastStart:
        round_trip = self._transport.relays.round_trips().get(c.relay)
        if c.heard_of_at is None or round_trip is None:
            return FastStart(now)
        return FastStart(now, plan(now, c.heard_of_at, round_trip))

    def _continue_fast(self, c: Connection, fast: FastStart, now: int) -> None:
        """A pair is nominated, and no way has led there yet. The peer may have dropped all, and
        takes the same initiation now; it must not be so old that the tunnel soon gives up."""
        if fast.is_over or not c.tunnel.handshake_in_progress:
            c.tunnel.begin_again(now)
            c.tunnel.poll_transmit()
        c.fast_start = FastStart(now)

    def _adopt_preliminary(self, c: Connection, way: Way | None, now: int) -> None:
        """A handshake was completed on this way. Data takes it until ICE has found the best."""
        if way is None or c.way is not None:
            return
        c.preliminary = c.agent.way(*way)
        if c.preliminary is not None:
            self.preliminary_paths += 1
            self._traffic.apply_path(c, now)

    def _note_answer(self, c: Connection, arrival: Arrival, answer: bytes, now: int) -> None:
        if arrival.payload[0] == _INITIATION and answer[0] == _RESPONSE:
            self._answered.note(arrival.payload, c, answer, now)
            c.offered = arrival.local, arrival.source
