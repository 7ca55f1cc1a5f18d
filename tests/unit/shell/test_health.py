"""Where health is told, and what happens when the place is taken."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from firezone.errors import ConfigurationError
from firezone.shell.health import HealthAddress, start_health


@pytest.mark.parametrize("optional", [True, False])
def test_an_address_that_is_taken(optional: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Several programs of one host have the same default: that is nothing to warn of."""
    with socket.socket() as taken, caplog.at_level(logging.INFO, "firezone"):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = HealthAddress(*taken.getsockname(), optional)
        if optional:
            assert asyncio.run(start_health(address, {})) is None
            assert [(r.levelname, r.message) for r in caplog.records] == [
                ("INFO", "no health checks")
            ]
        else:
            with pytest.raises(ConfigurationError, match="HEALTH_CHECK_ADDR"):
                asyncio.run(start_health(address, {}))
