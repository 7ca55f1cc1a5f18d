"""Relays that did not answer, for when there is no other.

The portal says when a relay comes and goes. When our own network was away for a while it has
nothing to say, and we have given up every relay. So with the last one gone, all that the portal
named and has not taken back are tried again and again.
"""

from __future__ import annotations

from firezone.durations import SECOND
from firezone.model import RelayId, Timeout
from firezone.node.relays import Relay

PAUSE = 1 * SECOND
"""It is short beside the eight seconds in which a relay may answer."""


class SilentRelays:
    """`Transport` says which there are, and when none is left that answers or may."""

    def __init__(self) -> None:
        self._relays: dict[RelayId, Relay] = {}
        self._due_at: int | None = None

    def __contains__(self, relay: RelayId) -> bool:
        return relay in self._relays

    def add(self, relay: Relay) -> None:
        """It was given up."""
        self._relays[relay.id] = relay

    def remove(self, relay: RelayId) -> None:
        """It answers; or it is what the portal says it is, gone, or named anew."""
        self._relays.pop(relay, None)

    def clear(self) -> None:
        """Whatever it was that they did not answer through, it is left."""
        self._relays.clear()
        self._due_at = None

    def wait(self, now: int) -> None:
        """No relay is left."""
        if self._relays and self._due_at is None:
            self._due_at = now + PAUSE

    def hurry(self, now: int) -> None:
        """Something changed: what got no answer may get one now."""
        if self._due_at is not None:
            self._due_at = now

    def take_due(self, now: int) -> list[Relay]:
        """Which to try now. They stay until they answer."""
        if self._due_at is None or now < self._due_at:
            return []
        self._due_at = None
        return [*self._relays.values()]

    def poll_timeout(self) -> Timeout | None:
        return None if self._due_at is None else Timeout(self._due_at, "relays once more")
