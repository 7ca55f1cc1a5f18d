"""`--check` reads the whole configuration of a program, and starts nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from firezone.cli import client, gateway
from firezone.cli.program import run

RELAY = ["relay", "--check", "--public-ip4-addr", "192.0.2.1", "--api-url", "ws://portal"]


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FIREZONE_TOKEN", "token")
    for module in (client, gateway):
        monkeypatch.setattr(module, "ID_FILE", tmp_path / "id")


@pytest.mark.parametrize(
    ("arguments", "wrong", "named"),
    [
        (["client", "--check"], ["--api-url", "ftp://portal"], "api-url"),
        (["gateway", "--check"], ["--workers", "99"], "--workers"),
        (["gateway", "--check"], ["--interface", "a name too long for one"], "interface"),
        (RELAY, ["--lowest-port", "60000", "--highest-port", "50000"], "--lowest-port"),
        (RELAY, ["--peers-file", "/nonexistent"], "--peers-file"),
    ],
)
def test_check(
    arguments: list[str],
    wrong: list[str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(arguments) == 0
    assert capsys.readouterr().out == "configuration: ok\n"
    monkeypatch.setenv("FIREZONE_TOKEN", "token")  # whoever reads it takes it away
    assert run([*arguments, *wrong]) == 2
    captured = capsys.readouterr()
    assert named in captured.err and captured.out == ""


def test_portal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["portal", "init", str(tmp_path)]) == 0
    capsys.readouterr()
    file = tmp_path / "portal.toml"
    assert run(["portal", "--check", "--config", str(file)]) == 0
    assert capsys.readouterr().out == "configuration: ok\n"
    assert not (tmp_path / "portal.db").exists()
    file.write_text("nonsense")
    assert run(["portal", "--check", "--config", str(file)]) == 2
    assert "portal.toml:1" in capsys.readouterr().err
