"""What a node tells its role."""

from __future__ import annotations

from dataclasses import dataclass

from firezone.ice import Candidate


@dataclass(frozen=True, slots=True)
class CandidateGathered:
    """Tell the peer: we can be reached here."""

    connection: str
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class CandidateWithdrawn:
    """Tell the peer: we can no longer be reached here."""

    connection: str
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class PathChosen:
    """The agents agreed on a pair. `direct` is False if any end of it is a relay."""

    connection: str
    direct: bool
    local: Candidate
    remote: Candidate


@dataclass(frozen=True, slots=True)
class ConnectionEstablished:
    """A path is nominated and a session stands: packets flow. Once per connection."""

    connection: str


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """The connection is gone, without our doing."""

    connection: str
    reason: str


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The connection is gone, by our own doing."""

    connection: str


NodeEvent = (
    CandidateGathered
    | CandidateWithdrawn
    | PathChosen
    | ConnectionEstablished
    | ConnectionFailed
    | ConnectionClosed
)
