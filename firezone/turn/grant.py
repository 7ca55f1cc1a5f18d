"""What a relay has granted, and until when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from firezone.durations import SECOND
from firezone.model import Timeout

REFRESH_RETRY = 30 * SECOND


@dataclass(frozen=True, slots=True)
class Grant:
    """The allocation as the relay last confirmed it. It is refreshed from `refresh_at` on."""

    expires_at: int
    refresh_at: int

    @classmethod
    def of(cls, lifetime_seconds: int, now: int) -> Grant:
        lifetime = lifetime_seconds * SECOND
        return cls(expires_at=now + lifetime, refresh_at=now + lifetime // 2)

    def postponed(self, now: int) -> Grant:
        """A relay that just refused is not to be asked again and again until it expires."""
        return replace(self, refresh_at=now + REFRESH_RETRY)

    def timeouts(self, *, is_refreshing: bool) -> Iterator[Timeout]:
        yield Timeout(self.expires_at, "allocation expiry")
        if not is_refreshing:
            yield Timeout(self.refresh_at, "allocation refresh")
