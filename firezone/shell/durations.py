"""Durations as people write them: `90s`, `15min`, `1h 30m`."""

from __future__ import annotations

import re

from firezone.durations import DAY, HOUR, MILLISECOND, MINUTE, SECOND
from firezone.errors import ConfigurationError

_UNITS = {
    "ms": MILLISECOND,
    "s": SECOND,
    "sec": SECOND,
    "m": MINUTE,
    "min": MINUTE,
    "h": HOUR,
    "d": DAY,
}
_PART = re.compile(r"\s*(\d+)\s*([a-z]+)")


def parse_duration(text: str, setting: str, source: str) -> int:
    """Nanoseconds. Raises ConfigurationError, which names the setting and where it came from."""
    total, at = 0, 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None or part[2] not in _UNITS:
            raise ConfigurationError(
                setting, source, f"{text!r} is no duration", "write it like 90s, 15min or 1h 30m"
            )
        total += int(part[1]) * _UNITS[part[2]]
        at = part.end()
    return total
