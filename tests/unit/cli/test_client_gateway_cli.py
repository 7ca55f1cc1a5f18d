"""What the options of client and gateway make of their programs."""

from __future__ import annotations

import pytest

from firezone.cli.program import run
from firezone.shell import program
from firezone.shell.program_settings import Settings

ARGUMENTS = ["--api-url", "ws://127.0.0.1:1", "--firezone-id", "me"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    started: list[Settings] = []
    monkeypatch.setattr(program, "run_program", lambda _p, _u, chosen, **_: started.append(chosen))
    return started


@pytest.mark.parametrize("role", ["client", "gateway"])
def test_host_candidates_can_be_switched_off(
    role: str, started: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, variable in ([], "true"), (["--no-host-candidates"], "true"), ([], "false"):
        monkeypatch.setenv("FIREZONE_TOKEN", "token")  # who reads it removes it
        monkeypatch.setenv("FIREZONE_HOST_CANDIDATES", variable)
        assert run([role, *ARGUMENTS, *arguments]) == 0
    assert [settings.host_candidates for settings in started] == [True, False, False]
