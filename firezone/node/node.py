"""The connection node: joins ICE, TURN and WireGuard into connections to peers.

A role asks for a connection by `upsert_connection`; the node gathers candidates at the relays,
lets ICE find a path, makes the handshake over it and tells the data plane what to do by commands.
Data itself never comes here: only handshakes, STUN, and packets that have no way out yet.

Every input ends in `_settle`, which drains the children of the connection it touched until they
have nothing more to say, and sets its next deadline. So a role polls outputs after each input.

Roll-over: asking again for a connection that stands makes the controlling side start a new session
(at most once in 20 s): a peer that lost its state answers it and is back, without any timeout.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from firezone.commands import (
    SLOTS,
    Activity,
    AddPeer,
    Command,
    CookieSecret,
    RemovePeer,
    SealPacket,
    SetPath,
)
from firezone.errors import LocalError
from firezone.ice import Agent, Candidate, CandidateKind, Nominated, PathSilent, StateChanged
from firezone.model import Endpoint, Entropy, RelayId, Timeout, Transmit, earliest
from firezone.nat64 import Prefix
from firezone.node.candidates import as_candidate, in_signalling_order, optimistic, translated
from firezone.node.connection import (
    Connection,
    ConnectionState,
    LostConnection,
    PathChange,
    PeerKeys,
)
from firezone.node.deadlines import Deadlines
from firezone.node.events import (
    CandidateGathered,
    CandidateWithdrawn,
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionFailed,
    NodeEvent,
    PathChosen,
)
from firezone.node.fast_start import Answered, FastStart, Way
from firezone.node.in_flight import InFlight
from firezone.node.relays import Relay
from firezone.node.slots import Slots
from firezone.node.transport import Arrival, ChannelReceivedAt, RelayEvent, Transport
from firezone.noise import (
    Accepted,
    CookieReply,
    Expired,
    RateLimiter,
    SessionEstablished,
    StaticKeypair,
    Tunnel,
    TunnelIds,
    open_initiation,
)
from firezone.stun import USERNAME, Class, DecodeError, Message, decode, looks_like_stun
from firezone.turn import CandidateAdded, CandidateInvalidated, ChannelConfirmed

ActivityOf = Callable[[int], Activity]

REMEMBERED_LOSSES = 16

_MAX_ROUNDS = 64
_HANDSHAKE_INITIATION, _HANDSHAKE_RESPONSE, _COOKIE_REPLY = 1, 2, 3
_RECEIVER_INDEX = {_HANDSHAKE_RESPONSE: 8, _COOKIE_REPLY: 4}


class NoRelaysError(LocalError):
    """A connection needs at least one relay, and the portal gave none."""


class Node:
    """All connections of one program. `controlling` is True on clients, False on gateways.

    `activity` reads what the data plane saw of a slot, `channel_received_at` of a relay's channel.
    `unix_now` is the wall clock in nanoseconds at `now`; `slots` is how many the data plane has,
    `workers` among how many it distributes peers.
    """

    def __init__(
        self,
        *,
        controlling: bool,
        entropy: Entropy,
        activity: ActivityOf,
        channel_received_at: ChannelReceivedAt,
        slots: int = SLOTS,
        workers: int = 1,
        unix_now: int,
        now: int,
    ) -> None:
        self.static = StaticKeypair.generate(entropy)
        self.counters: Counter[str] = Counter()
        self.preliminary_paths = 0
        """How often data did not have to wait for ICE."""
        self.lost: deque[LostConnection] = deque(maxlen=REMEMBERED_LOSSES)
        """The last connections that are no more, for whoever asks what became of them."""
        self._controlling = controlling
        self._entropy = entropy
        self._activity = activity
        self._unix_offset = unix_now - now
        self._limiter = RateLimiter(self.static.public, entropy, now=now)
        self.transport = Transport(
            software=f"firezone; session={entropy(8).hex()}",
            entropy=entropy,
            channel_received_at=channel_received_at,
        )
        self._connections: dict[str, Connection] = {}
        self._by_key: dict[bytes, Connection] = {}
        self._by_username: dict[str, Connection] = {}
        self._by_tunnel_id: dict[int, Connection] = {}
        self._by_slot: dict[int, Connection] = {}
        self._slots = Slots(slots)
        self._tunnel_ids = TunnelIds(entropy, workers)
        self._deadlines = Deadlines()
        self._in_flight = InFlight()
        self._answered: Answered[Connection] = Answered()
        self._commands: deque[Command] = deque()
        self._events: deque[NodeEvent] = deque()

    @property
    def public_key(self) -> bytes:
        return self.static.public

    @property
    def cookie_secret(self) -> CookieSecret:
        """For the data plane."""
        return self._limiter.cookie_secret

    @property
    def nat64(self) -> Prefix | None:
        """Where this network translates IPv4, if it has IPv6 alone."""
        return self.transport.relays.nat64

    def slot_of(self, connection: str) -> int | None:
        """The data plane's slot of a connection, if there is one."""
        c = self._connections.get(connection)
        return c.slot if c else None

    def connection_at(self, slot: int) -> str | None:
        """The connection that owns a slot."""
        c = self._by_slot.get(slot)
        return c.id if c else None

    def connections(self) -> Iterable[Connection]:
        """All connections, for whoever wants to look at them."""
        return self._connections.values()

    # Inputs of the role.

    def upsert_connection(self, connection: str, keys: PeerKeys, now: int) -> int:
        """Make a connection, or keep it if it is the same one. Returns its slot.

        Raises NoRelaysError if there is no relay to connect through, NoSlotError if the data plane
        has no room for another peer.
        """
        old = self._connections.get(connection)
        if old is not None and old.keys == keys:
            return self._renew(old, now)
        relay = self.transport.relays.draw()
        if relay is None:
            raise NoRelaysError("no relay to connect through")
        if old is not None:
            self._remove(old)
        c = self._open(connection, keys, relay, now)
        self._seed(c, now)
        self._settle(c, now)
        return c.slot

    def close_connection(self, connection: str, reason: str, now: int) -> None:
        """Drop a connection. Unknown ones are none already. `reason` is for `lost` only."""
        c = self._connections.get(connection)
        if c is not None:
            self._remove(c)
            self._note_lost(c, reason, now)
            self._events.append(ConnectionClosed(connection))

    def add_remote_candidate(self, connection: str, candidate: Candidate, now: int) -> None:
        """The peer can be reached there."""
        c = self._connections.get(connection)
        if c is None:
            self.counters["candidate for an unknown connection"] += 1
            return
        if not c.note_remote(candidate):
            self.counters["too many candidates"] += 1
            return
        c.touch(now)
        c.agent.add_remote_candidate(candidate, now)
        guesses = (*optimistic(c.remotes, candidate), *translated(candidate, self.nat64))
        for guess in guesses:
            c.agent.add_remote_candidate(guess, now)
        if candidate.kind is not CandidateKind.HOST:
            self.transport.bind(c.relay, candidate.address, now)
        self._settle(c, now)

    def remove_remote_candidate(self, connection: str, candidate: Candidate, now: int) -> None:
        """The peer can no longer be reached there."""
        c = self._connections.get(connection)
        if c is not None:
            c.forget_remote(candidate)
            for gone in (candidate, *translated(candidate, self.nat64)):
                c.agent.invalidate_remote_candidate(gone, now)
            c.touch(now)
            self._settle(c, now)

    def update_relays(self, remove: Iterable[RelayId], add: Iterable[Relay], now: int) -> None:
        """Take and drop relays as the portal says."""
        self.transport.update(remove, add, now)
        self._settle_relays(now)
        self._leave_lost_relays(now)

    def handle_nat64(self, prefix: Prefix | None, now: int) -> None:
        """This network has IPv6 alone and translates IPv4 at that prefix; None: it does not."""
        self.transport.handle_nat64(prefix, now)
        for c in tuple(self._connections.values()):
            for remote in tuple(c.remotes):
                for there in translated(remote, prefix):
                    c.agent.add_remote_candidate(there, now)
            self._settle(c, now)
        self._settle_relays(now)
        self._leave_lost_relays(now)

    def send_packet(self, slot: int, packet: bytes, now: int) -> None:
        """Seal an inner packet to a peer, past the flow table. It waits for the connection to be
        established; if the data plane has no session left, it hands the packet back."""
        c = self._by_slot.get(slot)
        if c is not None and c.established:
            self._commands.append(SealPacket(slot, packet))
        else:
            self.handle_unroutable(slot, packet, now)

    def reset(self, now: int) -> None:
        """Start over after a change of network: new key, no relays, no connections.

        The caller must also move to a new local port: relays know an allocation by its 5-tuple.
        """
        for c in tuple(self._connections.values()):
            self._remove(c)
            self._note_lost(c, "reset", now)
            self._events.append(ConnectionClosed(c.id))
        self.transport.clear()
        self._drain_relay_commands()
        while self.transport.poll_event() is not None:
            pass
        self._answered.clear()
        self.static = StaticKeypair.generate(self._entropy)
        self._limiter = RateLimiter(self.static.public, self._entropy, now=now)

    def handle_wall_clock(self, unix_now: int, now: int) -> None:
        """The wall clock was read. Timestamps of new handshakes follow it, but only forward:
        peers refuse one that is older than the last (WireGuard paper, section 5.1)."""
        self._unix_offset = max(self._unix_offset, unix_now - now)

    def handle_stream_opened(self, relay: RelayId, local: Endpoint, now: int) -> None:
        """A stream that was wanted stands; datagrams for `local` of this host go over it."""
        self.transport.handle_stream_opened(relay, local, now)
        self._settle_relays(now)

    def handle_stream_closed(self, relay: RelayId, now: int) -> None:
        """A stream could not be opened, or broke."""
        self.transport.handle_stream_closed(relay, now)
        self._settle_relays(now)

    # Inputs of the network and the data plane.

    def handle_datagram(self, local: Endpoint, source: Endpoint, payload: bytes, now: int) -> None:
        """A datagram that the data plane did not deal with itself."""
        arrival = self.transport.receive(local, source, payload, now)
        if arrival is None:
            self._settle_relays(now)
        elif looks_like_stun(arrival.payload):
            self._handle_stun(arrival, now)
        else:
            self._handle_handshake(arrival, now)

    def handle_unroutable(self, slot: int, packet: bytes, now: int) -> None:
        """A packet for a peer without a usable session or path. Waits for one, on clients also
        while ICE runs; a gateway has nothing to say before the client came."""
        c = self._by_slot.get(slot)
        if c is None:
            self.counters["packet for an unknown connection"] += 1
            return
        if c.path is not None and c.may_resend(now):
            self._commands.append(SealPacket(slot, packet))
            return
        if c.way is None and not self._controlling:
            self.counters["packet before nomination"] += 1
            return
        c.touch(now)
        c.waiting.append(packet)
        if c.way is not None:
            c.tunnel.handle_unsent_data(now)
        self._settle(c, now)

    def handle_session_confirmed(self, slot: int, local_index: int, now: int) -> None:
        """The first packet under a keypair of ours as responder came in."""
        c = self._by_slot.get(slot)
        if c is not None:
            c.tunnel.handle_session_confirmed(local_index, now)
            self._adopt_preliminary(c, c.offered, now)
            self._settle(c, now)

    def handle_timeout(self, now: int) -> None:
        self.transport.handle_timeout(now)
        self._settle_relays(now)
        self._leave_lost_relays(now)
        for connection in self._deadlines.due(now):
            c = self._connections.get(connection)
            if c is not None:
                self._handle_connection_timeout(c, now)

    # Outputs.

    def poll_timeout(self) -> Timeout | None:
        return earliest(self.transport.poll_timeout(), self._deadlines.first())

    def poll_transmit(self) -> Transmit | None:
        return self.transport.poll_transmit()

    def poll_command(self) -> Command | None:
        self._drain_relay_commands()
        return self._commands.popleft() if self._commands else None

    def poll_event(self) -> NodeEvent | None:
        return self._events.popleft() if self._events else self.transport.poll_stream()

    # Life of a connection.

    def _open(self, connection: str, keys: PeerKeys, relay: RelayId, now: int) -> Connection:
        slot = self._slots.allocate()
        tunnel_id = self._tunnel_ids.allocate()
        c = Connection(
            id=connection,
            slot=slot,
            keys=keys,
            agent=Agent(
                controlling=self._controlling,
                local=keys.local,
                remote=keys.remote,
                entropy=self._entropy,
                now=now,
            ),
            tunnel=Tunnel(
                slot=slot,
                tunnel_id=tunnel_id,
                static=self.static,
                peer_public_key=keys.public_key,
                preshared_key=keys.preshared_key,
                entropy=self._entropy,
                unix_now=self._unix_offset + now,
                now=now,
            ),
            tunnel_id=tunnel_id,
            relay=relay,
            created_at=now,
            last_active=now,
        )
        self._connections[connection] = self._by_slot[slot] = c
        self._by_key[keys.public_key] = self._by_username[keys.username] = c
        self._by_tunnel_id[tunnel_id] = c
        self._commands.append(AddPeer(slot, tunnel_id))
        return c

    def _renew(self, c: Connection, now: int) -> int:
        """Signal our candidates again, for the peer may have lost them with its state."""
        c.touch(now)
        for candidate in in_signalling_order(c.agent.local_candidates()):
            self._events.append(CandidateGathered(c.id, candidate))
        self._seed(c, now)
        self._rehandshake(c, now)
        self._settle(c, now)
        return c.slot

    def _signal_direct(self, c: Connection) -> None:
        """Once more: the peer gives its failed pairs of a candidate that it hears of another
        chance, too."""
        for candidate in in_signalling_order(c.agent.local_candidates()):
            if candidate.kind is not CandidateKind.RELAYED:
                self._events.append(CandidateGathered(c.id, candidate))

    def _remove(self, c: Connection) -> None:
        self._deadlines.set(c.id, None)
        _discard(self._connections, c.id, c)
        _discard(self._by_slot, c.slot, c)
        _discard(self._by_key, c.keys.public_key, c)
        _discard(self._by_username, c.keys.username, c)
        _discard(self._by_tunnel_id, c.tunnel_id, c)
        c.tunnel.close()
        self._commands.append(RemovePeer(c.slot))
        self._slots.release(c.slot)
        self._tunnel_ids.release(c.tunnel_id)

    def _note_lost(self, c: Connection, reason: str, now: int) -> None:
        self.lost.append(LostConnection(c.id, reason, c.created_at, now, c.established))

    def _handle_connection_timeout(self, c: Connection, now: int) -> None:
        activity = self._activity(c.slot)
        c.note_activity(activity, now)
        if self._controlling and c.is_silent(activity, now):
            c.agent.handle_silence(now)
        if c.may_try_direct(now) and c.agent.retry_direct(now):
            self._signal_direct(c)
        if c.agent.poll_timeout() is not None:
            c.agent.handle_timeout(now)
        if c.way is not None:
            c.tunnel.handle_timeout(activity, now)
        self._settle(c, now)

    def _settle(self, c: Connection, now: int) -> None:
        """Drain the children until they are quiet, then wait for the next deadline or give up."""
        for _ in range(_MAX_ROUNDS):
            self._drain_agent(c, now)
            self._drain_tunnel(c, None, now)
            timeout = c.agent.poll_timeout()
            if timeout is None or timeout.deadline > now:
                break
            c.agent.handle_timeout(now)
        self._check_preliminary(c)
        self._start_fast(c, now)
        self._settle_relays(now)
        self._finish(c, now)

    def _finish(self, c: Connection, now: int) -> None:
        if self._connections.get(c.id) is not c:
            return
        failure = c.check_failure(now)
        if failure is not None:
            self._remove(c)
            self._note_lost(c, failure, now)
            self._events.append(ConnectionFailed(c.id, failure))
            return
        self._deadlines.set(c.id, c.next_timeout(self._activity(c.slot)))

    def _check_preliminary(self, c: Connection) -> None:
        """A pair that is gone, or does not work any more, carries nothing."""
        pair = c.preliminary
        if pair is not None and c.agent.way(pair.local.base, pair.remote.address) is None:
            c.preliminary = c.path = None
            self._commands.append(SetPath(c.slot, None))

    # Candidates.

    def _seed(self, c: Connection, now: int) -> None:
        """Give the agent our candidates. Relayed ones come from the connection's own relay only."""
        found = [
            as_candidate(candidate)
            for relay, candidate in self.transport.candidates()
            if candidate.kind != "relay" or relay == c.relay
        ]
        for candidate in in_signalling_order(found):
            self._add_local(c, candidate, now)

    def _add_local(self, c: Connection, candidate: Candidate, now: int) -> None:
        adopted = c.agent.add_local_candidate(candidate, now)
        if adopted is not None:
            self._events.append(CandidateGathered(c.id, adopted))

    def _settle_relays(self, now: int) -> None:
        self.transport.drain()
        while (event := self.transport.poll_event()) is not None:
            self._handle_relay_event(event, now)

    def _handle_relay_event(self, event: RelayEvent, now: int) -> None:
        for c in tuple(self._connections.values()):
            match event.event:
                case CandidateAdded() as added:
                    if added.kind == "relay" and event.relay != c.relay:
                        continue
                    self._add_local(c, as_candidate(added), now)
                    c.touch(now)
                case CandidateInvalidated() as gone:
                    if gone.kind == "relay":
                        self._withdraw(c, as_candidate(gone), now)
                case ChannelConfirmed(peer, _, socket):
                    for relayed in self.transport.relayed_addresses(socket):
                        c.agent.handle_path_opened(relayed, peer, now)
                    self._apply_path(c, now)
                    self._establish(c, now)
                case _:
                    self._apply_path(c, now)
            self._deadlines.set(c.id, Timeout(now, "relay event"))

    def _withdraw(self, c: Connection, candidate: Candidate, now: int) -> None:
        if c.agent.invalidate_local_candidate(candidate, now):
            self._events.append(CandidateWithdrawn(c.id, candidate))

    def _leave_lost_relays(self, now: int) -> None:
        """Move every connection whose relay is gone to another one."""
        for c in self._connections.values():
            if c.relay in self.transport.relays:
                continue
            relay = self.transport.relays.draw()
            if relay is None:
                return
            c.relay = relay
            self._seed(c, now)
            for remote in c.remotes:
                if remote.kind is not CandidateKind.HOST:
                    self.transport.bind(relay, remote.address, now)
            self._deadlines.set(c.id, Timeout(now, "relay lost"))

    # ICE.

    def _handle_stun(self, arrival: Arrival, now: int) -> None:
        try:
            message = decode(arrival.payload)
        except DecodeError as error:
            self.counters[f"STUN: {error.reason}"] += 1
            return
        c = self._addressee(message)
        if c is None or not c.agent.handle_stun(arrival.local, arrival.source, message, now):
            self.counters["STUN for nobody"] += 1
            return
        self._settle(c, now)

    def _addressee(self, message: Message) -> Connection | None:
        if message.class_ is Class.REQUEST:
            return self._by_username.get(message.get(USERNAME) or "")
        owner = self._in_flight.owner(message.transaction_id)
        return self._connections.get(owner) if owner is not None else None

    def _drain_agent(self, c: Connection, now: int) -> None:
        while (transmit := c.agent.poll_transmit()) is not None:
            self._in_flight.note(transmit.payload, c.id, now)
            self.transport.send(transmit.payload, transmit.local, transmit.destination, now)
        while (event := c.agent.poll_event()) is not None:
            match event:
                case StateChanged(state):
                    c.note_ice_state(state, now)
                case Nominated():
                    self._handle_nominated(c, event, now)
                case PathSilent():
                    self.transport.probe(now)

    def _handle_nominated(self, c: Connection, pair: Nominated, now: int) -> None:
        if c.pair == pair:
            return
        c.pair, c.preliminary = pair, None
        c.direct_retry.note_path(direct=pair.is_direct, now=now)
        self._apply_path(c, now)
        if c.state is ConnectionState.CONNECTING:
            c.state = ConnectionState.CONNECTED
            c.touch(now)
        c.paths.append(PathChange(now, pair.is_direct, pair.local, pair.remote))
        self._events.append(PathChosen(c.id, pair.is_direct, pair.local, pair.remote))
        if c.fast_start is not None and not c.has_session:
            self._continue_fast(c, c.fast_start, now)
        else:
            self._rehandshake(c, now)
        self._establish(c, now)

    def _apply_path(self, c: Connection, now: int) -> None:
        way = c.way
        if way is None:
            return
        path = self.transport.path(way, now)
        if path != c.path:
            c.path = path
            self._commands.append(SetPath(c.slot, path))

    # WireGuard.

    def _handle_handshake(self, arrival: Arrival, now: int) -> None:
        message = arrival.payload
        kind = int.from_bytes(message[:4], "little") if len(message) >= 12 else 0
        if kind == _HANDSHAKE_INITIATION and self._answer_again(arrival, now):
            return
        if kind in (_HANDSHAKE_INITIATION, _HANDSHAKE_RESPONSE):
            match self._limiter.verify(message, arrival.source, now):
                case CookieReply(reply):
                    self.transport.send(reply, arrival.local, arrival.source, now)
                    return
                case Accepted():
                    pass
                case rejected:
                    self.counters[f"handshake: {rejected.reason}"] += 1
                    return
        c = self._take_handshake(kind, arrival, now)
        if c is None:
            self.counters["handshake of nobody"] += 1
            return
        self._drain_tunnel(c, arrival, now)
        self._settle(c, now)

    def _answer_again(self, arrival: Arrival, now: int) -> bool:
        """Whether it is an initiation that was answered a moment ago, when it came another way. The
        same bytes were authenticated then, and are no new work."""
        answered = self._answered.answer_to(arrival.payload, now)
        if answered is None:
            return False
        c, answer = answered
        if self._connections.get(c.id) is c:
            self.transport.send(answer, arrival.local, arrival.source, now)
            self._settle_relays(now)
        return True

    # The handshake before ICE is done.

    def _start_fast(self, c: Connection, now: int) -> None:
        """Send an initiation over what may lead to the peer."""
        if not self._controlling or c.has_session:
            return
        pairs = c.agent.ways() if c.pair is None else [c.pair]
        if c.fast_start is None:
            if not pairs or not c.tunnel.initiate(now):
                return
            c.tunnel.poll_transmit()
            c.fast_start, c.last_proactive = FastStart(now), now
        for base, address in c.fast_start.take_due(pairs, now):
            message = c.tunnel.repeat_initiation(now)
            if message is not None:
                self.transport.send(message, base, address, now)

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
            self._apply_path(c, now)

    def _take_handshake(self, kind: int, arrival: Arrival, now: int) -> Connection | None:
        """Give a message to the tunnel it is for: an initiation names its sender's key, the others
        an index of ours."""
        message = arrival.payload
        if kind == _HANDSHAKE_INITIATION:
            opened = open_initiation(self.static, message)
            c = self._by_key.get(opened.initiator) if opened is not None else None
            if c is not None and opened is not None:
                c.tunnel.handle_initiation(opened, now)
            return c
        offset = _RECEIVER_INDEX.get(kind)
        if offset is None:
            return None
        index = int.from_bytes(message[offset : offset + 4], "little")
        c = self._by_tunnel_id.get(index >> 8)
        if c is not None:
            before = c.tunnel.established_at
            c.tunnel.handle_handshake(message, now)
            if c.tunnel.established_at != before:
                self._adopt_preliminary(c, (arrival.local, arrival.source), now)
        return c

    def _rehandshake(self, c: Connection, now: int) -> None:
        if self._controlling and c.may_rehandshake(now) and c.tunnel.initiate(now):
            c.last_proactive = now

    def _drain_tunnel(self, c: Connection, arrival: Arrival | None, now: int) -> None:
        """Handshake messages go back where the peer's came from, else over the chosen pair."""
        while (message := c.tunnel.poll_transmit()) is not None:
            if arrival is not None:
                self._note_answer(c, arrival, message, now)
                self.transport.send(message, arrival.local, arrival.source, now)
            elif c.way is not None:
                self.transport.send(message, c.way.local.base, c.way.remote.address, now)
        while (command := c.tunnel.poll_command()) is not None:
            self._commands.append(command)
        while (event := c.tunnel.poll_event()) is not None:
            match event:
                case SessionEstablished():
                    c.note_session(now)
                    self._establish(c, now)
                case Expired():
                    c.failure = "no handshake"

    def _note_answer(self, c: Connection, arrival: Arrival, answer: bytes, now: int) -> None:
        if arrival.payload[0] == _HANDSHAKE_INITIATION and answer[0] == _HANDSHAKE_RESPONSE:
            self._answered.note(arrival.payload, c, answer, now)
            c.offered = arrival.local, arrival.source

    def _establish(self, c: Connection, now: int) -> None:
        """Let the waiting packets go as soon as there is both a path and a session."""
        if c.path is None or not c.has_session:
            return
        if c.established_at is None:
            c.established_at = now
            self._events.append(ConnectionEstablished(c.id))
        while c.waiting:
            self._commands.append(SealPacket(c.slot, c.waiting.popleft()))

    def _drain_relay_commands(self) -> None:
        while (command := self.transport.poll_command()) is not None:
            self._commands.append(command)


K = TypeVar("K")


def _discard(table: dict[K, Connection], key: K, c: Connection) -> None:
    """Remove an entry, unless it is another connection's by now."""
    if table.get(key) is c:
        del table[key]
