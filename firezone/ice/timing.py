"""How often a pair is checked, and when it is given up.

The delay before the next check doubles from `initial` to `maximum`; a working pair is checked every
`maximum`. A pair fails when its last `tries` checks are all unanswered and one more delay passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firezone.durations import MILLISECOND, SECOND


@dataclass(frozen=True, slots=True)
class StunTiming:
    """Retransmission of connectivity checks (RFC 8445 section 14.3, with an upper bound)."""

    initial: int
    maximum: int
    tries: int

    DEFAULT: ClassVar[StunTiming]
    """While traffic flows, at a Client: an outage is noticed within 16.5 s."""
    IDLE: ClassVar[StunTiming]
    """Without traffic, at a Client: enough to keep NAT mappings, 100 s to notice an outage."""
    GATEWAY: ClassVar[StunTiming]
    """While traffic flows, at a Gateway: it leaves it to the Client to notice an outage, as only
    that can ask for another connection."""
    GATEWAY_IDLE: ClassVar[StunTiming]
    """Without traffic, at a Gateway."""

    def delay(self, count: int) -> int:
        """The wait after the `count`-th check in a row; nanoseconds, 0 before the first."""
        if count <= 0:
            return 0
        # The shift is bounded so that a large count costs no big integer.
        return min(self.initial << min(count - 1, 32), self.maximum)

    def timeout(self) -> int:
        """How long after its first unanswered check a pair that worked fails; nanoseconds."""
        return self.maximum + sum(self.delay(n) for n in range(2, self.tries + 1))


StunTiming.DEFAULT = StunTiming(250 * MILLISECOND, 1_500 * MILLISECOND, 12)
StunTiming.IDLE = StunTiming(25 * SECOND, 25 * SECOND, 4)
StunTiming.GATEWAY = StunTiming(250 * MILLISECOND, 15 * SECOND, 45)
StunTiming.GATEWAY_IDLE = StunTiming(25 * SECOND, 25 * SECOND, 40)
