"""The demo from the outside: it works, or it says what does not; either way nothing stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from firezone.cli.demo import demo
from firezone.lab import Lab, Program, netns


def test_programs_find_the_portal_and_lose_it_with_their_token() -> None:
    with Lab(relays=2) as lab:
        lab.start_portal()
        lab.start_relay(1)
        relay = lab.start_relay(2)
        lab.edit_portal(lambda file: file.tokens.pop("relay"))
        relay.wait_for_event("portal_refused")
        lab.stop("portal")
        assert lab.programs["portal"].exit_code == 0


def test_the_demo_works() -> None:
    done = _firezone("demo", "--megabytes", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "demo: ok"
    assert max(map(len, lines)) <= 80
    kinds = [line.split()[2].rstrip(",") for line in lines if "path chosen" in line]
    assert kinds == ["direct", "relayed"]
    assert not any("\x1b" in line for line in lines)
    for step in ("portal", "flow authorised", "handshake", "first byte", "download", "refused"):
        assert any(line.startswith(f"  {step}") for line in lines), step


def test_a_failure_names_the_step_and_shows_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(lab: Lab) -> Program:
        program = lab.start("portal", "portal", ["sh", "-c", "echo out of order; exit 1"])
        program.wait_for_event("ready")
        return program

    monkeypatch.setattr(Lab, "start_portal", broken)
    result = CliRunner().invoke(demo, standalone_mode=False)
    assert result.return_value == 1
    assert "demo: failed: start the portal: no 'ready': portal ended with code 1" in result.output
    assert result.output.endswith("The end of the portal's log:\n  out of order\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_lab_cleans_up(number: signal.Signals) -> None:
    argv = [sys.executable, "-u", "-m", "firezone", "lab", "--bare"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().split()[2]
        assert netns.existing(f"{name}-")
        while "Ctrl-C" not in process.stdout.readline():
            pass
        time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(10) in (0, 130)
    assert not netns.existing(f"{name}-")


def _firezone(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "firezone", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=100)
