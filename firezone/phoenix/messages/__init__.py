"""What the roles say on their topics: `client`, `gateway`, `relay`, and what these share."""

from firezone.phoenix.messages.common import (
    MalformedMessage,
    Outgoing,
    Relay,
    RelaysPresence,
    UnknownEvent,
)

__all__ = [
    "MalformedMessage",
    "Outgoing",
    "Relay",
    "RelaysPresence",
    "UnknownEvent",
]
