"""The exit code of the check, which scripts go by."""

from __future__ import annotations

import json

import pytest

from firezone.cli.program import run
from firezone.netcheck import FamilyReport, Mapping, NetcheckReport, PortalReport
from firezone.shell import netcheck

ARGUMENTS = ["netcheck", "--stun", "192.0.2.1", "--json"]


def family(number: int, reachable: bool | None) -> FamilyReport:
    return FamilyReport(number, reachable, None, (), Mapping.UNKNOWN, None, None)


@pytest.mark.parametrize(
    ("four", "six", "portal", "code"),
    [
        (True, None, None, 0),
        (True, False, True, 0),
        (False, True, None, 0),
        (False, False, True, 1),
        (None, None, None, 1),
        (True, True, False, 1),
    ],
)
def test_exit_code(
    four: bool | None,
    six: bool | None,
    portal: bool | None,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = None if portal is None else PortalReport("https://portal/healthz", portal)
    report = NetcheckReport((family(4, four), family(6, six)), (), told)
    monkeypatch.setattr(netcheck, "check_network", lambda *_: report)
    assert run(ARGUMENTS) == code
    assert json.loads(capsys.readouterr().out)["families"][0]["reachable"] is four
