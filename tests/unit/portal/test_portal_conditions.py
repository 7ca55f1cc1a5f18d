from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from firezone.portal.conditions import Condition, Context, Holds, Violated, evaluate, parse

# A Monday.
NOON = int(datetime(2026, 1, 5, 12, tzinfo=UTC).timestamp())
HOUR, DAY = 3600, 86400


def at(unix_now: int, ip: str = "192.0.2.7") -> Context:
    return Context(ip_address(ip), unix_now)


def times(*values: str) -> Condition:
    return parse("current_utc_datetime", "is_in_day_of_week_time_ranges", values)


@pytest.mark.parametrize(
    ("operator", "ip", "holds"),
    [
        ("is_in_cidr", "192.0.2.7", True),
        ("is_in_cidr", "198.51.100.1", False),
        ("is_in_cidr", "2001:db8::1", True),
        ("is_not_in_cidr", "192.0.2.7", False),
        ("is_not_in_cidr", "198.51.100.1", True),
    ],
)
def test_remote_ip(operator: str, ip: str, holds: bool) -> None:
    condition = parse("remote_ip", operator, ["192.0.2.0/24", "2001:db8::/32"])
    expected = Holds(None) if holds else Violated(frozenset({"remote_ip"}))
    assert evaluate([condition], at(NOON, ip)) == expected


@pytest.mark.parametrize(
    ("values", "until"),
    [
        (["M/08:00-17:00/UTC"], NOON + 5 * HOUR),
        (["M/8-12/UTC"], None),
        (["M/12-12:00:01/UTC"], NOON + 1),
        (["M/08:00-13:00,13:00-14:00/UTC"], NOON + 2 * HOUR),
        (["M/11:00-14:00,13:00-15:30/UTC"], NOON + 3 * HOUR + HOUR // 2),
        (["M/08:00-13:00,14:00-15:00/UTC"], NOON + HOUR),
        (["M/true/UTC"], NOON + 12 * HOUR),
        (["M/true/UTC", "T/00:00-03:00/UTC"], NOON + 15 * HOUR),
        (["T/true/UTC"], None),
        (["M/13:00-14:00/Europe/Berlin"], NOON + HOUR),
        (["M/12:00-13:00/Europe/Berlin"], None),
        (["T/01:00-02:00/Pacific/Auckland"], NOON + HOUR),
    ],
)
def test_times_of_the_week(values: list[str], until: int | None) -> None:
    condition = times(*values)
    expected = Violated(frozenset({"current_utc_datetime"})) if until is None else Holds(until)
    assert evaluate([condition], at(NOON)) == expected


def test_wall_clock_hours_hold_when_clocks_change() -> None:
    """On 2026-03-29 Berlin goes from 02:00 to 03:00."""
    midnight = int(datetime(2026, 3, 28, 23, tzinfo=UTC).timestamp())
    condition = times("U/00:00-04:00/Europe/Berlin")
    assert evaluate([condition], at(midnight)) == Holds(midnight + 3 * HOUR)


def test_all_conditions_must_hold_and_the_earliest_end_counts() -> None:
    early, late = times("M/08:00-13:00/UTC"), times("M/08:00-17:00/UTC")
    away = parse("remote_ip", "is_not_in_cidr", ["192.0.2.0/24"])
    assert evaluate([late, early], at(NOON)) == Holds(NOON + HOUR)
    assert evaluate([late, away], at(NOON)) == Violated(frozenset({"remote_ip"}))
    assert evaluate([late, away], at(NOON + DAY)) == Violated(
        frozenset({"remote_ip", "current_utc_datetime"})
    )
    assert evaluate([], at(NOON)) == Holds(None)


@pytest.mark.parametrize(
    ("property", "operator", "value"),
    [
        ("remote_ip", "is_in", "192.0.2.0/24"),
        ("moon_phase", "is_in", "full"),
        ("remote_ip", "is_in_cidr", "192.0.2.0/33"),
        *(
            ("current_utc_datetime", "is_in_day_of_week_time_ranges", value)
            for value in (
                "",
                "X/true/UTC",
                "M/true/Mars/Base",
                "M/true/../etc/passwd",
                "M/17-8/UTC",
                "M/8/UTC",
                "M/8:60-9/UTC",
                "M/25-26/UTC",
                "M/-/UTC",
                "MT/true/UTC",
            )
        ),
    ],
)
def test_a_wrong_condition_is_refused(property: str, operator: str, value: str) -> None:
    with pytest.raises(ValueError):
        parse(property, operator, [value])
