"""When a relay is to be reached over a stream instead of UDP (RFC 8656 section 3.1).

    WAITING --no relay answers over UDP for 2.5 s--> OPENING (TCP) --opened--> OPEN
       ▲                                                │ closed                │ closed
       │                                                ▼                       │
       │                                            OPENING (TLS) --closed--> REFUSED
       └────────────────────────── UDP is back, or after a while ◄──────────────┘

A stream is the last resort: it delays data behind lost data, and the other way round a network that
lets TCP pass to one relay only is rare. So one relay that answers over UDP keeps all the others
from opening streams, and a stream is left as soon as its relay gives us an allocation over UDP.
"""

from __future__ import annotations

from enum import Enum, auto

from firezone.durations import MILLISECOND, SECOND
from firezone.model import Timeout
from firezone.node.events import StreamKind

FALLBACK_AFTER = 2_500 * MILLISECOND
UDP_RETRY = 30 * SECOND
"""How often UDP is tried while a stream serves."""
REOPEN_AFTER = 1 * SECOND


class Step(Enum):
    WAITING = auto()
    OPENING = auto()
    OPEN = auto()
    REFUSED = auto()


class Fallback:
    """The stream to one relay: whether it is wanted, and how far it is."""

    def __init__(self, now: int) -> None:
        self.step = Step.WAITING
        self.kind = StreamKind.TCP
        """Of the stream that is open, or is being opened."""
        self._open_at = now + FALLBACK_AFTER

    @property
    def is_in_use(self) -> bool:
        """Whether there is a stream, or one is on its way."""
        return self.step in (Step.OPENING, Step.OPEN)

    @property
    def is_hopeless(self) -> bool:
        """Whether no stream could be opened."""
        return self.step is Step.REFUSED

    def handle_udp_answers(self, now: int) -> None:
        """Some relay can be reached over UDP."""
        if self.step is Step.WAITING:
            self._open_at = now + FALLBACK_AFTER

    def handle_udp_ended(self, now: int) -> None:
        """No relay can be reached over UDP, and there is nothing more to wait for."""
        if self.step is Step.WAITING:
            self._open_at = min(self._open_at, now)

    def wants_stream(self, now: int) -> bool:
        """Whether to open one now, of `kind`."""
        if self.step is not Step.WAITING or now < self._open_at:
            return False
        self.step = Step.OPENING
        self.kind = StreamKind.TCP
        return True

    def handle_opened(self) -> None:
        self.step = Step.OPEN

    def handle_closed(self, now: int) -> bool:
        """It failed, or broke. Whether to open another one now, of `kind`."""
        match self.step, self.kind:
            case Step.OPENING, StreamKind.TCP:
                self.kind = StreamKind.TLS
                return True
            case Step.OPENING, _:
                self.step = Step.REFUSED
            case Step.OPEN, _:
                self.step = Step.WAITING
                self._open_at = now + REOPEN_AFTER
        return False

    def handle_left(self, now: int) -> None:
        """It is not needed any more."""
        self.step = Step.WAITING
        self._open_at = now + FALLBACK_AFTER

    def poll_timeout(self) -> Timeout | None:
        if self.step is not Step.WAITING:
            return None
        return Timeout(self._open_at, "relay fallback")
