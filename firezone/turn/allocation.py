"""A TURN client (RFC 8656): one relay, the addresses it gives us, the channels over it.

Life of an allocation:

    Binding to each address of the relay ──► the first answer fixes the *active socket*
      ──► Allocate ──► granted ──► Refresh at half the lifetime, Binding every 25 s

1. Candidates come from here alone. A Binding response gives host (the local address it arrived
   on) and server-reflexive ones, also from the family that lost the race; Allocate gives relayed.
2. Requests but Binding are signed from the first Allocate on; only the nonce is missing there. A
   401 or 438 brings one. Their responses must be signed, too, errors included: an unsigned one is
   ignored and the request stays in flight. But a relay that answers the first Allocate by an
   unsigned 400 goes by the book, see requests.py; of such a one we take what it cannot sign.
3. Requests are resent by a backoff and given up after 8 s. If that happens on the active socket's
   family, the relay is gone: no active socket, no allocation.
4. 437 means that the relay's idea of our allocation differs: on Allocate we delete the old one and
   try again, else we allocate anew.
5. An Allocate that is refused for another reason *suspends* the machine until `refresh`.
6. Binds wait in a buffer until there is an allocation. Channels, not permissions, carry all data.

Invalidating an allocation takes back its relayed candidates and its channels. Host and
server-reflexive candidates, the nonce and buffered binds outlive it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from firezone import stun
from firezone.durations import SECOND
from firezone.model import Endpoint, Entropy, Timeout, Transmit, earliest
from firezone.stun import Class, DecodeError, Message, Method
from firezone.turn.addresses import Addresses, is_candidate
from firezone.turn.authentication import MAX_CHALLENGES, Authentication, error_code
from firezone.turn.backoff import BUDGET, PROBE_BUDGET, URGENT_BUDGET
from firezone.turn.channel_data import ChannelDataError, decode_channel_data
from firezone.turn.channels import Binding, Channels
from firezone.turn.events import (
    NO_RESPONSE,
    AllocationEvent,
    AllocationState,
    CandidateAdded,
    Channel,
    ChannelConfirmed,
    ChannelLost,
    Credentials,
    Decapsulated,
    RelayServer,
)
from firezone.turn.grant import Grant
from firezone.turn.requests import Request, Requests
from firezone.turn.wanted_peers import WantedPeers

KEEPALIVE_INTERVAL = 25 * SECOND
"""Keeps the NAT's mapping, tells a dead relay, and notices a new mapping."""
MAX_MISMATCHES = 4
"""How often in a row 437 makes us start over."""


class Allocation:
    """The client's end of one relay. It starts at once: take `poll_transmit`.

    `software` names us to the relay. Counters are by reason of what was dropped or went wrong.
    Raises LocalError for credentials or software that no STUN attribute can hold.
    """

    def __init__(
        self,
        *,
        server: RelayServer,
        username: str,
        password: str,
        realm: str,
        software: str,
        entropy: Entropy,
        now: int,
        over_stream: bool = False,
    ) -> None:
        self.server = server
        self.over_stream = over_stream
        """Whether the way to the server is TCP or TLS. Then the addresses it sees us at, and the
        local ones, are of no use over UDP, and only relayed candidates are told."""
        self.counters: Counter[str] = Counter()
        self._authentication = Authentication(Credentials(username, password, realm))
        self._active: Endpoint | None = None
        self._grant: Grant | None = None
        self._round_trip: int | None = None
        self._keepalive_at = now
        self._mismatches = 0
        self._has_failed = False
        self._channels = Channels()
        self._wanted_peers = WantedPeers()
        self._requests = Requests(software, entropy)
        self._transmits: deque[Transmit] = deque()
        self._events: deque[AllocationEvent] = deque()
        self._addresses = Addresses(self._events)
        self._send_bindings(now)

    # What the owner asks.

    @property
    def credentials(self) -> Credentials | None:
        """None once the relay has refused them."""
        return self._authentication.credentials

    @property
    def active_socket(self) -> Endpoint | None:
        """The address of the relay that we talk to, once it is known."""
        return self._active

    @property
    def round_trip(self) -> int | None:
        """To the relay and back, smoothed, in nanoseconds (RFC 6298 section 2.3); None while it
        has not answered, or answers no more."""
        return self._round_trip if self._active is not None else None

    @property
    def has_allocation(self) -> bool:
        return self._grant is not None

    @property
    def state(self) -> AllocationState:
        """For whoever looks on."""
        if self._has_failed:
            return AllocationState.FAILED
        if self.credentials is None:
            return AllocationState.UNAUTHORIZED
        if self._grant is not None:
            return AllocationState.ALLOCATED
        if self._active is None:
            return AllocationState.CONNECTING
        return AllocationState.SUSPENDED if self._is_suspended else AllocationState.ALLOCATING

    @property
    def expires_at(self) -> int | None:
        """When the relay forgets the allocation unless we refresh it; None without one."""
        return self._grant.expires_at if self._grant is not None else None

    def channels(self) -> int:
        """How many channels the relay has confirmed."""
        return self._channels.confirmed_count()

    def matches(self, source: Endpoint) -> bool:
        """Whether this is an address of our relay."""
        return source in (self.server.ipv4, self.server.ipv6)

    def candidates(self) -> list[CandidateAdded]:
        """What we have now: host, then server-reflexive, then relayed; IPv4 first."""
        return self._addresses.all()

    def relayed_addresses(self) -> list[Endpoint]:
        """Our addresses on the relay, IPv4 first."""
        return [known.address for known in self.candidates() if known.kind == "relay"]

    def can_be_freed(self) -> str | None:
        """Why this machine has no future, None while it has one or has something left to say."""
        if self._has_failed:
            return "protocol failure"
        if self._requests or self._transmits or self._events:
            return None
        if self._active is None:
            return NO_RESPONSE
        return "authentication error" if self.credentials is None else None

    def refuses(self, peer: Endpoint) -> bool:
        """Whether the relay has said that it does not send to this peer (403)."""
        return self._wanted_peers.was_refused(peer)

    def channel_to(self, peer: Endpoint, now: int) -> Channel | None:
        """How to send to a peer. A bind still in flight is good enough: it travels ahead."""
        binding = self._channels.to(peer, now)
        if binding is None or self._active is None:
            return None
        return Channel(self._active, binding.number)

    # What the owner wants.

    def bind_channel(self, peer: Endpoint, now: int) -> None:
        """Have a channel to this peer, as soon as there is an allocation. Idempotent."""
        if self._is_suspended:
            return
        if self._grant is None:
            self._wanted_peers.buffer(peer)
        else:
            self._bind(peer, now)

    def refresh(self, now: int) -> None:
        """See whether relay and allocation are still there; start anew if we are suspended."""
        if self.credentials is None or self._has_failed:
            return
        self._mismatches = 0
        if self._is_suspended:
            self._active = None
            self._send_bindings(now)
        elif self._grant is not None and not self._requests.has(Method.REFRESH):
            self._send(self._requests.refresh(), now, PROBE_BUDGET)

    def probe(self, now: int) -> None:
        """See whether the relay still answers; if it does not, know so within five seconds."""
        if self._grant is not None and not self._requests.has(Method.BINDING):
            self._send(self._requests.binding(), now, URGENT_BUDGET)

    def look_around(self, now: int) -> None:
        """Our host's addresses changed: ask where the relay sees us in the families that it has not
        seen us in."""
        for socket in self.server.sockets if self._active is not None else ():
            if socket != self._active and not self._addresses.is_seen(socket.family):
                self._transmit(self._requests.add(self._requests.binding(), socket, now))

    def restart(self, now: int) -> None:
        """Begin again from a new local port, with the credentials and the nonce we have."""
        self._invalidate()
        self._requests.clear()
        self._transmits.clear()
        self._addresses.clear()
        self._active = None
        self._mismatches = 0
        self._send_bindings(now)

    def farewell(self, now: int) -> Transmit | None:
        """The request that ends the allocation; None without one. It is for an owner that leaves:
        no answer is waited for."""
        if self._grant is None or self._active is None:
            return None
        request = self._requests.add(self._requests.delete(), self._active, now)
        payload = self._encode(request)
        self._requests.remove(request)
        return Transmit(payload, self._active)

    # Input.

    def handle_datagram(self, local: Endpoint, source: Endpoint, data: bytes, now: int) -> bool:
        """Take a STUN message of the relay. False: it is not one that we wait for."""
        if not self.matches(source):
            return False
        try:
            response = stun.decode(data)
        except DecodeError as error:
            self.counters[f"stun_{error.reason}"] += 1
            return False
        request = self._requests.answered_by(response, source)
        if request is None:
            self.counters["unknown_transaction"] += 1
            return False
        by_the_book = self._requests.by_the_book
        if not self._authentication.vouches_for(response, request, by_the_book=by_the_book):
            self.counters["unauthenticated_response"] += 1
            return True
        self._requests.remove(request)
        self._measure(request, now)
        if response.class_ is Class.SUCCESS:
            self._handle_success(request, response, local, now)
        else:
            self._handle_error(request, response, now)
        return True

    def decapsulate(self, source: Endpoint, data: bytes, now: int) -> Decapsulated | None:
        """Unwrap ChannelData of the relay. None: it is none, or the channel is not ours."""
        if source != self._active:
            self.counters["channel_data_elsewhere"] += 1
            return None
        try:
            number, payload = decode_channel_data(data)
        except ChannelDataError as error:
            self.counters[f"channel_data_{error.reason}"] += 1
            return None
        binding = self._channels.confirmed(number)
        relayed = self._addresses.relayed(binding.peer.family) if binding is not None else None
        if binding is None or relayed is None:
            self.counters["unknown_channel"] += 1
            return None
        self._channels.handle_received(number, now)
        return Decapsulated(binding.peer, relayed, payload)

    def handle_channel_activity(self, number: int, received_at: int) -> None:
        """The data plane saw ChannelData on this channel at that time."""
        self._channels.handle_received(number, received_at)

    def handle_timeout(self, now: int) -> None:
        self._expire(now)
        for request in self._requests.due(now):
            self._retry(request, now)
        grant = self._grant
        if grant is None:
            return
        if now >= self._keepalive_at:
            self._send(self._requests.binding(), now)
            self._keepalive_at = now + KEEPALIVE_INTERVAL
        if now >= grant.refresh_at and not self._requests.has(Method.REFRESH):
            self._send(self._requests.refresh(), now)
        for binding in self._channels.refresh(now):
            self._send(self._requests.channel_bind(binding.peer, binding.number), now)

    # Output.

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> AllocationEvent | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> Timeout | None:
        return earliest(*self._requests.timeouts(), *self._grant_timeouts())

    def _grant_timeouts(self) -> Iterator[Timeout]:
        if self._grant is None:
            return
        yield Timeout(self._keepalive_at, "relay keepalive")
        yield from self._grant.timeouts(is_refreshing=self._requests.has(Method.REFRESH))
        if self._channels.deadline is not None:
            yield Timeout(self._channels.deadline, "channel refresh or expiry")

    # Time.

    def _expire(self, now: int) -> None:
        if self._grant is not None and now >= self._grant.expires_at:
            # We slept, or the relay refused every Refresh. It has forgotten us.
            self.counters["allocation_expired"] += 1
            self._invalidate()
            self._send(self._requests.allocate(), now)
        for binding in self._channels.expire(now):
            self._emit_lost(binding)

    def _retry(self, request: Request, now: int) -> None:
        if not request.backoff.is_exhausted:
            request.backoff.step()
            self._transmit(request)
            return
        self._requests.remove(request)
        self.counters["request_timed_out"] += 1
        if self._active is not None and request.destination == self._active:
            self._invalidate()
            self._active = None

    # Responses.

    def _measure(self, request: Request, now: int) -> None:
        sample, old = request.round_trip(now), self._round_trip
        if sample is not None:
            self._round_trip = sample if old is None else (7 * old + sample) // 8

    def _handle_success(
        self, request: Request, response: Message, local: Endpoint, now: int
    ) -> None:
        match request.method:
            case Method.BINDING:
                self._handle_binding(request, response, local, now)
            case Method.ALLOCATE:
                self._handle_allocated(response, now)
            case Method.REFRESH:
                self._handle_refreshed(response, now)
            case Method.CHANNEL_BIND:
                self._handle_bound(request, now)

    def _handle_binding(
        self, request: Request, response: Message, local: Endpoint, now: int
    ) -> None:
        mapped = response.get(stun.XOR_MAPPED_ADDRESS)
        if not self.over_stream:
            translated = self.server.is_translated
            self._addresses.handle_seen(local, mapped, translated=translated)
        if self._active is None and self.credentials is not None:
            self._active = request.destination
            self._keepalive_at = now + KEEPALIVE_INTERVAL
            self._send(self._requests.allocate(), now)

    def _handle_allocated(self, response: Message, now: int) -> None:
        lifetime = response.get(stun.LIFETIME)
        relayed = response.get_all(stun.XOR_RELAYED_ADDRESS)
        first = {a.family: a for a in reversed(relayed) if is_candidate(a)}
        if not lifetime or not first:
            self.counters["incomplete_response"] += 1
            self._wanted_peers.take_buffered()
            return
        self._grant = Grant.of(lifetime, now)
        self._mismatches = 0
        for _, address in sorted(first.items()):
            self._addresses.set(CandidateAdded("relay", address, base=address))
        for peer in self._wanted_peers.take_buffered():
            self._bind(peer, now)

    def _handle_refreshed(self, response: Message, now: int) -> None:
        lifetime = response.get(stun.LIFETIME)
        if lifetime == 0:
            self._invalidate()
            self._send(self._requests.allocate(), now)
        elif lifetime is None:
            self.counters["incomplete_response"] += 1
            self._grant = self._grant and self._grant.postponed(now)
        elif self._grant is not None:
            self._grant = Grant.of(lifetime, now)

    def _handle_bound(self, request: Request, now: int) -> None:
        confirmed = self._channels.confirm(request.channel[1], now)
        if confirmed is not None:
            self._wanted_peers.forget_refusal(confirmed.peer)
        if confirmed is not None and self._active is not None:
            self._events.append(ChannelConfirmed(confirmed.peer, confirmed.number, self._active))

    def _handle_error(self, request: Request, response: Message, now: int) -> None:
        code = error_code(response)
        self.counters[f"error_{code}"] += 1
        if not request.is_authenticated:
            return  # nobody vouches for it, so it does no more than be no answer
        match code:
            case 400 if not response.has_integrity:
                self._requests.by_the_book = True
                self._send(self._requests.allocate(), now)
            case 401 if request.nonce is not None:
                self._drop_credentials()
            case 401 | 438 if request.challenges < MAX_CHALLENGES:
                self._handle_challenge(request, response, now)
            case 420:
                self._has_failed = True
            case 437 if self._mismatches < MAX_MISMATCHES:
                self._handle_mismatch(request, now)
            case 403 if request.method == Method.CHANNEL_BIND:
                self._wanted_peers.note_refused(request.channel[0], now)
                self._handle_refusal(request, now)
            case _:
                self._handle_refusal(request, now)

    def _handle_challenge(self, request: Request, response: Message, now: int) -> None:
        if not self._authentication.take_challenge(response):
            self.counters["unusable_challenge"] += 1
            self._handle_refusal(request, now)
            return
        challenges = request.challenges + 1
        again = self._requests.add(request.message, request.destination, now)
        again.challenges = challenges
        self._transmit(again)

    def _handle_mismatch(self, request: Request, now: int) -> None:
        self._mismatches += 1
        asked_for = self._channels.in_flight()
        self._invalidate()
        for peer in asked_for:
            self._wanted_peers.buffer(peer)
        if request.method == Method.ALLOCATE:
            self._send(self._requests.delete(), now)
        else:
            self._send(self._requests.allocate(), now)

    def _handle_refusal(self, request: Request, now: int) -> None:
        match request.method:
            case Method.ALLOCATE:
                self._wanted_peers.take_buffered()
            case Method.REFRESH:
                self._grant = self._grant and self._grant.postponed(now)
            case Method.CHANNEL_BIND:
                lost = self._channels.fail(request.channel[1])
                if lost is not None:
                    self._emit_lost(lost)

    # Acts.

    @property
    def _is_suspended(self) -> bool:
        """Whether nothing in flight can lead to an allocation."""
        if self._grant is not None:
            return False
        return not any(r.is_authenticated or self._active is None for r in self._requests)

    def _send_bindings(self, now: int) -> None:
        for socket in self.server.sockets:
            self._transmit(self._requests.add(self._requests.binding(), socket, now))

    def _send(self, message: Message, now: int, budget: int = BUDGET) -> None:
        if self._active is not None and self.credentials is not None:
            self._transmit(self._requests.add(message, self._active, now, budget))

    def _transmit(self, request: Request) -> None:
        self._transmits.append(Transmit(self._encode(request), request.destination))

    def _encode(self, request: Request) -> bytes:
        who = self._authentication
        return self._requests.encode(request, who.credentials, who.nonce)

    def _bind(self, peer: Endpoint, now: int) -> None:
        if self._addresses.relayed(peer.family) is None:
            self.counters["peer_family_not_relayed"] += 1
            return
        if self._wanted_peers.is_refused(peer, now):
            self.counters["peer_refused_before"] += 1
            return
        binding = self._channels.bind(peer, now)
        if binding is not None:
            self._send(self._requests.channel_bind(peer, binding.number), now)

    def _drop_credentials(self) -> None:
        self._invalidate()
        self._requests.clear()
        self._wanted_peers.take_buffered()
        self._authentication.drop()

    def _invalidate(self) -> None:
        self._addresses.clear_relayed()
        for binding in self._channels.clear():
            self._emit_lost(binding)
        self._grant = None
        self._wanted_peers.forget_refusals()
        self._requests.clear_authenticated()

    def _emit_lost(self, binding: Binding) -> None:
        if self._active is not None:
            self._events.append(ChannelLost(binding.number, self._active, binding.peer))
