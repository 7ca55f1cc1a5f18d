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
    ConnectionEvent,
    ConnectionFailed,
    NodeEvent,
    PathChosen,
    StreamEvent,
    StreamKind,
    StreamUnwanted,
    StreamWanted,
)
from firezone.node.local_candidates import MAX_HOST_ADDRESSES
from firezone.node.node import ActivityOf, Node, NoRelaysError
from firezone.node.relays import Relay
from firezone.node.slots import NoSlotError
from firezone.node.transport import ChannelReceivedAt, LostRelay

__all__ = [
    "MAX_HOST_ADDRESSES",
    "ActivityOf",
    "CandidateGathered",
    "CandidateWithdrawn",
    "ChannelReceivedAt",
    "Connection",
    "ConnectionClosed",
    "ConnectionEstablished",
    "ConnectionEvent",
    "ConnectionFailed",
    "ConnectionState",
    "LostConnection",
    "LostRelay",
    "NoRelaysError",
    "NoSlotError",
    "Node",
    "NodeEvent",
    "PathChange",
    "PathChosen",
    "PeerKeys",
    "Relay",
    "StreamEvent",
    "StreamKind",
    "StreamUnwanted",
    "StreamWanted",
]
