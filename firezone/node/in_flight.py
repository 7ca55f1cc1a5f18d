"""Which connection a STUN response belongs to, found without asking every agent."""

from __future__ import annotations

from firezone.durations import SECOND

LIFETIME = 30 * SECOND
"""Longer than the slowest check waits for its answer."""

_REQUEST = b"\x00\x01"


class InFlight:
    """Transaction ids of checks under way, the oldest first."""

    def __init__(self) -> None:
        self._owners: dict[bytes, tuple[str, int]] = {}

    def note(self, message: bytes, connection: str, now: int) -> None:
        """Remember a check that is being sent; responses are not checks and are passed over."""
        self._forget(now)
        if message[:2] == _REQUEST:
            self._owners[message[8:20]] = (connection, now)

    def owner(self, transaction_id: bytes) -> str | None:
        owner = self._owners.get(transaction_id)
        return owner[0] if owner else None

    def _forget(self, now: int) -> None:
        while self._owners:
            oldest = next(iter(self._owners))
            if now - self._owners[oldest][1] < LIFETIME:
                return
            del self._owners[oldest]
