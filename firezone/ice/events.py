"""What an agent says: its state, what to send, what to send on, what it knows of its pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from firezone.ice.candidate import Candidate
from firezone.ice.pair import CheckState, Tally
from firezone.model import Endpoint


class IceState(Enum):
    """NEW: not started. CHECKING: no pair yet. CONNECTED: a pair is nominated, others may still
    replace it. COMPLETED: it is the only one left. DISCONNECTED: no pair can work any more, unless
    a candidate comes."""

    NEW = auto()
    CHECKING = auto()
    CONNECTED = auto()
    COMPLETED = auto()
    DISCONNECTED = auto()


@dataclass(frozen=True, slots=True)
class IceTransmit:
    """A STUN message to send from a base: a host address, or our address on a relay."""

    local: Endpoint
    destination: Endpoint
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Nominated:
    """The pair to send on from now on."""

    local: Candidate
    remote: Candidate

    @property
    def is_direct(self) -> bool:
        """Whether no end is a relay."""
        return self.local.is_direct and self.remote.is_direct


@dataclass(frozen=True, slots=True)
class StateChanged:
    state: IceState


@dataclass(frozen=True, slots=True)
class PathInDoubt:
    """Several checks of the nominated pair in a row got no answer in time. Whoever knows of another
    way to the peer had better prepare it, whatever comes of this one."""


@dataclass(frozen=True, slots=True)
class PathSilent:
    """The nominated pair was doubted and no pair has answered: what they share may be gone."""


@dataclass(frozen=True, slots=True)
class PathLeft:
    """The nominated pair was doubted and did not answer, but others did. One of them is used, and
    what only the silent ones share may be gone."""


AgentEvent = Nominated | StateChanged | PathInDoubt | PathSilent | PathLeft


@dataclass(frozen=True, slots=True)
class PairReport:
    """What is known of one pair. `round_trip` is smoothed nanoseconds, None before an answer."""

    local: Candidate
    remote: Candidate
    state: CheckState
    priority: int
    round_trip: int | None
    nominated: bool
    tally: Tally
    distrusted: bool = False
    """It fell silent under traffic, and is passed over for a while; see `doubt.py`."""
