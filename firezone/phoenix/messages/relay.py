"""Topic `relay`: the portal says `init`, and the relay says nothing but its join."""

from __future__ import annotations

from dataclasses import dataclass

from firezone.phoenix.messages.common import UnknownEvent

TOPIC = "relay"


@dataclass(frozen=True, slots=True)
class Init:
    """The portal has put us online."""


Message = Init


def decode(event: str, payload: object) -> Message:
    """A message of the portal. Raises UnknownEvent. The payload may hold anything."""
    if event != "init":
        raise UnknownEvent(event)
    return Init()


def join_payload(stamp_secret: str) -> dict[str, str]:
    """What a relay joins with: 64 hex digits, made anew at each start, in memory only."""
    return {"stamp_secret": stamp_secret}
