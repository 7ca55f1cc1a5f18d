"""The connection node: joins ICE, TURN and WireGuard."""

from firezone.node.connection import Connection, ConnectionState, PeerKeys
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
from firezone.node.transport import ChannelReceivedAt

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
    "NoRelaysError",
    "Node",
    "NodeEvent",
    "PathChosen",
    "PeerKeys",
    "Relay",
]
