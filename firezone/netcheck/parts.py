"""The parts of a check: who answers, whether the NAT hairpins, how large packets may be.

Each starts when it is made, and has a `deadline` until it is done.
"""

from __future__ import annotations

from statistics import median

from firezone.durations import MILLISECOND
from firezone.model import Endpoint
from firezone.netcheck.wire import MAIN, SECOND, Answer, Sent, Wire

SAMPLES = 5
INTERVAL = 100 * MILLISECOND
PATIENCE = 1_000 * MILLISECOND
"""How long the last sample waits for its answer."""

TRIES = 3
RETRY = 200 * MILLISECOND

LARGEST = 1500
SMALLEST = {4: 576, 6: 1280}
"""What every host (RFC 791), or every link (RFC 8200 section 5), must take."""
_GRID = 4
"""STUN messages grow by 4 bytes."""
_SIZES_AT_ONCE = 12


class Reachability:
    """Asks one address of a server a few times, from one socket."""

    def __init__(self, wire: Wire, target: Endpoint, now: int) -> None:
        self.target = target
        self.sent = 0
        self.round_trips: list[int] = []
        self.local: Endpoint | None = None
        self.mapped: Endpoint | None = None
        self.error: str | None = None
        self.deadline: int | None = now
        self._wire = wire
        self.handle_timeout(now)

    @property
    def median(self) -> int | None:
        return round(median(self.round_trips)) if self.round_trips else None

    def handle_timeout(self, now: int) -> None:
        if self.deadline is None or now < self.deadline:
            return
        if self.sent == SAMPLES:
            self.deadline = None
            self.error = self.error or (None if self.round_trips else "no answer")
            return
        self.sent += 1
        self.deadline = now + (INTERVAL if self.sent < SAMPLES else PATIENCE)
        self._wire.send(self, MAIN, self.target, now)

    def handle_answer(self, sent: Sent, answer: Answer, now: int) -> None:
        self.round_trips.append(now - sent.sent_at)
        if answer.mapped is None:
            self.error = "answers with errors only"
        else:
            self.local, self.mapped, self.error = answer.local, answer.mapped, None
        if len(self.round_trips) == SAMPLES:
            self.deadline = None

    def handle_arrival(self, sent: Sent) -> None:
        """Nobody sends us our own requests."""

    def handle_unsent(self, sent: Sent, reason: str, now: int) -> None:
        self.error = reason
        self.deadline = None


class Hairpin:
    """Two sockets send to each other's outer address.

    Both send, because a NAT may let in only who was sent to before: what is asked is whether it
    turns packets around. `works` is None if that could not be asked.
    """

    def __init__(self, wire: Wire, server: Endpoint, main: Endpoint, now: int) -> None:
        self.works: bool | None = None
        self.deadline: int | None = now
        self._wire = wire
        self._server = server
        self._main = main
        self._second: Endpoint | None = None
        self._tries = 0
        self.handle_timeout(now)

    def handle_timeout(self, now: int) -> None:
        if self.deadline is None or now < self.deadline:
            return
        if self._tries == TRIES:
            self.deadline = None
            self.works = None if self._second is None else False
            return
        self._tries += 1
        self.deadline = now + (RETRY if self._tries < TRIES else 2 * RETRY)
        if self._second is None:
            self._wire.send(self, SECOND, self._server, now)
        else:
            self._wire.send(self, MAIN, self._second, now)
            self._wire.send(self, SECOND, self._main, now)

    def handle_answer(self, sent: Sent, answer: Answer, now: int) -> None:
        if self._second is None and answer.mapped is not None and sent.destination == self._server:
            self._second = answer.mapped
            self._tries = 0
            self.deadline = now
            self.handle_timeout(now)

    def handle_arrival(self, sent: Sent) -> None:
        if self.deadline is not None:
            self.works = True
            self.deadline = None

    def handle_unsent(self, sent: Sent, reason: str, now: int) -> None:
        """A try that came to nothing."""


class PathMtu:
    """Finds the largest request that is answered, of sizes `SMALLEST` to `LARGEST`.

    A dozen sizes spread over what is still open go out at once, and twice more those that nobody
    answered; then what lies between two neighbours is open. `result` is None if not even the
    smallest passes. Nothing that a router says counts, only answers (RFC 8899).
    """

    def __init__(self, wire: Wire, target: Endpoint, round_trip: int, now: int) -> None:
        self.target = target
        self.result: int | None = None
        self.deadline: int | None = now
        self._wire = wire
        self._patience = max(RETRY, 3 * round_trip)
        self._too_large = LARGEST + _GRID
        self._sizes: list[int] = []
        self._refused: set[int] = set()
        self._tries = 0
        self._begin(now)

    def handle_timeout(self, now: int) -> None:
        if self.deadline is None or now < self.deadline:
            return
        if self._tries < TRIES:
            self._send(now)
            return
        self._too_large = min((s for s in self._sizes if self._is_open(s)), default=self._too_large)
        self._begin(now)

    def handle_answer(self, sent: Sent, answer: Answer, now: int) -> None:
        if self.deadline is None:
            return
        self.result = max(sent.size, self.result or 0)
        if self.result + _GRID >= self._too_large:
            self.deadline = None

    def handle_arrival(self, sent: Sent) -> None:
        """Nobody sends us our own requests."""

    def handle_unsent(self, sent: Sent, reason: str, now: int) -> None:
        self._refused.add(sent.size)

    def _begin(self, now: int) -> None:
        self._tries = 0
        self._sizes = self._spread()
        if self._sizes:
            self._send(now)
        else:
            self.deadline = None

    def _spread(self) -> list[int]:
        """At most so many sizes, the largest first, of those that may yet be the answer."""
        if self.result is None:
            if self._too_large <= SMALLEST[self.target.family]:
                return []
            lowest = SMALLEST[self.target.family]
        else:
            lowest = self.result + _GRID
        open_ = range(lowest, self._too_large, _GRID)
        if len(open_) <= _SIZES_AT_ONCE:
            return list(reversed(open_))
        step = (len(open_) - 1) / (_SIZES_AT_ONCE - 1)
        return [open_[round(i * step)] for i in reversed(range(_SIZES_AT_ONCE))]

    def _send(self, now: int) -> None:
        self._tries += 1
        self.deadline = now + self._patience
        for size in self._sizes:
            if self._is_open(size) and size not in self._refused:
                self._wire.send(self, MAIN, self.target, now, size)

    def _is_open(self, size: int) -> bool:
        return size > (self.result or 0)
