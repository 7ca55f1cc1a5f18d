"""What the demo says, and which path it expects."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from firezone.cli import demo as module
from firezone.lab import Nat, Site, topology

V4, V6 = frozenset({4}), frozenset({6})


@pytest.mark.parametrize(
    ("client", "gateway", "path"),
    [
        (Site(Nat.CONE), Site(Nat.CONE), "direct"),
        (Site(Nat.NONE), Site(Nat.SYMMETRIC), "direct"),
        (Site(Nat.CONE), Site(Nat.SYMMETRIC), "relayed"),
        (Site(Nat.SYMMETRIC), Site(Nat.SYMMETRIC), "relayed"),
        (Site(Nat.NONE, V4), Site(Nat.NONE, V6), "relayed"),
        (Site(Nat.CONE, V6), Site(Nat.CONE), "direct"),
    ],
)
def test_the_path_to_expect(client: Site, gateway: Site, path: str) -> None:
    assert module._best_path(topology.plan(client, gateway, 1)) == path


@pytest.mark.parametrize("detail", ["", "short", "long " * 40])
@pytest.mark.parametrize("duration", ["", "12 ms"])
def test_lines_fit_a_terminal(
    capsys: pytest.CaptureFixture[str], detail: str, duration: str
) -> None:
    module._line("label", detail, duration)
    line = capsys.readouterr().out.rstrip("\n")
    assert len(line) <= 80
    assert line.startswith("  label")
    assert line.endswith(duration)


def test_sites_without_udp_are_a_wrong_argument() -> None:
    result = CliRunner().invoke(module.demo, ["--client-nat", "udp-blocked"])
    assert result.exit_code == 2
    assert "UDP" in result.output
