"""WireGuard's control messages: handshake, cookies, timers. Transport data is the kernels'."""

from firezone.noise.cookie import Accepted, CookieReply, RateLimiter, Rejected, Verdict
from firezone.noise.errors import NoiseError, Reason
from firezone.noise.handshake import OpenedInitiation, open_initiation
from firezone.noise.index import TunnelIds, tunnel_id_of
from firezone.noise.keys import StaticKeypair
from firezone.noise.messages import MessageType, message_type, receiver_index
from firezone.noise.timers import Timer
from firezone.noise.tunnel import (
    Expired,
    SessionEstablished,
    SessionReport,
    Tunnel,
    TunnelCommand,
    TunnelEvent,
)

__all__ = [
    "Accepted",
    "CookieReply",
    "Expired",
    "MessageType",
    "NoiseError",
    "OpenedInitiation",
    "RateLimiter",
    "Reason",
    "Rejected",
    "SessionEstablished",
    "SessionReport",
    "StaticKeypair",
    "Timer",
    "Tunnel",
    "TunnelCommand",
    "TunnelEvent",
    "TunnelIds",
    "Verdict",
    "message_type",
    "open_initiation",
    "receiver_index",
    "tunnel_id_of",
]
