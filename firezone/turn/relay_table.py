"""What the relay remembers: allocations, their channels and permissions, reserved ports, and when
each is due.

An allocation is one port number, whichever families it has. A channel is *bound* until
`bound_until`, then *unbound* for a cool-down in which neither its number nor its peer may serve
another binding of the same allocation (RFC 8656 section 12), then gone. A permission is for an
address, and for Send and Data only: a bound channel needs none. Deadlines derive from these facts;
the heap holds at most one live entry per item and looks again when that entry comes up, so
extending a lifetime costs nothing.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from firezone.durations import SECOND
from firezone.model import Endpoint, Entropy, IPAddress, Transmit
from firezone.turn.relay_commands import FiveTuple
from firezone.turn.relay_ports import Ports

CHANNEL_LIFETIME: Final = 600 * SECOND
CHANNEL_COOL_DOWN: Final = 300 * SECOND
PERMISSION_LIFETIME: Final = 300 * SECOND
RESERVATION_LIFETIME: Final = 30 * SECOND


@dataclass(slots=True, eq=False)
class Timed:
    """Something with a deadline. `scheduled` is where its live heap entry stands."""

    scheduled: int | None = field(default=None, init=False, repr=False)

    @property
    def deadline(self) -> int | None:
        """When it is due, None once it is gone."""
        raise NotImplementedError


@dataclass(slots=True, eq=False)
class Allocation(Timed):
    """One client's relayed transport addresses: `port` on each of `families`."""

    five_tuple: FiveTuple
    port: int
    families: tuple[int, ...]
    transaction_id: bytes
    user: str = ""
    """Whose quota it counts against."""
    dont_fragment: bool = False
    expires_at: int | None = None
    """None while its sockets are being opened."""
    opening: set[int] = field(default_factory=set)
    """Families whose socket we asked for and have not heard of."""
    response: Transmit | None = field(default=None, repr=False)
    """The answer to the Allocate, once sent; a retransmission gets it again."""
    channels: dict[int, Channel] = field(default_factory=dict, repr=False)
    numbers: dict[Endpoint, int] = field(default_factory=dict, repr=False)
    permissions: dict[IPAddress, Permission] = field(default_factory=dict, repr=False)
    takes_data: bool = False
    """Whether the client has shown that it knows Data indications. Those of Firezone do not."""
    is_gone: bool = False

    @property
    def deadline(self) -> int | None:
        return None if self.is_gone else self.expires_at


@dataclass(slots=True, eq=False)
class Channel(Timed):
    """A number and the peer it stands for."""

    allocation: Allocation
    number: int
    peer: Endpoint
    bound_until: int
    is_bound: bool = True
    is_gone: bool = False

    @property
    def deadline(self) -> int | None:
        if self.is_gone:
            return None
        return self.bound_until if self.is_bound else self.bound_until + CHANNEL_COOL_DOWN


@dataclass(slots=True, eq=False)
class Permission(Timed):
    """An address whose data without a channel goes to the client, and the other way round."""

    allocation: Allocation
    address: IPAddress
    until: int
    is_gone: bool = False

    @property
    def deadline(self) -> int | None:
        return None if self.is_gone else self.until


@dataclass(slots=True, eq=False)
class Reservation(Timed):
    """A port that waits for the Allocate that bears its token (RFC 8656 section 18.7)."""

    token: bytes = field(repr=False)
    port: int
    families: tuple[int, ...]
    user: str
    until: int
    is_gone: bool = False

    @property
    def deadline(self) -> int | None:
        return None if self.is_gone else self.until


class Deadlines:
    """A heap of timed items, tolerant of items that were extended, shortened or removed."""

    __slots__ = ("_heap", "_limit", "_sequence")

    _SMALLEST_LIMIT: Final = 64

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timed]] = []
        self._sequence = 0
        self._limit = self._SMALLEST_LIMIT

    def __len__(self) -> int:
        return len(self._heap)

    def schedule(self, item: Timed) -> None:
        """Look at the item when it is due. Call it again after its deadline came nearer."""
        deadline = item.deadline
        if deadline is None or (item.scheduled is not None and item.scheduled <= deadline):
            return
        item.scheduled = deadline
        self._sequence += 1
        heapq.heappush(self._heap, (deadline, self._sequence, item))
        if len(self._heap) > self._limit:
            self._compact()

    def earliest(self) -> int | None:
        """The next deadline, if any."""
        while self._heap:
            at, _, item = self._heap[0]
            deadline = item.deadline
            if item.scheduled == at and deadline == at:
                return at
            heapq.heappop(self._heap)
            if item.scheduled == at:
                item.scheduled = None
                self.schedule(item)
        return None

    def pop_due(self, now: int) -> Timed | None:
        """The next item whose deadline has come."""
        at = self.earliest()
        if at is None or at > now:
            return None
        item = heapq.heappop(self._heap)[2]
        item.scheduled = None
        return item

    def _compact(self) -> None:
        """Drops entries of items that are gone or stand elsewhere in the heap."""
        self._heap = [e for e in self._heap if e[2].scheduled == e[0] and e[2].deadline is not None]
        heapq.heapify(self._heap)
        self._limit = max(self._SMALLEST_LIMIT, 2 * len(self._heap))


class RelayTable:
    """Allocations by client and by port. Says nothing about sockets or messages."""

    def __init__(
        self,
        ports: range,
        home: frozenset[IPAddress] = frozenset(),
        one_port: int | None = None,
    ) -> None:
        """`home` are the addresses of allocations, `one_port` the port of all of them, if they have
        but one; then `ports` are mere numbers."""
        self._one_port = one_port
        self._ports = Ports(ports)
        self._home = home
        self.by_client: dict[FiveTuple, Allocation] = {}
        self.by_port: dict[int, Allocation] = {}
        self.by_user: Counter[str] = Counter()
        """Ports that a user has, with those reserved."""
        self.channels_of: Counter[str] = Counter()
        """Channels that a user has, with those at rest."""
        self.permissions_of: Counter[str] = Counter()
        """Permissions that a user has."""
        self.channels_home: dict[Endpoint, dict[Channel, None]] = {}
        """Channels whose peer is one of `home`, with those at rest."""
        self.reservations: dict[bytes, Reservation] = {}
        self.deadlines = Deadlines()
        self.bound_channels = 0

    @property
    def ports_in_use(self) -> int:
        """Those of allocations, and those reserved."""
        return len(self.by_port) + len(self.reservations)

    def free_port(
        self,
        entropy: Entropy,
        excluded: frozenset[int] = frozenset(),
        *,
        even: bool = False,
        with_next: bool = False,
    ) -> int | None:
        """A random port that nobody has, None if there is none. An `even` one if wanted; or an
        even one whose successor is free, too."""
        return self._ports.draw(entropy, excluded, even=even, with_next=with_next)

    def is_relayed(self, endpoint: Endpoint) -> bool:
        """Whether an allocation has that port in that family, its socket open. The address has to
        be ours. Who asks has one there itself, of the one port."""
        if self._one_port is not None:
            return endpoint.port == self._one_port
        allocation = self.by_port.get(endpoint.port)
        if allocation is None or allocation.expires_at is None:
            return False
        return endpoint.family in allocation.families

    def add(self, allocation: Allocation) -> None:
        """Take the allocation's client and port. It does not expire before `start`."""
        self.by_client[allocation.five_tuple] = allocation
        self.by_port[allocation.port] = allocation
        self._ports.take(allocation.port)
        self.by_user[allocation.user] += 1

    def start(self, allocation: Allocation, expires_at: int) -> None:
        """Set when the allocation ends, or set it anew."""
        allocation.expires_at = expires_at
        self.deadlines.schedule(allocation)

    def move(self, allocation: Allocation, port: int) -> None:
        """Give an allocation another port."""
        self._ports.take(port)
        self._ports.give(allocation.port)
        del self.by_port[allocation.port]
        allocation.port = port
        self.by_port[port] = allocation

    def remove(self, allocation: Allocation) -> list[Channel]:
        """Forget an allocation and its channels; returns those that were bound."""
        allocation.is_gone = True
        del self.by_client[allocation.five_tuple]
        del self.by_port[allocation.port]
        self._ports.give(allocation.port)
        _take_one(self.by_user, allocation.user)
        return self.forget_all(allocation, [*allocation.channels.values()])

    def forget_all(self, allocation: Allocation, channels: list[Channel]) -> list[Channel]:
        """Forget these channels, their numbers free at once; returns those that were bound."""
        bound = [channel for channel in channels if channel.is_bound]
        for channel in channels:
            self.forget(channel)
        self.bound_channels -= len(bound)
        return bound

    def permit(self, allocation: Allocation, address: IPAddress, now: int) -> bool:
        """Install a permission or extend it. Whether it is new."""
        permission = allocation.permissions.get(address)
        is_new = permission is None
        if permission is None:
            permission = Permission(allocation, address, 0)
            allocation.permissions[address] = permission
            self.permissions_of[allocation.user] += 1
        permission.until = now + PERMISSION_LIFETIME
        self.deadlines.schedule(permission)
        return is_new

    def revoke(self, permission: Permission) -> None:
        """Forget a permission."""
        permission.is_gone = True
        del permission.allocation.permissions[permission.address]
        _take_one(self.permissions_of, permission.allocation.user)

    def reserve(self, reservation: Reservation) -> None:
        """Keep a port from others until it is claimed or time is up."""
        self.reservations[reservation.token] = reservation
        self._ports.take(reservation.port)
        self.by_user[reservation.user] += 1
        self.deadlines.schedule(reservation)

    def release(self, reservation: Reservation) -> None:
        """End a reservation."""
        if not reservation.is_gone:
            reservation.is_gone = True
            del self.reservations[reservation.token]
            self._ports.give(reservation.port)
            _take_one(self.by_user, reservation.user)

    def bind(self, allocation: Allocation, number: int, peer: Endpoint, now: int) -> Channel | None:
        """Bind a channel or extend it. None if number or peer belong to another binding."""
        channel = allocation.channels.get(number)
        if channel is None and peer not in allocation.numbers:
            channel = Channel(allocation, number, peer, bound_until=0, is_bound=False)
            allocation.channels[number] = channel
            allocation.numbers[peer] = number
            self.channels_of[allocation.user] += 1
            if peer.address in self._home:
                self.channels_home.setdefault(peer, {})[channel] = None
        elif channel is None or channel.peer != peer:
            return None
        self.bound_channels += not channel.is_bound
        channel.is_bound = True
        channel.bound_until = now + CHANNEL_LIFETIME
        self.deadlines.schedule(channel)
        return channel

    def unbind(self, channel: Channel) -> None:
        """Start the cool-down of a channel."""
        channel.is_bound = False
        self.bound_channels -= 1
        self.deadlines.schedule(channel)

    def forget(self, channel: Channel) -> None:
        """Make number and peer of an unbound channel free again."""
        channel.is_gone = True
        del channel.allocation.channels[channel.number]
        del channel.allocation.numbers[channel.peer]
        _take_one(self.channels_of, channel.allocation.user)
        if channel.peer.address in self._home:
            at_peer = self.channels_home[channel.peer]
            del at_peer[channel]
            if not at_peer:
                del self.channels_home[channel.peer]

    def channel_from(self, port: int, peer: Endpoint) -> Channel | None:
        """The bound channel on which that peer's data goes to the client of that port."""
        allocation = self.by_port.get(port)
        if allocation is None:
            return None
        number = allocation.numbers.get(peer)
        channel = None if number is None else allocation.channels[number]
        return channel if channel is not None and channel.is_bound else None

    def channel_of(self, five_tuple: FiveTuple, number: int) -> Channel | None:
        """The bound channel of that number of that client."""
        allocation = self.by_client.get(five_tuple)
        channel = None if allocation is None else allocation.channels.get(number)
        return channel if channel is not None and channel.is_bound else None


def _take_one(counts: Counter[str], user: str) -> None:
    counts[user] -= 1
    if not counts[user]:
        del counts[user]
