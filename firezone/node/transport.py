"""Datagrams in and out of the node, over relays or not.

A local address is either one of a socket, or a relayed address of an allocation. What is sent from
a relayed address travels to the relay on a channel; what arrives on a channel arrived at the
relayed address. So the layers above see one flat network.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from firezone.addresses import is_public
from firezone.commands import CloseChannel, Command, OpenChannel, Path
from firezone.durations import SECOND
from firezone.errors import LocalError
from firezone.ice import Nominated
from firezone.model import Endpoint, Entropy, RelayId, Timeout, Transmit, earliest
from firezone.nat64 import Prefix
from firezone.node.events import StreamEvent, StreamUnwanted, StreamWanted
from firezone.node.fallback import UDP_RETRY, Step
from firezone.node.relays import Link, Relay, Relays
from firezone.node.silent_relays import SilentRelays
from firezone.stun import Method, looks_like_stun
from firezone.turn import (
    NO_RESPONSE,
    Allocation,
    CandidateAdded,
    CandidateInvalidated,
    ChannelConfirmed,
    ChannelLost,
    RelayServer,
    encode_channel_data,
)

ChannelReceivedAt = Callable[[Endpoint, int], int]
"""When the data plane last saw ChannelData of this relay and number: ns, 0 = never."""

REMEMBERED_RELAYS = 16
ACTIVITY_GRID = 10 * SECOND
"""How often to read which channels are in use, for a busy gateway has thousands and wakes all the
time. What is asked is whether anything came in five minutes, and there is a wake every 25 s."""

_CHANNEL_DATA = range(0x40, 0x50)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A datagram that reached one of our addresses, be it a relayed one."""

    local: Endpoint
    source: Endpoint
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RelayEvent:
    """Something an allocation has to say."""

    relay: RelayId
    event: CandidateAdded | CandidateInvalidated | ChannelConfirmed | ChannelLost


@dataclass(frozen=True, slots=True)
class LostRelay:
    """A relay that could not be used any more, and why; `at` is nanoseconds."""

    id: RelayId
    server: RelayServer
    reason: str
    at: int


class Transport:
    """All allocations, and the ways through them."""

    def __init__(
        self, *, software: str, entropy: Entropy, channel_received_at: ChannelReceivedAt
    ) -> None:
        self.relays = Relays(software=software, entropy=entropy)
        self.counters: Counter[str] = Counter()
        self.lost_relays: deque[LostRelay] = deque(maxlen=REMEMBERED_RELAYS)
        """The last ones that we gave up, for whoever looks on."""
        self._silent = SilentRelays()
        self._channel_received_at = channel_received_at
        self._channels: set[tuple[Endpoint, int]] = set()
        self._looked_at = 0
        """When the channels' activity was last read."""
        self._transmits: deque[Transmit] = deque()
        self._commands: deque[Command] = deque()
        self._events: deque[RelayEvent] = deque()
        self._streams: deque[StreamEvent] = deque()

    def receive(
        self, local: Endpoint, source: Endpoint, payload: bytes, now: int
    ) -> Arrival | None:
        """What a datagram of the socket means to the layers above; None: it was not for them."""
        allocation = self.relays.at(source)
        if allocation is None or not payload:
            return Arrival(local, source, payload)
        if looks_like_stun(payload):
            if allocation.handle_datagram(local, source, payload, now):
                return None
            if _is_binding(payload):  # of a peer: all of a relay's clients may have its address
                return Arrival(local, source, payload)
            self.counters["unexpected message of a relay"] += 1
            return None
        if payload[0] not in _CHANNEL_DATA:
            return Arrival(local, source, payload)
        inner = allocation.decapsulate(source, payload, now)
        if inner is None:
            self.counters["unknown channel"] += 1
            return None
        return Arrival(inner.relayed, inner.peer, inner.payload)

    def send(self, payload: bytes, local: Endpoint, destination: Endpoint, now: int) -> None:
        """Send from one of our addresses. What needs a channel follows on the heels of the request
        for it; it is dropped where that cannot be asked for now."""
        allocation = self.relays.owning(local)
        if allocation is None:
            self._transmits.append(Transmit(payload, destination, source=local))
            return
        channel = allocation.channel_to(destination, now)
        if channel is None:
            allocation.bind_channel(destination, now)
            channel = allocation.channel_to(destination, now)
        if channel is None:
            self.counters["no channel yet"] += 1
            return
        while (request := allocation.poll_transmit()) is not None:
            self._transmits.append(request)
        self._transmits.append(
            Transmit(encode_channel_data(channel.number, payload), channel.socket)
        )

    def reaches(self, base: Endpoint, address: Endpoint) -> bool:
        """Whether what is sent from there gets anywhere. A public relay sends nothing to addresses
        that the Internet does not know, unless its operator has told it to; a private one likely
        serves those around it."""
        if self.relays.owning(base) is None:
            return True
        return is_public(address.address) or not is_public(base.address)

    def path(self, pair: Nominated, now: int) -> Path | None:
        """How the data plane reaches the remote end of a pair."""
        allocation = self.relays.owning(pair.local.base)
        if allocation is None:
            return Path(pair.remote.address, source=pair.local.base)
        channel = allocation.channel_to(pair.remote.address, now)
        if channel is None:
            allocation.bind_channel(pair.remote.address, now)
            return None
        return Path(channel.socket, channel=channel.number)

    def refuses(self, local: Endpoint, peer: Endpoint) -> bool:
        """Whether `local` is an address on a relay that does not send to this peer."""
        allocation = self.relays.owning(local)
        return allocation is not None and allocation.refuses(peer)

    def relayed_addresses(self, server: Endpoint) -> list[Endpoint]:
        """Our addresses on the relay that we reach there."""
        allocation = self.relays.at(server)
        return allocation.relayed_addresses() if allocation is not None else []

    def bind(self, relay: RelayId, peer: Endpoint, now: int) -> None:
        """Have a channel ready for this peer."""
        link = self.relays.get(relay)
        for allocation in link.allocations if link is not None else ():
            allocation.bind_channel(peer, now)

    def update(self, remove: Iterable[RelayId], add: Iterable[Relay], now: int) -> None:
        """Take and drop relays as the portal says. Unchanged ones are only left alone."""
        for relay_id in remove:
            self._silent.remove(relay_id)
            self._drop(relay_id)
        named = []
        for relay in add:
            named.append(relay.id)
            self._silent.remove(relay.id)
            if self.relays.unchanged(relay):
                continue
            self._drop(relay.id)
            try:
                self.relays.add(relay, now)
            except LocalError:
                self.counters["relay with unusable credentials"] += 1
        self.relays.refresh(named, now)

    def handle_nat64(self, prefix: Prefix | None, now: int) -> None:
        """IPv4 is reached through a NAT64 at this prefix, or without one. A relay that answers
        stays where it is reached."""
        self.relays.nat64 = prefix
        for relay_id, link in self.relays.links():
            if link.server != self.relays.reached_at(link.relay) and not link.answers:
                self._drop(relay_id)
                self.relays.add(link.relay, now)
        self._silent.hurry(now)

    def probe(self, now: int) -> None:
        """See which relays are still there: no path works at the moment."""
        for _, allocation in self.relays:
            allocation.probe(now)

    def look_around(self, now: int) -> None:
        """Our host's addresses changed, so relays may see others of them."""
        for _, allocation in self.relays:
            allocation.look_around(now)

    def clear(self) -> None:
        """Drop every relay, with no word to them."""
        for relay_id, _ in self.relays.links():
            self._drop(relay_id)
        self._silent.clear()
        self._transmits.clear()

    def handle_stream_opened(self, relay: RelayId, local: Endpoint, now: int) -> None:
        """The stream that was wanted stands; datagrams for `local` go over it."""
        link = self.relays.get(relay)
        if link is None or link.fallback.step is not Step.OPENING:
            self._streams.append(StreamUnwanted(relay))
            return
        link.fallback.handle_opened()
        server = RelayServer(local) if local.family == 4 else RelayServer(ipv6=local)
        link.stream = self.relays.allocate(link.relay, server, now, over_stream=True)

    def handle_stream_closed(self, relay: RelayId, now: int) -> None:
        """It could not be opened, or broke."""
        link = self.relays.get(relay)
        if link is None or not link.fallback.is_in_use:
            return
        self._end_stream(relay, link)
        if link.fallback.handle_closed(now):
            self._want_stream(relay, link)

    def handle_timeout(self, now: int) -> None:
        if now - self._looked_at >= ACTIVITY_GRID:
            self._looked_at = now
            self._pass_on_activity()
        for relay_id, allocation in self.relays:
            allocation.handle_timeout(now)
            self._drain(relay_id, allocation)
        for relay_id, link in self.relays.links():
            reason = self._tend(relay_id, link, now)
            if reason is not None:
                self._give_up(link, reason, now)
            elif link.answers:
                self._silent.remove(relay_id)
        for relay in self._silent.take_due(now):
            if relay.id not in self.relays:
                self.relays.add(relay, now)
        if not len(self.relays):
            self._silent.wait(now)

    def drain(self) -> None:
        """Collect what the allocations want to say and send."""
        for relay_id, allocation in self.relays:
            self._drain(relay_id, allocation)

    def poll_timeout(self) -> Timeout | None:
        return earliest(
            *(allocation.poll_timeout() for _, allocation in self.relays),
            *self._link_timeouts(),
            self._silent.poll_timeout(),
        )

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_command(self) -> Command | None:
        return self._commands.popleft() if self._commands else None

    def poll_event(self) -> RelayEvent | None:
        return self._events.popleft() if self._events else None

    def poll_stream(self) -> StreamEvent | None:
        return self._streams.popleft() if self._streams else None

    def candidates(self) -> Iterator[tuple[RelayId, CandidateAdded]]:
        """Every candidate of every allocation."""
        for relay_id, allocation in self.relays:
            for candidate in allocation.candidates():
                yield relay_id, candidate

    # Relays that come and go.

    def _give_up(self, link: Link, reason: str, now: int) -> None:
        relay = link.relay
        if relay.id not in self._silent:
            self.lost_relays.append(LostRelay(relay.id, relay.server, reason, now))
        if reason == NO_RESPONSE:
            self._silent.add(relay)
        else:
            self._silent.remove(relay.id)
        self._drop(relay.id)

    def _tend(self, relay_id: RelayId, link: Link, now: int) -> str | None:
        """Choose between UDP and a stream. Why the relay is of no use any more, if so."""
        udp_answers = self.relays.answers_over_udp()
        if udp_answers:
            link.fallback.handle_udp_answers(now)
        elif link.udp is not None and link.udp.can_be_freed() == NO_RESPONSE:
            link.fallback.handle_udp_ended(now)
        if not udp_answers and link.fallback.wants_stream(now):
            self._want_stream(relay_id, link)
        if link.stream is not None and (reason := link.stream.can_be_freed()) is not None:
            self._leave_stream(relay_id, link, now)
            if reason != NO_RESPONSE:
                return reason
        if link.udp is not None:
            return self._tend_udp(relay_id, link, link.udp, now)
        if link.fallback.is_hopeless or (udp_answers and not link.fallback.is_in_use):
            return NO_RESPONSE
        if now >= link.udp_retry_at:
            link.udp = self.relays.allocate(link.relay, link.server, now)
        return None

    def _tend_udp(self, relay_id: RelayId, link: Link, udp: Allocation, now: int) -> str | None:
        if udp.has_allocation and link.fallback.is_in_use:
            self._leave_stream(relay_id, link, now)
        reason = udp.can_be_freed()
        if reason != NO_RESPONSE or not link.fallback.is_in_use:
            return reason
        self._end(relay_id, udp)
        link.udp, link.udp_retry_at = None, now + UDP_RETRY
        return None

    def _want_stream(self, relay_id: RelayId, link: Link) -> None:
        wanted = StreamWanted(relay_id, link.server.sockets, link.fallback.kind)
        self._streams.append(wanted)

    def _leave_stream(self, relay_id: RelayId, link: Link, now: int) -> None:
        self._end_stream(relay_id, link)
        link.fallback.handle_left(now)
        self._streams.append(StreamUnwanted(relay_id))

    def _end_stream(self, relay_id: RelayId, link: Link) -> None:
        if link.stream is not None:
            self._end(relay_id, link.stream)
            link.stream = None

    def _drop(self, relay_id: RelayId) -> None:
        link = self.relays.remove(relay_id)
        if link is None:
            return
        for allocation in link.allocations:
            self._end(relay_id, allocation)
        if link.fallback.is_in_use:
            self._streams.append(StreamUnwanted(relay_id))

    def _end(self, relay_id: RelayId, allocation: Allocation) -> None:
        for socket, number in tuple(self._channels):
            if allocation.matches(socket):
                self._close((socket, number))
        for candidate in allocation.candidates():
            if candidate.kind == "relay":
                gone = CandidateInvalidated(candidate.kind, candidate.address, candidate.base)
                self._events.append(RelayEvent(relay_id, gone))

    def _link_timeouts(self) -> Iterator[Timeout | None]:
        udp_answers = self.relays.answers_over_udp()
        for _, link in self.relays.links():
            if not udp_answers:
                yield link.fallback.poll_timeout()
            if link.udp is None:
                yield Timeout(link.udp_retry_at, "UDP to the relay once more")

    # What the allocations say.

    def _pass_on_activity(self) -> None:
        for socket, number in self._channels:
            allocation = self.relays.at(socket)
            seen = self._channel_received_at(socket, number)
            if allocation is not None and seen:
                allocation.handle_channel_activity(number, seen)

    def _drain(self, relay_id: RelayId, allocation: Allocation) -> None:
        while (transmit := allocation.poll_transmit()) is not None:
            self._transmits.append(transmit)
        while (event := allocation.poll_event()) is not None:
            match event:
                case ChannelConfirmed():
                    self._channels.add((event.socket, event.number))
                    self._commands.append(OpenChannel(event.socket, event.number))
                case ChannelLost():
                    self._close((event.socket, event.number))
            self._events.append(RelayEvent(relay_id, event))

    def _close(self, channel: tuple[Endpoint, int]) -> None:
        if channel in self._channels:
            self._channels.remove(channel)
            self._commands.append(CloseChannel(*channel))


def _is_binding(message: bytes) -> bool:
    """Whether the method of a STUN message is Binding, of whichever class (RFC 8489 section 5)."""
    return int.from_bytes(message[:2]) & ~0x0110 == Method.BINDING
