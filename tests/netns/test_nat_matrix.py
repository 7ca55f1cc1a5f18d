"""The programs find the path that theory expects through pairs of NATs, and data passes.

All pairs are for `make nat-matrix`, which fails as well if one of them differs.
"""

from __future__ import annotations

import pytest

from firezone.lab import Nat, Site
from firezone.lab.matrix import SITES, run_cell

# Each kind of NAT at least once on each side, and each reason for a relay.
TELLING = [
    ("none", "symmetric"),
    ("full cone", "restricted cone"),
    ("shifted restricted cone", "symmetric"),
    ("symmetric", "shifted full cone"),
    ("shifted cone", "two cones"),
    ("two cones", "shifted restricted cone"),
    ("open symmetric", "port-restricted cone"),
    ("port-restricted cone", "address-symmetric"),
    ("restricted symmetric", "restricted cone"),
    ("symmetric", "restricted symmetric"),
    ("address-symmetric", "open symmetric"),
    ("MTU 1280", "shifted cone"),
]


# Each kind with two others on each side.
SPREAD = [
    (client, list(SITES)[(number + step) % len(SITES)])
    for step in (5, 12)
    for number, client in enumerate(SITES)
]
OTHERS = [pair for pair in SPREAD if pair not in TELLING]


@pytest.mark.parametrize(("client", "gateway"), TELLING)
def test_a_telling_pair(client: str, gateway: str) -> None:
    _expect(SITES[client], SITES[gateway])


@pytest.mark.slow
@pytest.mark.parametrize(("client", "gateway"), OTHERS)
def test_a_pair_of_many(client: str, gateway: str) -> None:
    _expect(SITES[client], SITES[gateway])


def test_a_path_mtu_below_ours_is_found_out() -> None:
    _expect(Site(path_mtu=1280), Site())


def test_a_hole_above_our_largest_datagram_does_no_harm() -> None:
    _expect(Site(mtu_hole=1400), Site())


def test_a_relayed_path_with_a_small_mtu() -> None:
    _expect(Site(Nat.SYMMETRIC, path_mtu=1280), Site(Nat.SYMMETRIC))


def _expect(client: Site, gateway: Site) -> None:
    cell = run_cell(client, gateway)
    assert cell.path == cell.expected, cell
    assert cell.ok, cell
