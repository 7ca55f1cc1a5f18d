"""Datagrams in and out of the node, over relays or not.

A local address is either one of a socket, or a relayed address of an allocation. What is sent from
a relayed address travels to the relay on a channel; what arrives on a channel arrived at the
relayed address. So the layers above see one flat network.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from firezone.commands import CloseChannel, Command, OpenChannel, Path
from firezone.errors import LocalError
from firezone.ice import Nominated
from firezone.model import Endpoint, Entropy, RelayId, Timeout, Transmit, earliest
from firezone.node.relays import Relay, Relays
from firezone.stun import looks_like_stun
from firezone.turn import (
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
        self._channel_received_at = channel_received_at
        self._channels: dict[tuple[Endpoint, int], RelayId] = {}
        self._transmits: deque[Transmit] = deque()
        self._commands: deque[Command] = deque()
        self._events: deque[RelayEvent] = deque()

    def receive(
        self, local: Endpoint, source: Endpoint, payload: bytes, now: int
    ) -> Arrival | None:
        """What a datagram of the socket means to the layers above; None: it was not for them."""
        allocation = self.relays.at(source)
        if allocation is None or not payload:
            return Arrival(local, source, payload)
        if looks_like_stun(payload):
            if not allocation.handle_datagram(local, source, payload, now):
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
        """Send from one of our addresses. Without a channel yet, ask for one and drop it."""
        allocation = self.relays.owning(local)
        if allocation is None:
            self._transmits.append(Transmit(payload, destination, source=local))
            return
        channel = allocation.channel_to(destination, now)
        if channel is None:
            allocation.bind_channel(destination, now)
            self.counters["no channel yet"] += 1
            return
        self._transmits.append(
            Transmit(encode_channel_data(channel.number, payload), channel.socket)
        )

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

    def bind(self, relay: RelayId, peer: Endpoint, now: int) -> None:
        """Have a channel ready for this peer."""
        allocation = self.relays.get(relay)
        if allocation is not None:
            allocation.bind_channel(peer, now)

    def update(self, remove: Iterable[RelayId], add: Iterable[Relay], now: int) -> None:
        """Take and drop relays as the portal says. Unchanged ones are only left alone."""
        for relay_id in remove:
            self._drop(relay_id)
        named = []
        for relay in add:
            named.append(relay.id)
            if self.relays.unchanged(relay):
                continue
            self._drop(relay.id)
            try:
                self.relays.add(relay, now)
            except LocalError:
                self.counters["relay with unusable credentials"] += 1
        self.relays.refresh(named, now)

    def clear(self) -> None:
        """Drop every relay, with no word to them."""
        for relay_id, _ in self.relays:
            self._drop(relay_id)
        self._transmits.clear()

    def handle_timeout(self, now: int) -> None:
        for (socket, number), relay_id in tuple(self._channels.items()):
            allocation = self.relays.get(relay_id)
            seen = self._channel_received_at(socket, number)
            if allocation is not None and seen:
                allocation.handle_channel_activity(number, seen)
        for relay_id, allocation in self.relays:
            allocation.handle_timeout(now)
            self._drain(relay_id, allocation)
            reason = allocation.can_be_freed()
            if reason is not None:
                self.lost_relays.append(LostRelay(relay_id, allocation.server, reason, now))
                self._drop(relay_id)

    def drain(self) -> None:
        """Collect what the allocations want to say and send."""
        for relay_id, allocation in self.relays:
            self._drain(relay_id, allocation)

    def poll_timeout(self) -> Timeout | None:
        return earliest(*(allocation.poll_timeout() for _, allocation in self.relays))

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_command(self) -> Command | None:
        return self._commands.popleft() if self._commands else None

    def poll_event(self) -> RelayEvent | None:
        return self._events.popleft() if self._events else None

    def candidates(self) -> Iterator[tuple[RelayId, CandidateAdded]]:
        """Every candidate of every allocation."""
        for relay_id, allocation in self.relays:
            for candidate in allocation.candidates():
                yield relay_id, candidate

    def _drop(self, relay_id: RelayId) -> None:
        allocation = self.relays.remove(relay_id)
        if allocation is None:
            return
        for channel, owner in tuple(self._channels.items()):
            if owner == relay_id:
                self._close(channel)
        for candidate in allocation.candidates():
            if candidate.kind == "relay":
                self._events.append(
                    RelayEvent(
                        relay_id,
                        CandidateInvalidated(candidate.kind, candidate.address, candidate.base),
                    )
                )

    def _drain(self, relay_id: RelayId, allocation: Allocation) -> None:
        while (transmit := allocation.poll_transmit()) is not None:
            self._transmits.append(transmit)
        while (event := allocation.poll_event()) is not None:
            match event:
                case ChannelConfirmed():
                    self._channels[event.socket, event.number] = relay_id
                    self._commands.append(OpenChannel(event.socket, event.number))
                case ChannelLost():
                    self._close((event.socket, event.number))
            self._events.append(RelayEvent(relay_id, event))

    def _close(self, channel: tuple[Endpoint, int]) -> None:
        if self._channels.pop(channel, None) is not None:
            self._commands.append(CloseChannel(*channel))
