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

from collections import deque
from collections.abc import Callable, Iterable

from firezone.commands import (
    SLOTS,
    Activity,
    AddPeer,
    Command,
    CookieSecret,
    RemovePeer,
)
from firezone.errors import LocalError
from firezone.ice import (
    Agent,
    Candidate,
    CandidateKind,
)
from firezone.model import Endpoint, Entropy, RelayId, Timeout, Transmit, earliest
from firezone.nat64 import Prefix
from firezone.node.agents import Agents
from firezone.node.connection import (
    CLIENT_TIMINGS,
    GATEWAY_TIMINGS,
    SILENCE,
    Connection,
    LostConnection,
    PeerKeys,
)
from firezone.node.deadlines import Deadlines
from firezone.node.directory import Directory
from firezone.node.events import (
    ConnectionClosed,
    ConnectionFailed,
    NodeEvent,
)
from firezone.node.handshakes import Handshakes
from firezone.node.local_candidates import LocalCandidates
from firezone.node.outputs import Outputs
from firezone.node.relay_choice import RelayChoice
from firezone.node.relay_events import RelayEvents
from firezone.node.relays import Relay
from firezone.node.remote_candidates import RemoteCandidates
from firezone.node.traffic import Traffic
from firezone.node.transport import Arrival, ChannelReceivedAt, Transport
from firezone.stun import USERNAME, Class, DecodeError, Message, decode, looks_like_stun

ActivityOf = Callable[[int], Activity]

REMEMBERED_LOSSES = 16

_MAX_ROUNDS = 64


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
        self.lost: deque[LostConnection] = deque(maxlen=REMEMBERED_LOSSES)
        """The last connections that are no more, for whoever asks what became of them."""
        self._controlling = controlling
        self._entropy = entropy
        self._activity = activity
        self._outputs = Outputs()
        self.counters = self._outputs.counters
        self.transport = Transport(
            software=f"firezone; session={entropy(8).hex()}",
            entropy=entropy,
            channel_received_at=channel_received_at,
        )
        self._directory = Directory(entropy=entropy, slots=slots, workers=workers)
        self._traffic = Traffic(self.transport, self._outputs)
        self._candidates = LocalCandidates(self.transport, self._outputs)
        self._remotes = RemoteCandidates(self.transport, self._outputs)
        self._relays = RelayChoice(self.transport, self._candidates, self._remotes)
        self.handshakes = Handshakes(
            self._directory,
            self.transport,
            self._traffic,
            self._outputs,
            controlling=controlling,
            entropy=entropy,
            unix_now=unix_now,
            now=now,
        )
        self._agents = Agents(
            self.transport, self._relays, self._traffic, self.handshakes, self._outputs
        )
        self._deadlines = Deadlines()
        self._relay_events = RelayEvents(
            self._directory,
            self.transport,
            self._relays,
            self._candidates,
            self._traffic,
            self._deadlines,
        )

    @property
    def public_key(self) -> bytes:
        return self.handshakes.static.public

    @property
    def cookie_secret(self) -> CookieSecret:
        """For the data plane."""
        return self.handshakes.limiter.cookie_secret

    @property
    def preliminary_paths(self) -> int:
        """How often data did not have to wait for ICE."""
        return self.handshakes.preliminary_paths

    @property
    def nat64(self) -> Prefix | None:
        """Where this network translates IPv4, if it has IPv6 alone."""
        return self.transport.relays.nat64

    def slot_of(self, connection: str) -> int | None:
        """The data plane's slot of a connection, if there is one."""
        c = self._directory.get(connection)
        return c.slot if c else None

    def is_established(self, connection: str) -> bool:
        """Whether packets flow."""
        c = self._directory.get(connection)
        return c is not None and c.established

    def connection_at(self, slot: int) -> str | None:
        """The connection that owns a slot."""
        c = self._directory.at(slot)
        return c.id if c else None

    def connections(self) -> Iterable[Connection]:
        """All connections, for whoever wants to look at them."""
        return self._directory.all()

    # Inputs of the role.

    def upsert_connection(
        self, connection: str, keys: PeerKeys, now: int, *, signalling: int | None = None
    ) -> int:
        """Make a connection, or keep it if it is the same one. Returns its slot. `signalling` is
        how long candidates take to the peer, in nanoseconds, if that can be told.

        Raises NoRelaysError if there is no relay to connect through, NoSlotError if the data plane
        has no room for another peer.
        """
        old = self._directory.get(connection)
        if old is not None and old.keys == keys:
            return self._renew(old, now)
        relay = self.transport.relays.draw()
        if relay is None:
            raise NoRelaysError("no relay to connect through")
        if old is not None:
            self._remove(old)
        c = self._open(connection, keys, relay, now)
        if signalling is not None:
            c.heard_of_at = now + signalling
        self._candidates.seed(c, now)
        self._settle(c, now)
        return c.slot

    def close_connection(self, connection: str, reason: str, now: int) -> None:
        """Drop a connection. Unknown ones are none already. `reason` is for `lost` only."""
        c = self._directory.get(connection)
        if c is not None:
            self._remove(c)
            self._note_lost(c, reason, now)
            self._outputs.events.append(ConnectionClosed(connection))

    def add_remote_candidate(self, connection: str, candidate: Candidate, now: int) -> None:
        """The peer can be reached there."""
        c = self._directory.get(connection)
        if c is None:
            self.counters["candidate for an unknown connection"] += 1
            return
        if not self._remotes.add(c, candidate, now):
            return
        if candidate.kind is CandidateKind.RELAYED and self._is_in_trouble(c, now):
            self._relays.try_other(c, now)
        self._settle(c, now)

    def remove_remote_candidate(self, connection: str, candidate: Candidate, now: int) -> None:
        """The peer can no longer be reached there."""
        c = self._directory.get(connection)
        if c is not None:
            self._remotes.remove(c, candidate, now)
            self._settle(c, now)

    def update_relays(self, remove: Iterable[RelayId], add: Iterable[Relay], now: int) -> None:
        """Take and drop relays as the portal says."""
        self.transport.update(remove, add, now)
        self._relay_events.settle(now)
        self._relay_events.leave_lost(now)

    def handle_nat64(self, prefix: Prefix | None, now: int) -> None:
        """This network has IPv6 alone and translates IPv4 at that prefix; None: it does not."""
        self.transport.handle_nat64(prefix, now)
        for c in tuple(self._directory.all()):
            self._remotes.translate(c, prefix, now)
            self._settle(c, now)
        self._relay_events.settle(now)
        self._relay_events.leave_lost(now)

    def set_host_addresses(self, addresses: Iterable[Endpoint], now: int) -> None:
        """Where this host can be reached by those around it, the best first, until told anew or
        `reset`. A few at most; what relays see of us counts beside them."""
        self._candidates.set_hosts(addresses, self.connections(), now)
        self.transport.look_around(now)
        self._relay_events.settle(now)
        for c in self.connections():
            self._deadlines.set(c.id, Timeout(now, "host addresses"))

    def send_packet(self, slot: int, packet: bytes, now: int) -> None:
        """Seal an inner packet to a peer, past the flow table. It waits for the connection to be
        established; if the data plane has no session left, it hands the packet back."""
        c = self._directory.at(slot)
        if c is not None and c.established:
            self._traffic.send(c, packet)
        else:
            self.handle_unroutable(slot, packet, now)

    def reset(self, now: int) -> None:
        """Start over after a change of network: new key, no relays, no connections.

        The caller must also move to a new local port: relays know an allocation by its 5-tuple.
        """
        for c in tuple(self._directory.all()):
            self._remove(c)
            self._note_lost(c, "reset", now)
            self._outputs.events.append(ConnectionClosed(c.id))
        self.transport.clear()
        self._drain_relay_commands()
        while self.transport.poll_event() is not None:
            pass
        self._candidates.reset()
        self.handshakes.reset(now)

    def handle_wall_clock(self, unix_now: int, now: int) -> None:
        """The wall clock was read; `unix_now` is nanoseconds."""
        self.handshakes.handle_wall_clock(unix_now, now)

    def handle_stream_opened(self, relay: RelayId, local: Endpoint, now: int) -> None:
        """A stream that was wanted stands; datagrams for `local` of this host go over it."""
        self.transport.handle_stream_opened(relay, local, now)
        self._relay_events.settle(now)

    def handle_stream_closed(self, relay: RelayId, now: int) -> None:
        """A stream could not be opened, or broke."""
        self.transport.handle_stream_closed(relay, now)
        self._relay_events.settle(now)

    # Inputs of the network and the data plane.

    def handle_datagram(self, local: Endpoint, source: Endpoint, payload: bytes, now: int) -> None:
        """A datagram that the data plane did not deal with itself."""
        arrival = self.transport.receive(local, source, payload, now)
        if arrival is None:
            self._relay_events.settle(now)
        elif looks_like_stun(arrival.payload):
            self._handle_stun(arrival, now)
        else:
            c = self.handshakes.handle_message(arrival, now)
            if c is not None:
                self._settle(c, now)
            else:
                self._relay_events.settle(now)

    def handle_unroutable(self, slot: int, packet: bytes, now: int) -> None:
        """A packet for a peer without a usable session or path. Waits for one, on clients also
        while ICE runs; a gateway has nothing to say before the client came."""
        c = self._directory.at(slot)
        if c is None:
            self.counters["packet for an unknown connection"] += 1
            return
        if c.path is not None and c.may_resend(now):
            self._traffic.send(c, packet)
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
        c = self._directory.at(slot)
        if c is not None:
            self.handshakes.handle_confirmed(c, local_index, now)
            self._settle(c, now)

    def handle_timeout(self, now: int) -> None:
        self.transport.handle_timeout(now)
        self._relay_events.settle(now)
        self._relay_events.leave_lost(now)
        for connection in self._deadlines.due(now):
            c = self._directory.get(connection)
            if c is not None:
                self._handle_connection_timeout(c, now)

    # Outputs.

    def poll_timeout(self) -> Timeout | None:
        return earliest(self.transport.poll_timeout(), self._deadlines.first())

    def poll_transmit(self) -> Transmit | None:
        return self.transport.poll_transmit()

    def poll_command(self) -> Command | None:
        self._drain_relay_commands()
        commands = self._outputs.commands
        return commands.popleft() if commands else None

    def poll_event(self) -> NodeEvent | None:
        events = self._outputs.events
        return events.popleft() if events else self.transport.poll_stream()

    # Life of a connection.

    def _open(self, connection: str, keys: PeerKeys, relay: RelayId, now: int) -> Connection:
        slot = self._directory.slots.allocate()
        tunnel_id = self._directory.tunnel_ids.allocate()
        timings = CLIENT_TIMINGS if self._controlling else GATEWAY_TIMINGS
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
                timing=timings.busy,
                reaches=self.transport.reaches,
            ),
            tunnel=self.handshakes.open_tunnel(slot, tunnel_id, keys, now),
            tunnel_id=tunnel_id,
            relay=relay,
            timings=timings,
            created_at=now,
            last_active=now,
        )
        self._directory.add(c)
        self._outputs.commands.append(AddPeer(slot, tunnel_id))
        return c

    def _renew(self, c: Connection, now: int) -> int:
        """The peer may have lost our candidates with its state, and its session."""
        c.touch(now)
        self._candidates.signal_again(c, relayed=True)
        self._candidates.seed(c, now)
        self.handshakes.renew(c, now)
        self._settle(c, now)
        return c.slot

    def _remove(self, c: Connection) -> None:
        self._deadlines.set(c.id, None)
        self._directory.remove(c)
        c.tunnel.close()
        self._outputs.commands.append(RemovePeer(c.slot))

    def _note_lost(self, c: Connection, reason: str, now: int) -> None:
        self.lost.append(LostConnection(c.id, reason, c.created_at, now, c.established))

    def _handle_connection_timeout(self, c: Connection, now: int) -> None:
        activity = self._activity(c.slot)
        c.note_activity(activity, now)
        if self._controlling and c.is_silent(activity, now):
            c.agent.handle_silence(now)
        if c.may_try_direct(now) and c.agent.retry_direct(now):
            self._candidates.signal_again(c, relayed=False)
        if c.agent.poll_timeout() is not None:
            c.agent.handle_timeout(now)
        if c.way is not None:
            c.tunnel.handle_timeout(activity, now)
        self._settle(c, now)

    def _settle(self, c: Connection, now: int) -> None:
        """Drain the children until they are quiet, then wait for the next deadline or give up."""
        for _ in range(_MAX_ROUNDS):
            self._agents.drain(c, now)
            self.handshakes.drain(c, None, now)
            timeout = c.agent.poll_timeout()
            if timeout is None or timeout.deadline > now:
                break
            c.agent.handle_timeout(now)
        self._traffic.drop_preliminary(c)
        self.handshakes.start_fast(c, now)
        self._relay_events.settle(now)
        self._finish(c, now)

    def _finish(self, c: Connection, now: int) -> None:
        if c not in self._directory:
            return
        failure = c.check_failure(now)
        if failure is not None:
            self._remove(c)
            self._note_lost(c, failure, now)
            self._outputs.events.append(ConnectionFailed(c.id, failure, now, c.is_in_use(now)))
            return
        self._deadlines.set(c.id, c.next_timeout(self._activity(c.slot)))

    # Relays.

    def _is_in_trouble(self, c: Connection, now: int) -> bool:
        """Whether the client, which has taken to another relay, likely means that it hears nothing
        of us. Maybe it is our relay that is gone."""
        silent = now - self._activity(c.slot).received_any >= SILENCE
        return not self._controlling and c.pair is not None and not c.pair.is_direct and silent

    # ICE.

    def _handle_stun(self, arrival: Arrival, now: int) -> None:
        try:
            message = decode(arrival.payload)
        except DecodeError as error:
            self.counters[f"STUN: {error.reason}"] += 1
            return
        c = self._addressee(message)
        if c is not None and not self._controlling and c.is_silent(self._activity(c.slot), now):
            c.agent.handle_silence(now)
        if c is None or not c.agent.handle_stun(arrival.local, arrival.source, message, now):
            self.counters["STUN for nobody"] += 1
            return
        if message.class_ is Class.REQUEST:
            self.handshakes.handle_way_opened(c, (arrival.local, arrival.source))
        self._settle(c, now)

    def _addressee(self, message: Message) -> Connection | None:
        if message.class_ is Class.REQUEST:
            return self._directory.of_username(message.get(USERNAME) or "")
        owner = self._agents.owner_of_response(message.transaction_id)
        return self._directory.get(owner)

    def _drain_relay_commands(self) -> None:
        while (command := self.transport.poll_command()) is not None:
            self._outputs.commands.append(command)
