"""The reports: plain values that stand in JSON as they stand here.

Times are seconds before the report (`…_ago`, `age`) or after it (`…_in`), as the clock of the
machines means nothing outside. Addresses are text. No value holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from firezone.commands import WorkerStatus
from firezone.durations import MILLISECOND, SECOND


@dataclass(frozen=True, slots=True)
class PortalStatus:
    """The link to the portal. `error` is why it was lost last; None before that."""

    url: str
    connected: bool
    since_seconds: float
    """How long it has been so."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """One relay and our allocation on it."""

    id: str
    addresses: tuple[str, ...]
    transport: str
    """`udp`, or `tcp` or `tls` where UDP is blocked."""
    state: str
    active_address: str | None
    """The address that we talk to over UDP."""
    expires_in_seconds: float | None
    channels: int
    mapped: tuple[str, ...]
    """As whom the relay sees us."""
    relayed: tuple[str, ...]
    """Our addresses on the relay."""
    round_trip_ms: float | None = None
    """Smoothed; new connections take a relay that is near."""


@dataclass(frozen=True, slots=True)
class LostRelayStatus:
    """A relay that we gave up."""

    id: str
    addresses: tuple[str, ...]
    reason: str
    ago_seconds: float


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """One WireGuard session. `sending`: it is the one that we send under."""

    local_index: int
    initiator: bool
    age_seconds: float
    expires_in_seconds: float
    sending: bool


@dataclass(frozen=True, slots=True)
class PathStatus:
    """A path and for how long it has been, or was, the chosen one."""

    kind: str
    """`direct` or `relayed`."""
    local: str
    remote: str
    chosen_ago_seconds: float
    preliminary: bool = False
    """In use since the handshake, until ICE has chosen."""


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """One connection to a peer."""

    peer: str
    state: str
    addresses: tuple[str, ...]
    """The peer's in the tunnel."""
    resources: tuple[str, ...]
    path: PathStatus | None
    relay: str
    age_seconds: float
    established_ago_seconds: float | None
    """None while packets do not flow yet."""
    received_bytes: int
    sent_bytes: int
    received_ago_seconds: float | None
    sent_ago_seconds: float | None
    sessions: tuple[SessionStatus, ...]
    handshake_for_seconds: float | None
    """How long the handshake in progress has taken so far."""
    handshake_ago_seconds: float | None
    """When the last one completed."""
    waiting_packets: int
    unanswered_checks: int = 0
    """Of ICE in a row, on the pair in use."""


@dataclass(frozen=True, slots=True)
class LostStatus:
    """A connection that is gone."""

    peer: str
    reason: str
    ago_seconds: float
    lasted_seconds: float
    established: bool


@dataclass(frozen=True, slots=True)
class FlowTableStatus:
    entries: int
    capacity: int
    """Of each direction."""


@dataclass(frozen=True, slots=True)
class Status:
    """The whole program. Of many connections only some are listed, the last active first."""

    role: str
    interface: str
    uptime_seconds: float
    public_key: str
    portal: PortalStatus
    connection_count: int
    connections: tuple[ConnectionStatus, ...]
    lost: tuple[LostStatus, ...]
    relays: tuple[RelayStatus, ...]
    lost_relays: tuple[LostRelayStatus, ...]
    flows: FlowTableStatus
    traffic: Mapping[str, int]
    """Packets and bytes of the TUN device and of the sockets, and the system calls for them."""
    drops: Mapping[str, int]
    """What was dropped or went wrong: `part: reason`, the most frequent first."""
    offloads: tuple[str, ...] = ()
    """What the kernel does for many packets at once."""
    workers: tuple[WorkerStatus, ...] = ()
    """The pairs of threads that carry packets."""
    nat64: str | None = None
    """The prefix by which IPv4 is reached; None where there is IPv4, or no way to it."""
    preliminary_paths: int = 0
    """How often data did not have to wait for ICE."""


@dataclass(frozen=True, slots=True)
class CandidateStatus:
    """One address of ours or of the peer's. `note` tells why it leads nowhere, if so."""

    side: str
    """`local` or `remote`."""
    kind: str
    address: str
    base: str | None
    """What we send from to use it, where that is another address."""
    priority: int
    note: str


@dataclass(frozen=True, slots=True)
class PairStatus:
    """One candidate pair and what came of its checks."""

    local: str
    remote: str
    state: str
    priority: int
    sent: int
    answered: int
    round_trip_ms: float | None
    nominated: bool
    verdict: str
    """Why it is the one in use or why it is not."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is known of one peer. `connection` is None if there is only the past."""

    peer: str
    kind: str
    """`gateway` or `client`."""
    connection: ConnectionStatus | None
    ice_state: str | None
    controlling: bool
    """Whether our side chooses among the pairs."""
    candidates: tuple[CandidateStatus, ...]
    pairs: tuple[PairStatus, ...]
    paths: tuple[PathStatus, ...]
    """The newest last; `chosen_ago_seconds` is when each took over."""
    relays: tuple[RelayStatus, ...]
    lost: tuple[LostStatus, ...]


def seconds(duration: int) -> float:
    return round(duration / SECOND, 3)


def seconds_or_none(duration: int | None) -> float | None:
    return None if duration is None else seconds(duration)


def ago(time: int | None, now: int) -> float | None:
    """For times of which 0 or None is never."""
    return seconds(now - time) if time else None


def milliseconds_or_none(duration: int | None) -> float | None:
    return None if duration is None else round(duration / MILLISECOND, 3)
