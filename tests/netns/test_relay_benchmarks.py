"""The comparison of relays still runs, and its figures mean something. No test asserts a speed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_relays(tmp_path: Path) -> None:
    results = relays(tmp_path, "firezone", "throughput", "latency", "floods")
    assert len(results["throughput"]) == 52
    moved = [each["firezone"][0]["delivered"] > 0 for each in results["throughput"].values()]
    assert sum(moved) > 40  # a relay that does not get to run in time has moved nothing
    assert all(each["firezone"][0]["p50"] > 0 for each in results["latency"].values())
    assert all(each["firezone"][0]["answered"] > 0 for each in results["floods"].values())


@pytest.mark.skipif(shutil.which("turnserver") is None, reason="needs coturn")
def test_others_take_part(tmp_path: Path) -> None:
    results = relays(tmp_path, "coturn", "floods")
    assert all(each["coturn"][0]["answered"] > 0 for each in results["floods"].values())


def relays(tmp_path: Path, name: str, *parts: str) -> Any:
    output = tmp_path / "relays.json"
    options = ["--rounds", "1", "--seconds", "0.02", "--only", name, "--json", str(output)]
    command = [sys.executable, "-m", "benchmarks.relays", *options, *parts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(output.read_text())["results"]
