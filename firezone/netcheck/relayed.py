"""Sends from a relay's host: an allocation there, for the time of a check."""

from __future__ import annotations

from dataclasses import dataclass, field

from firezone import stun
from firezone.model import Endpoint, Entropy, Timeout, Transmit
from firezone.netcheck.wire import RELAYING, Wire
from firezone.stun import Class, DecodeError, Message, Method
from firezone.turn import (
    Allocation,
    AllocationState,
    ChannelConfirmed,
    ChannelLost,
    Credentials,
    RelayServer,
    encode_channel_data,
    looks_like_channel_data,
)

SOFTWARE = "firezone-netcheck"
REFUSED_PEER = "error_403"


@dataclass(frozen=True, slots=True)
class PeerData:
    """What a peer has sent to our relayed address."""

    peer: Endpoint
    payload: bytes = field(repr=False)


class Relayed:
    """Our allocation on one relay, made from socket RELAYING."""

    def __init__(
        self,
        server: RelayServer,
        credentials: Credentials,
        *,
        wire: Wire,
        entropy: Entropy,
        now: int,
    ) -> None:
        self.name = str(server.sockets[0].address)
        self._server = server
        self._wire = wire
        self._entropy = entropy
        self._bound: set[Endpoint] = set()
        self._lost: set[Endpoint] = set()
        self._allocation = Allocation(
            server=server,
            username=credentials.username,
            password=credentials.password,
            realm=credentials.realm,
            software=SOFTWARE,
            entropy=entropy,
            now=now,
        )
        self._settle()

    @property
    def has_allocation(self) -> bool:
        return self._allocation.has_allocation

    @property
    def is_decided(self) -> bool:
        """Whether there is an allocation, or will be none."""
        pending = (AllocationState.CONNECTING, AllocationState.ALLOCATING)
        return self._allocation.state not in pending

    @property
    def problem(self) -> str:
        """Why there is no allocation."""
        state, counters = self._allocation.state, self._allocation.counters
        if state is AllocationState.CONNECTING:
            return "no answer"
        if counters["unusable_challenge"]:
            return "has another realm"
        if state is not AllocationState.ALLOCATING:
            return state.value
        if counters["unauthenticated_response"]:
            return "has another password or realm"
        return "no answer to our request for an allocation"

    @property
    def refuses_peers(self) -> bool:
        """Whether it may not send to a peer that it was asked for."""
        return self._allocation.counters[REFUSED_PEER] > 0

    def server(self, family: int) -> Endpoint | None:
        """Where it listens."""
        return self._server.ipv4 if family == 4 else self._server.ipv6

    def address(self, family: int) -> Endpoint | None:
        """From where it sends for us."""
        found = (a for a in self._allocation.relayed_addresses() if a.family == family)
        return next(found, None)

    def matches(self, source: Endpoint) -> bool:
        return self._allocation.matches(source)

    def bind(self, peer: Endpoint, now: int) -> None:
        """Ask for a channel to a peer."""
        self._allocation.bind_channel(peer, now)
        self._settle()

    def is_bound(self, peer: Endpoint) -> bool:
        return peer in self._bound

    def is_answered(self, peer: Endpoint) -> bool:
        """Whether there is a channel to the peer, or will be none."""
        return peer in self._bound or peer in self._lost

    def send(self, peer: Endpoint, payload: bytes, now: int) -> None:
        """Send to the peer, on its channel if it has one."""
        channel = self._allocation.channel_to(peer, now) if self.is_bound(peer) else None
        if channel is None:
            self.send_indication(peer, payload)
        else:
            self._put(Transmit(encode_channel_data(channel.number, payload), channel.socket))

    def send_indication(self, peer: Endpoint, payload: bytes) -> None:
        """Send to the peer without a channel (RFC 8656 section 10), if its address is permitted. It
        shows our relay that we take Data indications."""
        if self._allocation.active_socket is not None:
            message = Message.indication(Method.SEND, self._entropy)
            message = message.with_(stun.XOR_PEER_ADDRESS, peer).with_(stun.DATA, payload)
            self._put(Transmit(message.encode(), self._allocation.active_socket))

    def leave(self, now: int) -> None:
        """Give the allocation back."""
        farewell = self._allocation.farewell(now)
        if farewell is not None:
            self._put(farewell)

    def handle_datagram(
        self, local: Endpoint, source: Endpoint, payload: bytes, now: int
    ) -> PeerData | None:
        """What came from the relay. Returns what a peer sent, if it is that."""
        if looks_like_channel_data(payload):
            inner = self._allocation.decapsulate(source, payload, now)
            return None if inner is None else PeerData(inner.peer, inner.payload)
        data = _indicated(payload)
        if data is None:
            self._allocation.handle_datagram(local, source, payload, now)
            self._settle()
        return data

    def handle_timeout(self, now: int) -> None:
        self._allocation.handle_timeout(now)
        self._settle()

    def poll_timeout(self) -> Timeout | None:
        return self._allocation.poll_timeout()

    def _settle(self) -> None:
        while (event := self._allocation.poll_event()) is not None:
            match event:
                case ChannelConfirmed(peer=peer):
                    self._bound.add(peer)
                case ChannelLost(peer=peer):
                    self._bound.discard(peer)
                    self._lost.add(peer)
        while (transmit := self._allocation.poll_transmit()) is not None:
            self._put(transmit)

    def _put(self, transmit: Transmit) -> None:
        self._wire.put(RELAYING, transmit.payload, transmit.destination)


def _indicated(payload: bytes) -> PeerData | None:
    """What a Data indication holds; None if it is none."""
    try:
        message = stun.decode(payload)
    except DecodeError:
        return None
    if message.class_ is not Class.INDICATION or message.method != Method.DATA:
        return None
    peer, data = message.get(stun.XOR_PEER_ADDRESS), message.get(stun.DATA)
    return None if peer is None or data is None else PeerData(peer, bytes(data))
