"""Theory of hole punching, case by case."""

from __future__ import annotations

import pytest

from firezone.lab import Lab, LabError, Nat, Site, topology
from firezone.lab.paths import DIRECT, RELAYED, expected_path, path_of

V4, V6 = frozenset({4}), frozenset({6})
CARRIED = Site(Nat.CONE, carrier=Nat.CONE)
CASES = [
    (Site(Nat.CONE), Site(Nat.CONE), DIRECT),
    (Site(Nat.SHIFTED_CONE), Site(Nat.CONE), DIRECT),
    (Site(Nat.NONE), Site(Nat.SYMMETRIC), DIRECT),
    (Site(Nat.SYMMETRIC), Site(Nat.FULL_CONE), DIRECT),
    (Site(Nat.RESTRICTED_CONE), Site(Nat.SYMMETRIC), DIRECT),
    (Site(Nat.SYMMETRIC), Site(Nat.CONE), RELAYED),
    (Site(Nat.SYMMETRIC), Site(Nat.SHIFTED_CONE), RELAYED),
    (Site(Nat.SYMMETRIC), Site(Nat.SYMMETRIC), RELAYED),
    (Site(Nat.SHIFTED_RESTRICTED_CONE), Site(Nat.SYMMETRIC), DIRECT),
    (Site(Nat.ADDRESS_SYMMETRIC), Site(Nat.CONE), RELAYED),
    (Site(Nat.ADDRESS_SYMMETRIC), Site(Nat.RESTRICTED_CONE), DIRECT),
    (Site(Nat.OPEN_SYMMETRIC), Site(Nat.SYMMETRIC), DIRECT),
    (Site(Nat.RESTRICTED_SYMMETRIC), Site(Nat.SYMMETRIC), RELAYED),
    (Site(Nat.RESTRICTED_SYMMETRIC), Site(Nat.CONE), RELAYED),
    (CARRIED, Site(Nat.CONE), DIRECT),
    (Site(Nat.CONE, carrier=Nat.OPEN_SYMMETRIC), Site(Nat.CONE), DIRECT),
    (Site(Nat.OPEN_SYMMETRIC, carrier=Nat.FULL_CONE), Site(Nat.SYMMETRIC), DIRECT),
    (CARRIED, Site(Nat.SYMMETRIC), RELAYED),
    (Site(Nat.FULL_CONE, carrier=Nat.CONE), Site(Nat.SYMMETRIC), RELAYED),
    (Site(Nat.CONE, carrier=Nat.SYMMETRIC), Site(Nat.CONE), RELAYED),
    (Site(Nat.UDP_BLOCKED), Site(Nat.NONE), RELAYED),
    (Site(Nat.NONE, V4), Site(Nat.NONE, V6), RELAYED),
    (Site(Nat.CONE, V6), Site(Nat.CONE), DIRECT),
    (Site(Nat.CONE, V6, nat64=True), Site(Nat.CONE, V4), DIRECT),
    (Site(Nat.CONE, V6, nat64=True), Site(Nat.SYMMETRIC, V4), RELAYED),
]


@pytest.mark.parametrize(("client", "gateway", "path"), CASES)
def test_the_path_to_expect(client: Site, gateway: Site, path: str) -> None:
    assert expected_path(client, gateway) == expected_path(gateway, client) == path


SHARED = [
    (Site(), RELAYED),
    (Site(hairpin=True), DIRECT),
    (Site(hairpin=True, carrier=Nat.CONE), RELAYED),
    (Site(Nat.FULL_CONE), RELAYED),
    (Site(Nat.NONE), DIRECT),
    (Site(Nat.UDP_BLOCKED), RELAYED),
]


@pytest.mark.parametrize(("site", "path"), SHARED)
def test_the_path_behind_one_nat(site: Site, path: str) -> None:
    assert path_of(topology.shared_plan(site, relays=1)) == path


@pytest.mark.parametrize(
    ("nat", "carrier", "hairpin"),
    [
        (Nat.NONE, Nat.CONE, False),
        (Nat.CONE, Nat.NONE, False),
        (Nat.SYMMETRIC, None, True),
    ],
)
def test_sites_that_cannot_be(nat: Nat, carrier: Nat | None, hairpin: bool) -> None:
    with pytest.raises(LabError):
        Site(nat, carrier=carrier, hairpin=hairpin)


@pytest.mark.parametrize(("nat", "families"), [(Nat.CONE, V4), (Nat.CONE, V4 | V6), (Nat.NONE, V6)])
def test_a_nat64_is_for_ipv6_alone_and_is_a_nat(nat: Nat, families: frozenset[int]) -> None:
    with pytest.raises(LabError):
        Site(nat, families, nat64=True)


def test_a_shared_nat_is_one_site() -> None:
    with pytest.raises(LabError):
        Lab(client=Site(), gateway=Site(), shared_nat=True)
