"""The relay: a STUN and TURN server (RFC 8489, RFC 8656), without sockets.

All messages are datagrams to it. A client over a stream is one at an address of this host, where
its stream is joined with our port; `handle_stream_opened` says so.

Data crosses it on bound channels, both ways, for as long as the channel is bound, whatever the
permissions; and in Send and Data indications as permissions allow (`relay_permissions.py`). One
listening port on up to two families; a client is its 5-tuple, an allocation is one port number for
all its families.

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
are valid rule the allocation of their 5-tuple, whoever made it. `relay_allocate.py` goes on with
Allocate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from firezone import stun
from firezone.durations import SECOND
from firezone.errors import LocalError
from firezone.model import Endpoint, Entropy, IPAddress, Timeout, Transmit
from firezone.stun import Message, Method
from firezone.turn.channel_data import (
    ChannelDataError,
    decode_channel_data,
    encode_channel_data,
)
from firezone.turn.relay_allocate import Allocator, Quotas
from firezone.turn.relay_auth import Authenticator
from firezone.turn.relay_channels import Channels
from firezone.turn.relay_commands import (
    CloseSocket,
    FiveTuple,
    RelayCommand,
    SendToPeer,
)
from firezone.turn.relay_exchange import Exchange, requested_lifetime
from firezone.turn.relay_farewells import Farewells
from firezone.turn.relay_one_port import NUMBERS, OnePort
from firezone.turn.relay_outbox import Outbox
from firezone.turn.relay_peers import IPNetwork, PeerPolicy
from firezone.turn.relay_permissions import Permissions
from firezone.turn.relay_strangers import StrangerAnswers
from firezone.turn.relay_table import Allocation, Channel, Permission, RelayTable, Reservation

_SERVED: Final = frozenset(
    {
        Method.BINDING,
        Method.ALLOCATE,
        Method.REFRESH,
        Method.CHANNEL_BIND,
        Method.CREATE_PERMISSION,
    }
)


class Relay:
    """The sans-IO server. Feed it datagrams and time, carry out its commands in their order."""

    def __init__(
        self,
        *,
        public_ipv4: IPv4Address | None,
        public_ipv6: IPv6Address | None,
        listen_port: int = 3478,
        ports: range = range(49152, 65536),
        one_port: bool = False,
        auth_secret: str | None,
        users: Mapping[str, str] | None = None,
        realm: str = "firezone",
        software: str = "firezone-relay",
        peers: PeerPolicy | None = None,
        quotas: Quotas | None = None,
        alternates: Mapping[int, Endpoint] | None = None,
        entropy: Entropy,
        unix_now: int,
        now: int,
    ) -> None:
        """`ports` are those of allocations, unless all have `one_port`, which is the one we listen
        on (`relay_one_port.py`); `peers` says where to relay to, by default not to this
        host nor to private networks. `users` are passwords by name, besides those who have theirs
        by the secret. `alternates` are relays for clients of a family that have no room here any
        more. `unix_now` is the wall time in nanoseconds at `now`.

        Raises LocalError without a public address or for impossible ports.
        """
        if one_port:
            ports = NUMBERS
        else:
            _check_ports(ports, listen_port)
        shared = listen_port if one_port else None
        self._public = _by_family(public_ipv4, public_ipv6)
        own = frozenset(self._public.values())
        quotas = quotas or Quotas()
        self._software = software
        self._auth = Authenticator(
            secret=auth_secret,
            users=users or {},
            realm=realm,
            entropy=entropy,
            unix_now=unix_now,
            now=now,
        )
        self._table = RelayTable(ports, own, shared)
        self._outbox = Outbox()
        self._allocator = Allocator(
            self._table,
            self._outbox,
            public=self._public,
            quotas=quotas,
            alternates=alternates or {},
            one_port=shared,
            entropy=entropy,
        )
        self._permissions = Permissions(
            self._table,
            self._outbox,
            peers=replace(
                peers or PeerPolicy(),
                own_addresses=own,
                is_relayed=self._table.is_relayed,
                one_port=shared,
            ),
            per_user=quotas.peers_per_user,
            entropy=entropy,
        )
        self._channels = Channels(
            self._table, self._outbox, self._permissions, per_user=quotas.peers_per_user
        )
        self._farewells = Farewells()
        self._capacity = len(ports) if quotas.total is None else min(quotas.total, len(ports))
        self._listen_port = listen_port
        self._bridged: dict[Endpoint, Endpoint] = {}
        self._one_port: OnePort | None = None
        if one_port:
            endpoints = frozenset(Endpoint(address, listen_port) for address in own)
            self._one_port = OnePort(endpoints, self._outbox.count, self._indicate)
            self._outbox.translate = self._one_port.translate

    @property
    def counters(self) -> Counter[str]:
        """Requests, refusals and drops by reason; relayed payload bytes as `relayed_bytes`."""
        return self._outbox.counters

    @property
    def allocation_count(self) -> int:
        """Allocations that are alive."""
        return len(self._table.by_client)

    @property
    def channel_count(self) -> int:
        """Channels that are bound."""
        return self._table.bound_channels

    @property
    def permission_count(self) -> int:
        """Permissions that are installed."""
        return sum(len(a.permissions) for a in self._table.by_client.values())

    @property
    def reservation_count(self) -> int:
        """Ports that wait for who has their token."""
        return len(self._table.reservations)

    @property
    def name_count(self) -> int:
        """Names of clients that are remembered where all have one port."""
        return 0 if self._one_port is None else self._one_port.name_count

    @property
    def user_count(self) -> int:
        """Users with an allocation."""
        return len(self._table.by_user)

    @property
    def capacity(self) -> int:
        """Allocations there can be."""
        return self._capacity

    @property
    def stranger_answers(self) -> StrangerAnswers:
        """For a shell that answers strangers by itself; what it says so is not in `counters`."""
        return StrangerAnswers.of(self._software, self._auth.realm, self._auth.nonce_key)

    @property
    def is_draining(self) -> bool:
        """Whether new allocations are refused."""
        return self._allocator.is_draining

    def drain(self) -> None:
        """From now on refuse new allocations with 508; serve the present ones until they end."""
        self._allocator.is_draining = True

    def handle_users(self, users: Mapping[str, str]) -> None:
        """Passwords by name, instead of those before. Who is none any more keeps an allocation for
        as long as it lasts, as those do whose credentials have expired."""
        self._auth.set_users(users)

    def handle_host_addresses(self, addresses: frozenset[IPAddress], now: int) -> None:
        """All that this host has now, instead of those before."""
        self._set_peers(replace(self._permissions.peers, host_addresses=addresses), now)

    def handle_peer_networks(
        self, allow: tuple[IPNetwork, ...], deny: tuple[IPNetwork, ...], now: int
    ) -> None:
        """The lists of networks to relay to or not, instead of those before."""
        self._set_peers(replace(self._permissions.peers, allow=allow, deny=deny), now)

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
                self._remove(allocation, now)

    def has_allocation(self, bridge: Endpoint) -> bool:
        """Whether the client of that stream has one."""
        return self._allocation_at(bridge) is not None

    def handle_client_datagram(
        self, local: Endpoint | None, source: Endpoint, data: bytes, now: int
    ) -> None:
        """A datagram on the listening socket, sent to `local`."""
        five_tuple = FiveTuple(source, local)
        if not data or source.port == 0:
            self._outbox.count("unusable_datagram")
        elif self._one_port is not None and self._is_peers(self._one_port, five_tuple, data):
            self._outbox.put(*self._one_port.handle_peer_datagram(source, data))
        elif data[0] < 4:
            self._on_stun(five_tuple, data, now)
        elif 0x40 <= data[0] < 0x80:
            self._on_channel_data(five_tuple, data)
        else:
            self._outbox.count("unknown_protocol")

    def handle_peer_datagram(self, port: int, peer: Endpoint, data: bytes, now: int) -> None:
        """A datagram on the relay socket of `port` and the peer's family; with one port, what the
        shell already knows to be a peer's, whatever `port` is."""
        if self._one_port is not None:
            self._outbox.put(*self._one_port.handle_peer_datagram(peer, data))
            return
        allocation = self._table.by_port.get(port)
        channel = self._table.channel_from(port, peer)
        if channel is not None:
            self.counters["relayed_bytes"] += len(data)
            client, local = channel.allocation.five_tuple
            self._outbox.put(Transmit(encode_channel_data(channel.number, data), client, local))
        elif allocation is not None:
            self._permissions.handle_peer_data(allocation, peer, data)
        else:
            self._outbox.count("unbound_peer")

    def handle_socket_opened(self, port: int, family: int, ok: bool, now: int) -> None:
        """The outcome of an `OpenSocket`."""
        self._allocator.handle_socket_opened(port, family, ok, now)

    def handle_socket_failed(self, port: int, now: int) -> None:
        """A relay socket broke down: its allocation, and no other, is gone."""
        allocation = self._table.by_port.get(port)
        if allocation is not None:
            self._outbox.count("socket_failed")
            self._remove(allocation, now)

    def handle_timeout(self, now: int) -> None:
        """Ends what has expired."""
        while (item := self._table.deadlines.pop_due(now)) is not None:
            match item:
                case Allocation():
                    self._remove(item, now)
                case Channel(is_bound=True):
                    self._channels.unbind(item)
                case Channel():
                    self._table.forget(item)
                case Permission():
                    self._permissions.revoke(item)
                case Reservation():
                    self._table.release(item)

    def poll_timeout(self) -> Timeout | None:
        """When `handle_timeout` is wanted next."""
        deadline = self._table.deadlines.earliest()
        return None if deadline is None else Timeout(deadline, "relay expiry")

    def poll_command(self) -> RelayCommand | None:
        """The next thing to do. Take them until None after every call of a `handle_*`."""
        return self._outbox.take()

    # Data

    def _on_channel_data(self, five_tuple: FiveTuple, data: bytes) -> None:
        try:
            number, payload = decode_channel_data(data, exact=False)
        except ChannelDataError as error:
            self._outbox.count(f"channel_data_{error.reason}")
            return
        channel = self._table.channel_of(five_tuple, number)
        if channel is None:
            self._outbox.count("unbound_channel")
            return
        self.counters["relayed_bytes"] += len(payload)
        self._outbox.put(SendToPeer(channel.allocation.port, channel.peer, payload))

    def _is_peers(self, one_port: OnePort, five_tuple: FiveTuple, data: bytes) -> bool:
        """Whether what came to the one port is for a client, and not from one."""
        if 0x40 <= data[0] < 0x80 and self._has_channel(five_tuple, data):
            return False
        return one_port.is_peers(five_tuple.client, data)

    def _has_channel(self, five_tuple: FiveTuple, data: bytes) -> bool:
        number = int.from_bytes(data[:2], "big")
        return self._table.channel_of(five_tuple, number) is not None

    def _indicate(self, port: int, peer: Endpoint, data: bytes) -> None:
        """A Data indication for the client of an allocation."""
        self._permissions.handle_peer_data(self._table.by_port[port], peer, data)

    # Messages

    def _on_stun(self, five_tuple: FiveTuple, data: bytes, now: int) -> None:
        try:
            message = stun.decode(data)
        except stun.DecodeError as error:
            self._outbox.count(error.reason)
            return
        if message.has_fingerprint and not message.verify_fingerprint():
            self._outbox.count("wrong_fingerprint")
        elif message.class_ is stun.Class.REQUEST:
            key, mapped = self._auth.derived_key(message), self._mapped(five_tuple.client)
            self._on_request(Exchange(five_tuple, message, key, self._software, mapped), now)
        elif message.class_ is stun.Class.INDICATION:
            self._on_indication(five_tuple, message)
        else:
            self._outbox.count("not_a_request")

    def _on_indication(self, five_tuple: FiveTuple, indication: Message) -> None:
        """What cannot be understood is dropped (RFC 8489 section 6.3.2)."""
        if indication.malformed is not None or indication.unknown:
            self._outbox.count("indication_not_understood")
        elif indication.method == Method.SEND:
            self._permissions.handle_send(self._serving(five_tuple), indication)
        elif indication.method == Method.BINDING:
            self._outbox.count("binding_indication")
        else:
            self._outbox.count("not_a_request")

    def _on_request(self, exchange: Exchange, now: int) -> None:
        request = exchange.request
        if request.malformed is not None or request.method not in _SERVED:
            self._outbox.refuse(exchange, 400)
            return
        if request.method != Method.BINDING:
            authenticated = self._auth.authenticate(exchange, now)
            if isinstance(authenticated, int):
                self._outbox.count(f"error_{authenticated}")
                self._outbox.put(self._auth.challenge(exchange, authenticated, now))
                return
            exchange = authenticated
        if request.unknown:
            self._outbox.refuse(exchange, 420, (stun.UNKNOWN_ATTRIBUTES, request.unknown))
        else:
            self._serve(exchange, now)

    def _serve(self, exchange: Exchange, now: int) -> None:
        match exchange.request.method:
            case Method.BINDING:
                self._on_binding(exchange)
            case Method.ALLOCATE:
                self._allocator.handle_allocate(exchange, now)
            case Method.REFRESH:
                self._on_refresh(exchange, now)
            case Method.CHANNEL_BIND:
                allocation = self._serving(exchange.five_tuple)
                self._channels.handle_channel_bind(exchange, allocation, now)
            case Method.CREATE_PERMISSION:
                allocation = self._serving(exchange.five_tuple)
                self._permissions.handle_create_permission(exchange, allocation, now)

    def _on_binding(self, exchange: Exchange) -> None:
        unsigned = replace(exchange, key=None)
        self._outbox.succeed(unsigned, (stun.XOR_MAPPED_ADDRESS, exchange.mapped))

    def _on_refresh(self, exchange: Exchange, now: int) -> None:
        transaction = exchange.five_tuple, exchange.request.transaction_id
        answer = self._farewells.recall(*transaction, now)
        if answer is not None:
            self._outbox.count("repeated_refresh")
            self._outbox.put(answer)
            return
        allocation = self._serving(exchange.five_tuple)
        family = exchange.request.get(stun.REQUESTED_ADDRESS_FAMILY)
        if allocation is None:
            self._outbox.refuse(exchange, 437)
        elif family is not None and family not in allocation.families:
            self._outbox.refuse(exchange, 443)
        elif lifetime := requested_lifetime(exchange.request):
            self._table.start(allocation, now + lifetime * SECOND)
            self._outbox.succeed(exchange, (stun.LIFETIME, lifetime))
        else:
            self._give_back(allocation, family, now)
            answer = self._outbox.succeed(exchange, (stun.LIFETIME, 0))
            self._farewells.remember(*transaction, answer, now)

    def _serving(self, five_tuple: FiveTuple) -> Allocation | None:
        """The allocation of a 5-tuple, once its sockets are open."""
        allocation = self._table.by_client.get(five_tuple)
        return None if allocation is None or allocation.opening else allocation

    def _allocation_at(self, bridge: Endpoint) -> Allocation | None:
        """That of a client over a stream; it came to us by the same address as it has itself."""
        local = Endpoint(bridge.address, self._listen_port)
        return self._table.by_client.get(FiveTuple(bridge, local))

    def _mapped(self, client: Endpoint) -> Endpoint:
        return self._bridged.get(client, client)

    # Endings

    def _give_back(self, allocation: Allocation, family: int | None, now: int) -> None:
        """The whole of an allocation, or one of its families (RFC 8656 section 8.2)."""
        if family is None or allocation.families == (family,):
            self._remove(allocation, now)
            return
        channels = [c for c in allocation.channels.values() if c.peer.family == family]
        self._channels.say_unbound(self._table.forget_all(allocation, channels))
        self._permissions.revoke_all(allocation, family)
        self._outbox.put(CloseSocket(allocation.port, family))
        allocation.families = tuple(f for f in allocation.families if f != family)
        self._leave_address(allocation.port, family, now)

    def _remove(self, allocation: Allocation, now: int) -> None:
        self._allocator.forget(allocation)
        self._permissions.revoke_all(allocation)
        self._channels.say_unbound(self._table.remove(allocation))
        for family in allocation.families:
            self._outbox.put(CloseSocket(allocation.port, family))
            self._leave_address(allocation.port, family, now)

    def _leave_address(self, port: int, family: int, now: int) -> None:
        """Others may have channels to a relayed address that was given back. It is one of this host
        as any other now, and may soon be another client's. The one port stays everybody's."""
        if self._one_port is not None:
            return
        address = Endpoint(self._public[family], port)
        self._channels.revoke_forbidden([*self._table.channels_home.get(address, ())], now)

    def _set_peers(self, policy: PeerPolicy, now: int) -> None:
        """What it does not allow is cut off at once. Clients learn that when they renew it."""
        if policy == self._permissions.peers:
            return
        self._permissions.set_peers(policy)
        for allocation in self._table.by_client.values():
            self._channels.revoke_forbidden([*allocation.channels.values()], now)


def _check_ports(ports: range, listen_port: int) -> None:
    if not ports or ports[0] < 1 or ports[-1] > 0xFFFF or listen_port in ports:
        raise LocalError(f"{ports} cannot be the ports of a relay that listens on {listen_port}")


def _by_family(*addresses: IPv4Address | IPv6Address | None) -> dict[int, IPAddress]:
    found: dict[int, IPAddress] = {a.version: a for a in addresses if a is not None}
    if not found:
        raise LocalError("a relay needs a public IPv4 or IPv6 address")
    return found
