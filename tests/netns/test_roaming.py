"""A download outlives it when hosts move, sleep, or lose a relay or the portal."""

from __future__ import annotations

import pytest

from firezone.lab.roaming import SCENARIOS, run


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_download_goes_on(name: str) -> None:
    outcome = run(SCENARIOS[name])
    assert SCENARIOS[name].survived(outcome), outcome
