"""ICE (RFC 8445): finds the paths between two agents, and the best one that works."""

from firezone.ice.agent import Agent
from firezone.ice.candidate import Candidate, CandidateKind, is_usable
from firezone.ice.events import (
    IceState,
    IceTransmit,
    Nominated,
    PairReport,
    PathInDoubt,
    PathLeft,
    PathSilent,
    StateChanged,
)
from firezone.ice.pair import CheckState, Tally
from firezone.ice.timing import StunTiming

__all__ = [
    "Agent",
    "Candidate",
    "CandidateKind",
    "CheckState",
    "IceState",
    "IceTransmit",
    "Nominated",
    "PairReport",
    "PathInDoubt",
    "PathLeft",
    "PathSilent",
    "StateChanged",
    "StunTiming",
    "Tally",
    "is_usable",
]
