"""When a host has moved, and when it only got or lost an address."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from firezone.shell.network_watch import Sources, has_moved

WIFI, CABLE = 2, 3
HOME, OTHER = ip_address("192.168.1.2"), ip_address("192.168.1.3")
OLD6, NEW6 = ip_address("2001:db8:1::a"), ip_address("2001:db8:1::b")
AT_HOME: Sources = {4: (WIFI, HOME)}
BOTH: Sources = {4: (WIFI, HOME), 6: (WIFI, OLD6)}


@pytest.mark.parametrize(
    ("before", "after", "gone", "moved"),
    [
        (AT_HOME, AT_HOME, set(), False),
        (AT_HOME, {4: (WIFI, OTHER)}, {HOME}, True),
        (AT_HOME, {4: (CABLE, OTHER)}, set(), True),
        (AT_HOME, BOTH, set(), False),
        (BOTH, AT_HOME, {OLD6}, True),
        (BOTH, {4: (WIFI, HOME), 6: (WIFI, NEW6)}, set(), False),
        (BOTH, {4: (WIFI, HOME), 6: (WIFI, NEW6)}, {OLD6}, True),
        ({}, AT_HOME, set(), True),
    ],
)
def test_moves(before: Sources, after: Sources, gone: set[object], moved: bool) -> None:
    owners = {address: index for each in (before, after) for index, address in each.values()}
    left = {address: index for address, index in owners.items() if address not in gone}
    assert has_moved(before, after, left) is moved
