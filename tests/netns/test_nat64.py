"""One site has IPv6 alone and a NAT64; portal, relay and the other site have IPv4 alone."""

from __future__ import annotations

import pytest

from firezone.lab import Nat, Site
from firezone.lab.matrix import between, use
from firezone.lab.paths import DIRECT, RELAYED, expected_path

V4, V6 = frozenset({4}), frozenset({6})


def behind_nat64(nat: Nat) -> Site:
    return Site(nat, V6, nat64=True)


CASES = [
    (behind_nat64(Nat.SYMMETRIC), Site(Nat.CONE, V4), RELAYED),
    (behind_nat64(Nat.CONE), Site(Nat.SHIFTED_CONE, V4), DIRECT),
    (Site(Nat.SYMMETRIC, V4), behind_nat64(Nat.RESTRICTED_CONE), DIRECT),
]


@pytest.mark.parametrize(("client", "gateway", "path"), CASES)
def test_the_path(client: Site, gateway: Site, path: str) -> None:
    assert expected_path(client, gateway) == path
    cell = use(between(client, gateway))
    assert cell.path == path, cell
    assert cell.ok, cell
