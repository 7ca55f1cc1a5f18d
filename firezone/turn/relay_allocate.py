"""How the relay serves an Allocate (RFC 8656 section 7.2): addresses, ports, quotas, reservations.

A request passes in this order; the first that fails gives the code:

With one port for all allocations EVEN-PORT is a 508, unless that port is even and no other wanted,
and DONT-FRAGMENT is not known (420): the socket is everybody's. `OpenSocket` goes out all the same,
for a number instead of a port.

1. the 5-tuple has no allocation: 437, unless it is the same transaction, which is answered again;
2. the relay takes new ones: 508, or 300 if there is another one to go to;
3. the transport is UDP: 400 or 442;
4. attributes go together: 400. A token goes with none that ask for an address or a port; the next
   port cannot be reserved for two families;
5. a token is one of ours and not used: 508;
6. families are served: 440;
7. the user has room: 486; the relay has: as 2.;
8. there is such a port: as 2.

The answer waits for the sockets: `OpenSocket` goes out, `handle_socket_opened` comes in. A port
that the host refuses is replaced by another one, a few times; but a reserved one cannot be.

A reservation keeps the number of a port, in the relay, for 30 s, and counts as an allocation of its
user: else it would be a way around quotas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from firezone import stun
from firezone.durations import SECOND
from firezone.model import Endpoint, Entropy, IPAddress
from firezone.stun import Message
from firezone.turn.relay_commands import CloseSocket, OpenSocket
from firezone.turn.relay_exchange import (
    DEFAULT_LIFETIME,
    Exchange,
    Value,
    missing_families,
    requested_families,
    requested_lifetime,
)
from firezone.turn.relay_outbox import Outbox
from firezone.turn.relay_table import RESERVATION_LIFETIME, Allocation, RelayTable, Reservation

UDP: Final = 17
TOKEN_SIZE: Final = 8
_OPEN_ATTEMPTS: Final = 4
_NO_ROOM: Final = -1
"""For nobody: 508, or 300 and another relay."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """How many allocations there may be at a time; None is no limit but the ports.

    `peers_per_user` limits the channels of all allocations of a user, those at rest included, and
    likewise the permissions.
    """

    per_user: int | None = None
    total: int | None = None
    peers_per_user: int | None = None


@dataclass(frozen=True, slots=True)
class _Wish:
    """What an Allocate asks for. `claimed` is the reservation whose token it bears."""

    families: tuple[int, ...]
    even: bool = False
    with_next: bool = False
    claimed: Reservation | None = None


@dataclass(frozen=True, slots=True)
class _Opening:
    """An Allocate that waits for its sockets, and the ports tried for it."""

    exchange: Exchange
    wish: _Wish
    tried: frozenset[int]
    reserved: Reservation | None = None
    """Of the next port, which the answer will tell."""


class Allocator:
    """Makes the allocations of a relay's table."""

    def __init__(
        self,
        table: RelayTable,
        outbox: Outbox,
        *,
        public: Mapping[int, IPAddress],
        quotas: Quotas,
        alternates: Mapping[int, Endpoint],
        one_port: int | None = None,
        entropy: Entropy,
    ) -> None:
        """`public` are the relay's addresses by family; `alternates` other relays, by the family of
        the clients that are to go there if there is no room here. `one_port` is that of all
        allocations, if they have but one."""
        self._one_port = one_port
        self._table = table
        self._outbox = outbox
        self._public = public
        self._quotas = quotas
        self._alternates = alternates
        self._entropy = entropy
        self._opening: dict[int, _Opening] = {}
        self.is_draining = False

    def handle_allocate(self, exchange: Exchange, now: int) -> None:
        """An authenticated request."""
        present = self._table.by_client.get(exchange.five_tuple)
        if present is not None:
            self._repeat(exchange, present)
            return
        unknown = stun.DONT_FRAGMENT
        if self._one_port is not None and exchange.request.get(unknown) is not None:
            self._outbox.refuse(exchange, 420, (stun.UNKNOWN_ATTRIBUTES, (unknown.code,)))
            return
        wish = self._judge(exchange)
        if isinstance(wish, int):
            self._refuse(exchange, wish)
            return
        port = self._choose(wish, frozenset())
        if port is None:
            self._refuse(exchange, _NO_ROOM)
        else:
            self._start(exchange, wish, port, now)

    def handle_socket_opened(self, port: int, family: int, ok: bool, now: int) -> None:
        """The outcome of an `OpenSocket`."""
        allocation = self._table.by_port.get(port)
        if allocation is None or family not in allocation.opening:
            return
        if not ok:
            self._open_elsewhere(allocation, family, now)
            return
        allocation.opening.discard(family)
        if not allocation.opening:
            self._confirm(allocation, now)

    def forget(self, allocation: Allocation) -> None:
        """The allocation is gone: nobody waits for its sockets any more."""
        self._opening.pop(allocation.port, None)

    # What is asked for

    def _repeat(self, exchange: Exchange, present: Allocation) -> None:
        """The 5-tuple is taken; but a retransmission has to be answered like the first."""
        if exchange.request.transaction_id != present.transaction_id:
            self._outbox.refuse(exchange, 437)
        elif present.response is not None:
            self._outbox.count("repeated_allocate")
            self._outbox.put(present.response)

    def _refuse(self, exchange: Exchange, code: int) -> None:
        alternate = self._alternates.get(exchange.five_tuple.client.family)
        if code != _NO_ROOM:
            self._outbox.refuse(exchange, code)
        elif alternate is None:
            self._outbox.refuse(exchange, 508)
        else:
            self._outbox.refuse(exchange, 300, (stun.ALTERNATE_SERVER, alternate))

    def _judge(self, exchange: Exchange) -> _Wish | int:
        """What the request may have, or its error code."""
        if self.is_draining:
            return _NO_ROOM
        transport = exchange.request.get(stun.REQUESTED_TRANSPORT)
        if transport != UDP:
            return 400 if transport is None else 442
        wish = self._wish(exchange.request)
        if isinstance(wish, int):
            return wish
        return self._judge_quotas(exchange.user, wish) or wish

    def _wish(self, request: Message) -> _Wish | int:
        token = request.get(stun.RESERVATION_TOKEN)
        if token is not None:
            return self._claim(request, token)
        families = requested_families(request, frozenset(self._public))
        even_port = request.get(stun.EVEN_PORT)
        is_dual = request.get(stun.ADDITIONAL_ADDRESS_FAMILY) is not None
        if even_port and is_dual:
            return 400
        if isinstance(families, int):
            return families
        if self._one_port is not None and even_port is not None:
            return 508 if even_port or self._one_port % 2 else _Wish(families)
        return _Wish(families, even=even_port is not None, with_next=bool(even_port))

    def _claim(self, request: Message, token: bytes) -> _Wish | int:
        others: tuple[stun.Attribute[Any], ...] = (
            stun.EVEN_PORT,
            stun.REQUESTED_ADDRESS_FAMILY,
            stun.ADDITIONAL_ADDRESS_FAMILY,
        )
        if any(request.get(other) is not None for other in others):
            return 400
        reservation = self._table.reservations.get(token)
        return 508 if reservation is None else _Wish(reservation.families, claimed=reservation)

    def _judge_quotas(self, user: str, wish: _Wish) -> int | None:
        wanted = 1 + wish.with_next
        claimed = wish.claimed
        present = self._table.by_user[user] - (claimed is not None and claimed.user == user)
        if self._quotas.per_user is not None and present + wanted > self._quotas.per_user:
            return 486
        present = self._table.ports_in_use - (claimed is not None)
        if self._quotas.total is not None and present + wanted > self._quotas.total:
            return _NO_ROOM
        return None

    # Sockets

    def _choose(self, wish: _Wish, tried: frozenset[int]) -> int | None:
        if wish.claimed is not None:
            return None if tried else wish.claimed.port
        return self._table.free_port(self._entropy, tried, even=wish.even, with_next=wish.with_next)

    def _start(self, exchange: Exchange, wish: _Wish, port: int, now: int) -> None:
        if wish.claimed is not None:
            self._table.release(wish.claimed)
        allocation = Allocation(
            five_tuple=exchange.five_tuple,
            port=port,
            families=wish.families,
            transaction_id=exchange.request.transaction_id,
            user=exchange.user,
            dont_fragment=exchange.request.get(stun.DONT_FRAGMENT) is not None,
        )
        self._table.add(allocation)
        self._open(allocation, _Opening(exchange, wish, frozenset({port})), now)

    def _open(self, allocation: Allocation, opening: _Opening, now: int) -> None:
        if opening.wish.with_next:
            reserved = Reservation(
                token=self._entropy(TOKEN_SIZE),
                port=allocation.port + 1,
                families=allocation.families,
                user=allocation.user,
                until=now + RESERVATION_LIFETIME,
            )
            self._table.reserve(reserved)
            opening = replace(opening, reserved=reserved)
        self._opening[allocation.port] = opening
        allocation.opening = set(allocation.families)
        self._outbox.put(
            *(OpenSocket(allocation.port, f, allocation.dont_fragment) for f in allocation.families)
        )

    def _open_elsewhere(self, allocation: Allocation, failed_family: int, now: int) -> None:
        """The host refuses the port, as something else has it: try another."""
        self._outbox.count("port_unavailable")
        opening = self._opening.pop(allocation.port)
        if opening.reserved is not None:
            self._table.release(opening.reserved)
        others = [family for family in allocation.families if family != failed_family]
        self._outbox.put(*(CloseSocket(allocation.port, family) for family in others))
        port = None
        if len(opening.tried) < _OPEN_ATTEMPTS:
            port = self._choose(opening.wish, opening.tried)
        if port is None:
            self._table.remove(allocation)
            self._refuse(opening.exchange, 508 if opening.wish.claimed else _NO_ROOM)
            return
        self._table.move(allocation, port)
        self._open(allocation, replace(opening, tried=opening.tried | {port}), now)

    def _confirm(self, allocation: Allocation, now: int) -> None:
        """Every socket is open: tell the client."""
        opening = self._opening.pop(allocation.port)
        exchange = opening.exchange
        # One that asks for none gets the default, as RFC 8656 section 7.2 has it.
        lifetime = requested_lifetime(exchange.request) or DEFAULT_LIFETIME
        self._table.start(allocation, now + lifetime * SECOND)
        port = allocation.port if self._one_port is None else self._one_port
        values: list[Value] = [
            (stun.XOR_RELAYED_ADDRESS, Endpoint(self._public[family], port))
            for family in allocation.families
        ]
        values += [(stun.XOR_MAPPED_ADDRESS, exchange.mapped), (stun.LIFETIME, lifetime)]
        values += missing_families(exchange.request, allocation.families)
        if opening.reserved is not None:
            values.append((stun.RESERVATION_TOKEN, opening.reserved.token))
        allocation.response = self._outbox.succeed(exchange, *values)
