"""The connection node: joins ICE, TURN and WireGuard."""

from firezone.node.connection import (
    Connection,
    ConnectionState,
    LostConnection,
    PathChange,
    PeerKeys,
)
from firezone.node.events import (
    CandidateGathered,
    CandidateWithdrawn,
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionFailed,
    NodeEvent,
    PathChosen,
)
from firezone.node.node import ActivityOf, Node, NoRelaysError
from firezone.node.relays import Relay
from firezone.node.transport import ChannelReceivedAt, LostRelay

__all__ = [
    "ActivityOf",
    "CandidateGathered",
    "CandidateWithdrawn",
    "ChannelReceivedAt",
    "Connection",
    "ConnectionClosed",
    "ConnectionEstablished",
    "ConnectionFailed",
    "ConnectionState",
    "LostConnection",
    "LostRelay",
    "NoRelaysError",
    "Node",
    "NodeEvent",
    "PathChange",
    "PathChosen",
    "PeerKeys",
    "Relay",
]
