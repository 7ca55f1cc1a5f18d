"""What an operator needs to see of a running client or gateway, as values."""

from firezone.explain.access import RelayAccess, relay_access
from firezone.explain.pairs import verdict
from firezone.explain.peer import UnknownPeerError, explain
from firezone.explain.status import MAX_CONNECTIONS, Surroundings, status
from firezone.explain.values import (
    CandidateStatus,
    ConnectionStatus,
    Explanation,
    FlowTableStatus,
    LostRelayStatus,
    LostStatus,
    PairStatus,
    PathStatus,
    PortalStatus,
    RelayStatus,
    SessionStatus,
    Status,
)

__all__ = [
    "MAX_CONNECTIONS",
    "CandidateStatus",
    "ConnectionStatus",
    "Explanation",
    "FlowTableStatus",
    "LostRelayStatus",
    "LostStatus",
    "PairStatus",
    "PathStatus",
    "PortalStatus",
    "RelayAccess",
    "RelayStatus",
    "SessionStatus",
    "Status",
    "Surroundings",
    "UnknownPeerError",
    "explain",
    "relay_access",
    "status",
    "verdict",
]
