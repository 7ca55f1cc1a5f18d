"""The programs find the path that theory expects through pairs of NATs, and data passes."""

from __future__ import annotations

import pytest

from firezone.lab import Nat, Site
from firezone.lab.matrix import SITES, run_cell

# Each kind of NAT at least once on each side, and each reason for a relay.
TELLING = [
    ("none", "symmetric"),
    ("full cone", "restricted cone"),
    ("restricted cone", "symmetric"),
    ("symmetric", "restricted cone"),
    ("shifted cone", "two cones"),
    ("two cones", "full cone"),
    ("port-restricted cone", "shifted cone"),
    ("symmetric", "two cones"),
]
ALL = [(client, gateway) for client in SITES for gateway in SITES]


@pytest.mark.parametrize(("client", "gateway"), TELLING)
def test_a_telling_pair(client: str, gateway: str) -> None:
    _expect(SITES[client], SITES[gateway])


@pytest.mark.slow
@pytest.mark.parametrize(("client", "gateway"), [pair for pair in ALL if pair not in TELLING])
def test_every_other_pair(client: str, gateway: str) -> None:
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
