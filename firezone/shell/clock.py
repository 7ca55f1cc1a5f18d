"""The two clocks of this machine, in nanoseconds."""

import time


def boottime_ns() -> int:
    """Monotonic time that goes on during suspend: the `now` of every machine.

    Keys must expire in a suspended laptop too, so this is CLOCK_BOOTTIME where there is one.
    """
    return time.clock_gettime_ns(_CLOCK)


def unix_ns() -> int:
    """Wall time since 1970. It may jump; only TAI64N stamps and credentials' expiry use it."""
    return time.time_ns()


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
