"""The channel to the portal: JSON messages in text frames of a WebSocket, sans-IO."""

from firezone.phoenix.channel import (
    Action,
    Channel,
    Close,
    Closed,
    Connect,
    Connected,
    Event,
    Failed,
    Hiccup,
    Inbound,
    Joined,
    SendText,
)
from firezone.phoenix.login_url import LoginUrl, external_id

__all__ = [
    "Action",
    "Channel",
    "Close",
    "Closed",
    "Connect",
    "Connected",
    "Event",
    "Failed",
    "Hiccup",
    "Inbound",
    "Joined",
    "LoginUrl",
    "SendText",
    "external_id",
]
