"""Many clients of the real relay program at once, in a network of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


def test_all_of_them_pass_data_both_ways(tmp_path: Path) -> None:
    """Over two workers, of which each has its share."""
    output = tmp_path / "scale.json"
    options = ["--count", "300", "--workers", "2", "--json", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.relay_scale", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(output.read_text())["results"]["scale"]
    (result,) = results["300 allocations"]["firezone"]
    assert (result["to_peer"], result["to_client"]) == (300, 300)
    assert len(result["workers"]) == 2 and min(result["workers"]) > 30
