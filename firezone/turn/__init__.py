"""TURN (RFC 8656): the client's allocation and the relay."""

from firezone.turn.allocation import Allocation
from firezone.turn.channel_data import (
    ChannelData,
    ChannelDataError,
    decode_channel_data,
    encode_channel_data,
    looks_like_channel_data,
)
from firezone.turn.events import (
    NO_RESPONSE,
    AllocationEvent,
    AllocationState,
    CandidateAdded,
    CandidateInvalidated,
    Channel,
    ChannelConfirmed,
    ChannelLost,
    Credentials,
    Decapsulated,
    RelayServer,
)

__all__ = [
    "NO_RESPONSE",
    "Allocation",
    "AllocationEvent",
    "AllocationState",
    "CandidateAdded",
    "CandidateInvalidated",
    "Channel",
    "ChannelConfirmed",
    "ChannelData",
    "ChannelDataError",
    "ChannelLost",
    "Credentials",
    "Decapsulated",
    "RelayServer",
    "decode_channel_data",
    "encode_channel_data",
    "looks_like_channel_data",
]
