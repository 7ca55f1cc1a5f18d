"""When to look for a direct path again, while a relay carries the data.

A pair that failed is checked no more: neither end would ever find out that the network lets it
pass again, as each needs the other's checks to open its own NAT. So the controlling end tries those
that failed again, and signals its candidates once more, at which the peer does the same at the same
time. The gaps double, up to five minutes; a direct path begins them anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from firezone.durations import MINUTE, SECOND
from firezone.model import Timeout

FIRST_GAP = 15 * SECOND
LONGEST_GAP = 5 * MINUTE


@dataclass(slots=True)
class DirectRetry:
    """Of one connection."""

    due_at: int | None = None
    gap: int = FIRST_GAP

    def note_path(self, *, direct: bool, now: int) -> None:
        """What carries the data from now on."""
        if direct:
            self.due_at, self.gap = None, FIRST_GAP
        elif self.due_at is None:
            self.due_at = now + self.gap

    def take_due(self, now: int) -> bool:
        """Whether to try now; the next time is later then."""
        if self.due_at is None or now < self.due_at:
            return False
        self.gap = min(2 * self.gap, LONGEST_GAP)
        self.due_at = now + self.gap
        return True

    def poll_timeout(self) -> Timeout | None:
        return None if self.due_at is None else Timeout(self.due_at, "direct path")
