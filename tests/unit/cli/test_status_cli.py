"""`firezone status` where what is asked does not run."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from firezone.cli.status import status
from firezone.shell import status_socket


@pytest.mark.parametrize("has_relay", [True, False])
def test_a_relay_that_runs_here_instead_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_relay: bool
) -> None:
    monkeypatch.setattr(status_socket, "RUNTIME_DIRECTORY", tmp_path)
    if has_relay:
        status_socket.default_path("relay").touch()
    result = CliRunner().invoke(status, [])
    assert isinstance(result.exception, status_socket.NotRunningError)
    told = str(result.exception)
    assert told.startswith("no client or gateway answers at")
    assert told.endswith("a relay runs here: add --relay") is has_relay
