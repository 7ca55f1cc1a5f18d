"""A download outlives it when hosts move, sleep, or lose a relay or the portal."""

from __future__ import annotations

import pytest

from firezone.lab.roaming import SCENARIOS, run

# Each way to notice a change. All scenarios are for `make roaming`.
TELLING = [
    "client gets another address",
    "client gets another address, relayed",
    "client loses IPv6",
    "gateway loses IPv6",
    "gateway gets another address",
    "client sleeps",
    "relay in use dies",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", TELLING)
def test_a_download_goes_on(name: str) -> None:
    outcome = run(SCENARIOS[name])
    assert SCENARIOS[name].survived(outcome), outcome
