"""The channels of one allocation (RFC 8656 section 12): which number stands for which peer.

                  bind                confirm              10 min without success
    (unused) ──────────────► asked ────────────► bound ─────────────────────────────► cooling down
        ▲                      │  fail             │ ▲ refresh                          │
        └──────────────────────┴───────────────────┘ └─ rebind of the same peer ◄───────┤
                                                       any peer, 15 min after the bind ◄┘

The relay keeps a number for its peer for 5 min after the binding ran out. So do we, or it would
refuse. Numbers never used come before those that cooled down. Ages count from the last success;
data that arrived is a fact with a time, so "since the last success" is a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from firezone.durations import MINUTE
from firezone.model import Endpoint

FIRST_CHANNEL = 0x4000
LAST_CHANNEL = 0x4FFF
LIFETIME = 10 * MINUTE
COOL_DOWN = 5 * MINUTE
REFRESH_AFTER = 5 * MINUTE

_COUNT = LAST_CHANNEL - FIRST_CHANNEL + 1


@dataclass(slots=True)
class Binding:
    """One number and the peer it stands for."""

    number: int
    peer: Endpoint
    bound_at: int
    in_flight: bool = True
    confirmed: bool = False
    expired: bool = False
    received_at: int | None = None

    def is_sendable(self, now: int) -> bool:
        """Unconfirmed ones count: the bind is on its way ahead of the data."""
        return not self.expired and now < self.expires_at

    def is_reusable(self, now: int) -> bool:
        """Whether the relay surely forgot it, so that the number may take another peer."""
        last_sign = max(self.bound_at, self.received_at or self.bound_at)
        return not self.in_flight and now >= last_sign + LIFETIME + COOL_DOWN

    @property
    def has_received(self) -> bool:
        """Whether data came in since the last success."""
        return self.received_at is not None and self.received_at > self.bound_at

    @property
    def expires_at(self) -> int:
        return self.bound_at + LIFETIME

    @property
    def refresh_at(self) -> int | None:
        """When to bind it again; None for idle ones, which we let die."""
        if self.in_flight or not self.confirmed or not self.has_received:
            return None
        return self.bound_at + REFRESH_AFTER


class Channels:
    """All bindings by number and by peer. It does no I/O: its owner sends the requests."""

    def __init__(self) -> None:
        self._bindings: dict[int, Binding] = {}
        self._by_peer: dict[Endpoint, Binding] = {}
        self._next = FIRST_CHANNEL
        self._deadline: int | None = None
        self._deadline_known = True

    def to(self, peer: Endpoint, now: int) -> Binding | None:
        """The channel to send to this peer on."""
        binding = self._by_peer.get(peer)
        return binding if binding is not None and binding.is_sendable(now) else None

    def confirmed(self, number: int) -> Binding | None:
        """The channel that the relay may send us data on."""
        binding = self._bindings.get(number)
        return binding if binding is not None and binding.confirmed else None

    def bind(self, peer: Endpoint, now: int) -> Binding | None:
        """A channel to ask the relay for. None if one stands or is asked for, or none is free."""
        mine = self._by_peer.get(peer)
        if mine is not None and (mine.in_flight or mine.is_sendable(now)):
            return None
        number = self._number_for(mine, now)
        if number is None:
            return None
        self._forget(number)
        binding = Binding(number, peer, bound_at=now)
        self._bindings[number] = self._by_peer[peer] = binding
        self._deadline_known = False
        return binding

    def confirm(self, number: int, now: int) -> Binding | None:
        """The relay bound it. Gives the channel if this is news, None for a mere refresh."""
        binding = self._bindings.get(number)
        if binding is None:
            return None
        is_news = not binding.confirmed
        binding.bound_at = now
        binding.in_flight = binding.expired = False
        binding.confirmed = True
        self._deadline_known = False
        return binding if is_news else None

    def fail(self, number: int) -> Binding | None:
        """The relay refused it. Gives the channel if it was not lost already."""
        binding = self._forget(number)
        return binding if binding is not None and not binding.expired else None

    def handle_received(self, number: int, received_at: int) -> None:
        """Data came in on it at that time."""
        binding = self._bindings.get(number)
        if binding is None or not binding.confirmed or received_at <= (binding.received_at or 0):
            return
        had_received = binding.has_received
        binding.received_at = received_at
        if binding.has_received != had_received:
            self._deadline_known = False

    def expire(self, now: int) -> Iterator[Binding]:
        """Marks and gives those whose time ran out."""
        if not self._has_due(now):
            return
        for binding in self._bindings.values():
            if not binding.expired and now >= binding.expires_at:
                binding.expired = True
                binding.confirmed = False
                self._deadline_known = False
                yield binding

    def refresh(self, now: int) -> Iterator[Binding]:
        """Marks as in flight and gives those that are to be bound again."""
        if not self._has_due(now):
            return
        for binding in self._bindings.values():
            due = binding.refresh_at
            if due is not None and now >= due:
                binding.in_flight = True
                self._deadline_known = False
                yield binding

    def in_flight(self) -> list[Endpoint]:
        """The peers whose channels are being asked for."""
        return [binding.peer for binding in self._bindings.values() if binding.in_flight]

    def confirmed_count(self) -> int:
        """How many are bound now."""
        return sum(b.confirmed and not b.expired for b in self._bindings.values())

    def clear(self) -> list[Binding]:
        """Forgets all, and gives those that were not lost already."""
        live = [binding for binding in self._bindings.values() if not binding.expired]
        self._bindings.clear()
        self._by_peer.clear()
        self._next = FIRST_CHANNEL
        self._deadline_known = False
        return live

    @property
    def deadline(self) -> int | None:
        """When `expire` or `refresh` will next have something to give."""
        if not self._deadline_known:
            self._deadline = min(self._deadlines(), default=None)
            self._deadline_known = True
        return self._deadline

    def _has_due(self, now: int) -> bool:
        """Whether to look at all of them, which may be thousands."""
        return self.deadline is not None and now >= self.deadline

    def _deadlines(self) -> Iterator[int]:
        for binding in self._bindings.values():
            if not binding.expired:
                yield binding.expires_at
            if (due := binding.refresh_at) is not None:
                yield due

    def _number_for(self, mine: Binding | None, now: int) -> int | None:
        """Its own while that cools down: the relay takes it for this peer only."""
        if mine is not None and not mine.is_reusable(now):
            return mine.number
        return self._take_number(now)

    def _take_number(self, now: int) -> int | None:
        if len(self._bindings) < _COUNT:
            free = (n for n in self._numbers() if n not in self._bindings)
        else:
            free = (n for n in self._numbers() if self._bindings[n].is_reusable(now))
        number = next(free, None)
        if number is None:
            return None
        self._next = number + 1 if number < LAST_CHANNEL else FIRST_CHANNEL
        return number

    def _numbers(self) -> Iterator[int]:
        yield from range(self._next, LAST_CHANNEL + 1)
        yield from range(FIRST_CHANNEL, self._next)

    def _forget(self, number: int) -> Binding | None:
        binding = self._bindings.pop(number, None)
        if binding is not None and self._by_peer.get(binding.peer) is binding:
            del self._by_peer[binding.peer]
        self._deadline_known = False
        return binding
