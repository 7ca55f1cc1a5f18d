"""What the options of client and gateway make of their programs."""

from __future__ import annotations

import pytest

from firezone.cli.program import run
from firezone.shell import program
from firezone.shell.program import Profile

ARGUMENTS = ["--api-url", "ws://127.0.0.1:1", "--firezone-id", "me"]


@pytest.fixture
def profiles(monkeypatch: pytest.MonkeyPatch) -> list[Profile]:
    started: list[Profile] = []
    monkeypatch.setattr(program, "run_program", lambda profile, *_, **__: started.append(profile))
    return started


@pytest.mark.parametrize("role", ["client", "gateway"])
def test_host_candidates_can_be_switched_off(
    role: str, profiles: list[Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, variable in ([], "true"), (["--no-host-candidates"], "true"), ([], "false"):
        monkeypatch.setenv("FIREZONE_TOKEN", "token")  # who reads it removes it
        monkeypatch.setenv("FIREZONE_HOST_CANDIDATES", variable)
        assert run([role, *ARGUMENTS, *arguments]) == 0
    assert [profile.host_candidates for profile in profiles] == [True, False, False]
