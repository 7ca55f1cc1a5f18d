"""What a node tells its role."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from firezone.ice import Candidate
from firezone.model import Endpoint, RelayId


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
    """The connection is gone, without our doing, at `at` (ns). `in_use`: it has carried data until
    lately."""

    connection: str
    reason: str
    at: int
    in_use: bool


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The connection is gone, by our own doing."""

    connection: str


class StreamKind(Enum):
    """How a relay is reached where UDP is blocked; the value is for people."""

    TCP = "tcp"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class StreamWanted:
    """Open a stream of this kind to the relay, and let it look like a socket of this host: what is
    sent there in datagrams goes over the stream, what comes over the stream comes from there.

    Answer with `Node.handle_stream_opened` or `handle_stream_closed`, in a few seconds. `servers`
    are the relay's addresses for UDP, any of which will do.
    """

    relay: RelayId
    servers: tuple[Endpoint, ...]
    kind: StreamKind


@dataclass(frozen=True, slots=True)
class StreamUnwanted:
    """Close the stream to the relay, if there is one, or give up opening it. Needs no answer."""

    relay: RelayId


StreamEvent = StreamWanted | StreamUnwanted

ConnectionEvent = (
    CandidateGathered
    | CandidateWithdrawn
    | PathChosen
    | ConnectionEstablished
    | ConnectionFailed
    | ConnectionClosed
)

NodeEvent = ConnectionEvent | StreamEvent
