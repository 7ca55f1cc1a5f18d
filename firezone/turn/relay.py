"""The relay: a STUN and TURN server (RFC 8489, RFC 8656), without sockets.

All messages are datagrams to it. A client over a stream is one at an address of this host, where
its stream is joined with our port; `handle_stream_opened` says so.

Data crosses it on bound channels only, both ways, for as long as the channel is bound; Send and
Data indications are not served, so permissions decide nothing and CreatePermission is only checked.
One listening port on up to two families; a client is its 5-tuple, an allocation is one port number
for all its families.

A request passes in this order:

1. decode; what is no request, or carries a wrong FINGERPRINT, is dropped and counted;
2. a value that cannot be read: 400;
3. no MESSAGE-INTEGRITY, USERNAME or NONCE: 401. No NONCE is the first request of a client that
   knows its realm; the 400 of RFC 8489 section 9.2.4 would strand those;
4. a nonce that is not ours, not this client's, or old: 438, before the integrity is looked at, as a
   client gives up its credentials upon a 401 to a request that had a nonce;
5. username expired or unreadable, integrity wrong: 401;
6. unknown comprehension-required attributes: 420; then the method itself.

Every response but Binding's is authenticated whenever the request names a user whose password we
can derive, errors included: clients ignore anything else. No response is a 441: credentials that
are valid rule the allocation of their 5-tuple, whoever made it.

The answer to an Allocate waits for the sockets: `OpenSocket` goes out, `handle_socket_opened` comes
in. A port that the host refuses is replaced by another one, a few times.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from firezone import stun
from firezone.durations import SECOND
from firezone.errors import LocalError
from firezone.model import Endpoint, Entropy, IPAddress, Timeout, Transmit
from firezone.stun import Method
from firezone.turn.channel_data import (
    MAX_CHANNEL,
    MIN_CHANNEL,
    ChannelDataError,
    decode_channel_data,
    encode_channel_data,
)
from firezone.turn.relay_auth import Authenticator
from firezone.turn.relay_commands import (
    BindChannel,
    CloseSocket,
    FiveTuple,
    OpenSocket,
    RelayCommand,
    SendToPeer,
    UnbindChannel,
)
from firezone.turn.relay_exchange import (
    DEFAULT_LIFETIME,
    Exchange,
    Value,
    missing_families,
    requested_families,
    requested_lifetime,
)
from firezone.turn.relay_peers import PeerPolicy
from firezone.turn.relay_table import Allocation, Channel, RelayTable

MAX_CHANNELS: Final = 4096
"""Per allocation."""
CHANNEL_NUMBERS: Final = range(MIN_CHANNEL, MAX_CHANNEL + 1)
"""Clients draw from all of it."""
UDP: Final = 17
_OPEN_ATTEMPTS: Final = 4
_SERVED: Final = frozenset(
    {
        Method.BINDING,
        Method.ALLOCATE,
        Method.REFRESH,
        Method.CHANNEL_BIND,
        Method.CREATE_PERMISSION,
    }
)


@dataclass(frozen=True, slots=True)
class _Opening:
    """An Allocate that waits for its sockets, and the ports tried for it."""

    exchange: Exchange
    tried: frozenset[int]


class Relay:
    """The sans-IO server. Feed it datagrams and time, carry out its commands in their order."""

    def __init__(
        self,
        *,
        public_ipv4: IPv4Address | None,
        public_ipv6: IPv6Address | None,
        listen_port: int = 3478,
        ports: range = range(49152, 65536),
        auth_secret: str,
        realm: str = "firezone",
        software: str = "firezone-relay",
        peers: PeerPolicy | None = None,
        entropy: Entropy,
        unix_now: int,
        now: int,
    ) -> None:
        """`ports` are those of allocations; `peers` says where to relay to, by default everywhere
        but the host itself. `unix_now` is the wall time in nanoseconds at `now`.

        Raises LocalError without a public address or for impossible ports.
        """
        if public_ipv4 is None and public_ipv6 is None:
            raise LocalError("a relay needs a public IPv4 or IPv6 address")
        if not ports or ports[0] < 1 or ports[-1] > 0xFFFF or listen_port in ports:
            raise LocalError(
                f"{ports} cannot be the ports of a relay that listens on {listen_port}"
            )
        self._public: dict[int, IPAddress] = {
            address.version: address for address in (public_ipv4, public_ipv6) if address
        }
        own = frozenset(self._public.values())
        self._peers = replace(peers or PeerPolicy(), own_addresses=own, own_ports=ports)
        self._software = software
        self._entropy = entropy
        self._auth = Authenticator(
            secret=auth_secret, realm=realm, entropy=entropy, unix_now=unix_now, now=now
        )
        self._table = RelayTable(ports)
        self._opening: dict[int, _Opening] = {}
        self._commands: deque[RelayCommand] = deque()
        self._listen_port = listen_port
        self._bridged: dict[Endpoint, Endpoint] = {}
        self.is_draining = False
        self.counters: Counter[str] = Counter()
        """Requests, refusals and drops by reason; relayed payload bytes as `relayed_bytes`."""

    @property
    def allocation_count(self) -> int:
        """Allocations that are alive."""
        return len(self._table.by_client)

    @property
    def channel_count(self) -> int:
        """Channels that are bound."""
        return self._table.bound_channels

    def drain(self) -> None:
        """From now on refuse new allocations with 508; serve the present ones until they end."""
        self.is_draining = True

    def handle_wall_clock(self, unix_now: int, now: int) -> None:
        """The wall time in nanoseconds: credentials expire by it."""
        self._auth.set_wall_clock(unix_now, now)

    def handle_stream_opened(self, bridge: Endpoint, client: Endpoint) -> None:
        """A client has come over a stream. Its messages will arrive as datagrams from `bridge`, an
        address of this host; `client` is where it is itself, which it is told as its address."""
        self._bridged[bridge] = client

    def handle_stream_closed(self, bridge: Endpoint, now: int) -> None:
        """The stream is gone, and with it its allocation (RFC 8656 section 3.1)."""
        if self._bridged.pop(bridge, None) is not None:
            allocation = self._allocation_at(bridge)
            if allocation is not None:
                self._remove(allocation)

    def has_allocation(self, bridge: Endpoint) -> bool:
        """Whether the client of that stream has one."""
        return self._allocation_at(bridge) is not None

    def handle_client_datagram(
        self, local: Endpoint | None, source: Endpoint, data: bytes, now: int
    ) -> None:
        """A datagram on the listening socket, sent to `local`."""
        five_tuple = FiveTuple(source, local)
        if not data or source.port == 0:
            self.counters["unusable_datagram"] += 1
        elif data[0] < 4:
            self._on_stun(five_tuple, data, now)
        elif 0x40 <= data[0] < 0x80:
            self._on_channel_data(five_tuple, data)
        else:
            self.counters["unknown_protocol"] += 1

    def handle_peer_datagram(self, port: int, peer: Endpoint, data: bytes, now: int) -> None:
        """A datagram on the relay socket of `port` and the peer's family."""
        channel = self._table.channel_from(port, peer)
        if channel is None:
            self.counters["unbound_peer"] += 1
            return
        self.counters["relayed_bytes"] += len(data)
        client, local = channel.allocation.five_tuple
        self._commands.append(Transmit(encode_channel_data(channel.number, data), client, local))

    def handle_socket_opened(self, port: int, family: int, ok: bool, now: int) -> None:
        """The outcome of an `OpenSocket`."""
        allocation = self._table.by_port.get(port)
        if allocation is None or family not in allocation.opening:
            return
        if not ok:
            self._open_elsewhere(allocation, family)
            return
        allocation.opening.discard(family)
        if not allocation.opening:
            self._confirm(allocation, now)

    def handle_socket_failed(self, port: int, now: int) -> None:
        """A relay socket broke down: its allocation, and no other, is gone."""
        allocation = self._table.by_port.get(port)
        if allocation is not None:
            self.counters["socket_failed"] += 1
            self._remove(allocation)

    def handle_timeout(self, now: int) -> None:
        """Ends what has expired."""
        while (item := self._table.deadlines.pop_due(now)) is not None:
            match item:
                case Allocation():
                    self._remove(item)
                case Channel(is_bound=True):
                    self._unbind(item)
                case Channel():
                    self._table.forget(item)

    def poll_timeout(self) -> Timeout | None:
        """When `handle_timeout` is wanted next."""
        deadline = self._table.deadlines.earliest()
        return None if deadline is None else Timeout(deadline, "relay expiry")

    def poll_command(self) -> RelayCommand | None:
        """The next thing to do. Take them until None after every call of a `handle_*`."""
        return self._commands.popleft() if self._commands else None

    # Data

    def _on_channel_data(self, five_tuple: FiveTuple, data: bytes) -> None:
        try:
            number, payload = decode_channel_data(data, exact=False)
        except ChannelDataError as error:
            self.counters[f"channel_data_{error.reason}"] += 1
            return
        channel = self._table.channel_of(five_tuple, number)
        if channel is None:
            self.counters["unbound_channel"] += 1
            return
        self.counters["relayed_bytes"] += len(payload)
        self._commands.append(SendToPeer(channel.allocation.port, channel.peer, payload))

    # Requests

    def _on_stun(self, five_tuple: FiveTuple, data: bytes, now: int) -> None:
        try:
            message = stun.decode(data)
        except stun.DecodeError as error:
            self.counters[error.reason] += 1
            return
        if message.class_ is not stun.Class.REQUEST:
            self.counters["not_a_request"] += 1
        elif message.has_fingerprint and not message.verify_fingerprint():
            self.counters["wrong_fingerprint"] += 1
        else:
            key = self._auth.key_for(message)
            self._on_request(Exchange(five_tuple, message, key, self._software), now)

    def _on_request(self, exchange: Exchange, now: int) -> None:
        request = exchange.request
        if request.malformed is not None or request.method not in _SERVED:
            self._refuse(exchange, 400)
            return
        if request.method != Method.BINDING:
            code = self._auth.judge(exchange, now)
            if code is not None:
                self.counters[f"error_{code}"] += 1
                self._commands.append(self._auth.challenge(exchange, code, now))
                return
        if request.unknown:
            self._refuse(exchange, 420, (stun.UNKNOWN_ATTRIBUTES, request.unknown))
            return
        match request.method:
            case Method.BINDING:
                self._on_binding(exchange)
            case Method.ALLOCATE:
                self._on_allocate(exchange)
            case Method.REFRESH:
                self._on_refresh(exchange, now)
            case Method.CHANNEL_BIND:
                self._on_channel_bind(exchange, now)
            case Method.CREATE_PERMISSION:
                self._on_create_permission(exchange)

    def _on_binding(self, exchange: Exchange) -> None:
        unsigned = replace(exchange, key=None)
        self._succeed(unsigned, (stun.XOR_MAPPED_ADDRESS, self._mapped(exchange)))

    def _on_allocate(self, exchange: Exchange) -> None:
        request = exchange.request
        present = self._table.by_client.get(exchange.five_tuple)
        if present is not None:
            self._on_repeated_allocate(exchange, present)
            return
        if self.is_draining:
            self._refuse(exchange, 508)
            return
        transport = request.get(stun.REQUESTED_TRANSPORT)
        if transport != UDP:
            self._refuse(exchange, 400 if transport is None else 442)
            return
        families = requested_families(request, frozenset(self._public))
        if isinstance(families, int):
            self._refuse(exchange, families)
            return
        self._allocate(exchange, families)

    def _on_repeated_allocate(self, exchange: Exchange, present: Allocation) -> None:
        """The 5-tuple is taken; but a retransmission has to be answered like the first."""
        if exchange.request.transaction_id != present.transaction_id:
            self._refuse(exchange, 437)
        elif present.response is not None:
            self.counters["repeated_allocate"] += 1
            self._commands.append(present.response)

    def _allocate(self, exchange: Exchange, families: tuple[int, ...]) -> None:
        port = self._table.free_port(self._entropy)
        if port is None:
            self._refuse(exchange, 508)
            return
        allocation = Allocation(
            five_tuple=exchange.five_tuple,
            port=port,
            families=families,
            transaction_id=exchange.request.transaction_id,
        )
        self._table.add(allocation)
        self._opening[port] = _Opening(exchange, frozenset({port}))
        self._open_sockets(allocation)

    def _open_sockets(self, allocation: Allocation) -> None:
        allocation.opening = set(allocation.families)
        self._commands.extend(OpenSocket(allocation.port, f) for f in allocation.families)

    def _open_elsewhere(self, allocation: Allocation, failed_family: int) -> None:
        """The host refuses the port, as something else has it: try another."""
        self.counters["port_unavailable"] += 1
        opening = self._opening.pop(allocation.port)
        self._close_sockets(allocation, except_for=failed_family)
        port = None
        if len(opening.tried) < _OPEN_ATTEMPTS:
            port = self._table.free_port(self._entropy, opening.tried)
        if port is None:
            self._table.remove(allocation)
            self._refuse(opening.exchange, 508)
            return
        self._table.move(allocation, port)
        self._opening[port] = replace(opening, tried=opening.tried | {port})
        self._open_sockets(allocation)

    def _confirm(self, allocation: Allocation, now: int) -> None:
        """Every socket is open: tell the client."""
        exchange = self._opening.pop(allocation.port).exchange
        # One that asks for none gets the default, as RFC 8656 section 7.2 has it.
        lifetime = requested_lifetime(exchange.request) or DEFAULT_LIFETIME
        self._table.start(allocation, now + lifetime * SECOND)
        values: list[Value] = [
            (stun.XOR_RELAYED_ADDRESS, Endpoint(self._public[family], allocation.port))
            for family in allocation.families
        ]
        values += [
            (stun.XOR_MAPPED_ADDRESS, self._mapped(exchange)),
            (stun.LIFETIME, lifetime),
        ]
        values += missing_families(exchange.request, allocation.families)
        allocation.response = self._succeed(exchange, *values)

    def _on_refresh(self, exchange: Exchange, now: int) -> None:
        allocation = self._allocation_of(exchange)
        if allocation is None:
            self._refuse(exchange, 437)
            return
        lifetime = requested_lifetime(exchange.request)
        if lifetime:
            self._table.start(allocation, now + lifetime * SECOND)
        else:
            self._remove(allocation)
        self._succeed(exchange, (stun.LIFETIME, lifetime))

    def _on_channel_bind(self, exchange: Exchange, now: int) -> None:
        request = exchange.request
        number, peer = request.get(stun.CHANNEL_NUMBER), request.get(stun.XOR_PEER_ADDRESS)
        allocation = self._allocation_of(exchange)
        if allocation is None:
            self._refuse(exchange, 437)
        elif number is None or number not in CHANNEL_NUMBERS or peer is None or peer.port == 0:
            self._refuse(exchange, 400)
        elif (code := self._judge_peer(allocation, peer)) is not None:
            self._refuse(exchange, code)
        elif number not in allocation.channels and len(allocation.channels) >= MAX_CHANNELS:
            self._refuse(exchange, 508)
        else:
            self._bind(exchange, allocation, number, peer, now)

    def _bind(
        self, exchange: Exchange, allocation: Allocation, number: int, peer: Endpoint, now: int
    ) -> None:
        channel = self._table.bind(allocation, number, peer, now)
        if channel is None:
            self._refuse(exchange, 400)
            return
        self._commands.append(BindChannel(allocation.five_tuple, number, allocation.port, peer))
        self._succeed(exchange)

    def _on_create_permission(self, exchange: Exchange) -> None:
        allocation = self._allocation_of(exchange)
        peers = exchange.request.get_all(stun.XOR_PEER_ADDRESS)
        if allocation is None or not peers:
            self._refuse(exchange, 437 if allocation is None else 400)
            return
        codes = (self._judge_peer(allocation, peer) for peer in peers)
        code = next((code for code in codes if code is not None), None)
        if code is None:
            self._succeed(exchange)
        else:
            self._refuse(exchange, code)

    def _allocation_of(self, exchange: Exchange) -> Allocation | None:
        """The allocation of a 5-tuple, once its sockets are open."""
        allocation = self._table.by_client.get(exchange.five_tuple)
        return None if allocation is None or allocation.opening else allocation

    def _allocation_at(self, bridge: Endpoint) -> Allocation | None:
        """That of a client over a stream; it came to us by the same address as it has itself."""
        local = Endpoint(bridge.address, self._listen_port)
        return self._table.by_client.get(FiveTuple(bridge, local))

    def _mapped(self, exchange: Exchange) -> Endpoint:
        client = exchange.five_tuple.client
        return self._bridged.get(client, client)

    def _judge_peer(self, allocation: Allocation, peer: Endpoint) -> int | None:
        """The error code for a peer that this allocation cannot or may not reach."""
        if peer.family not in allocation.families:
            return 443
        return None if self._peers.allows(peer) else 403

    # Endings

    def _remove(self, allocation: Allocation) -> None:
        self._opening.pop(allocation.port, None)
        for channel in self._table.remove(allocation):
            self._commands.append(_unbind_command(channel))
        self._close_sockets(allocation)

    def _unbind(self, channel: Channel) -> None:
        self._table.unbind(channel)
        self._commands.append(_unbind_command(channel))

    def _close_sockets(self, allocation: Allocation, except_for: int | None = None) -> None:
        self._commands.extend(
            CloseSocket(allocation.port, family)
            for family in allocation.families
            if family != except_for
        )

    # Responses

    def _succeed(self, exchange: Exchange, *values: Value) -> Transmit:
        self.counters[f"{Method(exchange.request.method).name.lower()}_success"] += 1
        response = exchange.success(*values)
        self._commands.append(response)
        return response

    def _refuse(self, exchange: Exchange, code: int, *values: Value) -> None:
        self.counters[f"error_{code}"] += 1
        self._commands.append(exchange.error(code, *values))


def _unbind_command(channel: Channel) -> UnbindChannel:
    allocation = channel.allocation
    return UnbindChannel(allocation.five_tuple, channel.number, allocation.port, channel.peer)
