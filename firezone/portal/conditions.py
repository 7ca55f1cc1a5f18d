"""The conditions of a policy, and until when they hold.

All conditions of a policy must hold. One that depends on the time holds until the end of the
range it is in; the policy then ends with the earliest such end.

`remote_ip` compares the address that the client connects from. `current_utc_datetime` lists
ranges as `D/ranges/timezone`: D is one of M T W R F S U for Monday to Sunday, ranges are
`HH[:MM[:SS]]-HH[:MM[:SS]]` joined by commas, or `true` for the whole day. Ranges that overlap or
touch count as one, also over midnight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from zoneinfo import ZoneInfo

from firezone.model import IPAddress

DAYS = "MTWRFSU"
_DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class Context:
    """What conditions look at. `unix_now` in seconds."""

    remote_ip: IPAddress
    unix_now: int


@dataclass(frozen=True, slots=True)
class Holds:
    """`until` is Unix seconds, None for no end."""

    until: int | None


@dataclass(frozen=True, slots=True)
class Violated:
    properties: frozenset[str]


@dataclass(frozen=True, slots=True)
class RemoteIp:
    """The client connects from one of these networks, or from none of them."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    inside: bool

    property = "remote_ip"

    def evaluate(self, context: Context) -> Holds | None:
        found = any(context.remote_ip in network for network in self.networks)
        return Holds(None) if found is self.inside else None


@dataclass(frozen=True, slots=True)
class DayRange:
    """On a weekday (0 is Monday) from start to end, in seconds after midnight of that zone."""

    weekday: int
    start: int
    end: int
    zone: ZoneInfo

    def on(self, day: date) -> tuple[int, int]:
        """As Unix seconds on one day; both ends as wall-clock time, also when clocks change."""
        return self._at(day, self.start), self._at(day, self.end)

    def _at(self, day: date, seconds: int) -> int:
        days, rest = divmod(seconds, _DAY)
        clock = time(rest // 3600, rest // 60 % 60, rest % 60)
        local = datetime.combine(day + timedelta(days=days), clock, self.zone)
        return int(local.timestamp())


@dataclass(frozen=True, slots=True)
class CurrentTime:
    """It is one of these times of the week."""

    ranges: tuple[DayRange, ...]

    property = "current_utc_datetime"

    def evaluate(self, context: Context) -> Holds | None:
        until: int | None = None
        for start, end in sorted(self._spans(context.unix_now)):
            if start <= context.unix_now < end or (until is not None and start <= until):
                until = max(until or 0, end)
        return None if until is None else Holds(until)

    def _spans(self, unix_now: int) -> Iterable[tuple[int, int]]:
        """The ranges of the week around now."""
        for entry in self.ranges:
            today = datetime.fromtimestamp(unix_now, entry.zone).date()
            for offset in range(-1, 8):
                day = today + timedelta(days=offset)
                if day.weekday() == entry.weekday:
                    yield entry.on(day)


Condition = RemoteIp | CurrentTime


def evaluate(conditions: Iterable[Condition], context: Context) -> Holds | Violated:
    """Until when all of them hold, or which do not."""
    ends: list[int] = []
    violated: set[str] = set()
    for condition in conditions:
        held = condition.evaluate(context)
        if held is None:
            violated.add(condition.property)
        elif held.until is not None:
            ends.append(held.until)
    if violated:
        return Violated(frozenset(violated))
    return Holds(min(ends, default=None))


def parse(property: str, operator: str, values: Iterable[str]) -> Condition:
    """A condition as a policy states it. Raises ValueError that says what is wrong."""
    match property, operator:
        case "remote_ip", "is_in_cidr" | "is_not_in_cidr":
            networks = tuple(ip_network(value, strict=False) for value in values)
            return RemoteIp(networks, operator == "is_in_cidr")
        case "current_utc_datetime", "is_in_day_of_week_time_ranges":
            return CurrentTime(tuple(entry for value in values for entry in _day_ranges(value)))
    raise ValueError(f"no condition {property!r} with operator {operator!r}")


def _day_ranges(text: str) -> Iterable[DayRange]:
    day, _, rest = text.partition("/")
    ranges, _, zone = rest.partition("/")
    if len(day) != 1 or day not in DAYS:
        raise ValueError(f"{text!r} does not start with a day, one of {' '.join(DAYS)}")
    for start, end in [(0, _DAY)] if ranges == "true" else map(_range, ranges.split(",")):
        yield DayRange(DAYS.index(day), start, end, _zone(zone))


def _range(text: str) -> tuple[int, int]:
    start, _, end = text.partition("-")
    span = _seconds(start), _seconds(end)
    if span[0] >= span[1]:
        raise ValueError(f"{text!r} ends before it starts")
    return span


def _seconds(text: str) -> int:
    parts = text.strip().split(":")
    if not 1 <= len(parts) <= 3 or not all(p.isdecimal() and len(p) <= 2 for p in parts):
        raise ValueError(f"{text!r} is no time of the form HH[:MM[:SS]]")
    hours, minutes, seconds = [int(part) for part in parts] + [0] * (3 - len(parts))
    total = hours * 3600 + minutes * 60 + seconds
    if minutes > 59 or seconds > 59 or total > _DAY:
        raise ValueError(f"{text!r} is no time of day")
    return total


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone") from None
