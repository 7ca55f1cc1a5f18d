"""Client and gateway in two networks behind one NAT."""

from __future__ import annotations

import pytest

from firezone.lab import Nat, Site
from firezone.lab.matrix import behind_one_nat, use
from firezone.lab.paths import DIRECT, RELAYED

CASES = [(Site(), RELAYED), (Site(Nat.SHIFTED_CONE, hairpin=True), DIRECT)]


@pytest.mark.parametrize(("site", "path"), CASES)
def test_the_path(site: Site, path: str) -> None:
    cell = use(behind_one_nat(site))
    assert cell.path == cell.expected == path, cell
    assert cell.ok, cell
