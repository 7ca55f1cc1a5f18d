"""The comparison of relays still runs, and its figures mean something. No test asserts a speed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

ALL_USERS = ["0", "0", str(2**32 - 1)]
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split() != ALL_USERS,
    reason="needs root of the machine, to place threads of the kernel",
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.mark.parametrize("path", ["loopback", pytest.param("interface", marks=needs_root)])
def test_relays(tmp_path: Path, path: str) -> None:
    results = relays(tmp_path, "firezone", "--path", path, "throughput", "latency", "floods")
    throughput, latency, floods = (
        [each["firezone"][0] for each in results[f"{part}, {path}"].values()]
        for part in ("throughput", "latency", "floods")
    )
    assert len(throughput) == 52
    # a relay that does not get to run in time has moved nothing
    assert sum(each["delivered"] > 0 for each in throughput) > 40
    assert all(each["cpu_ns"] > each["interface_ns"] for each in throughput)
    assert all((each["interface_ns"] > 0) == (path == "interface") for each in throughput)
    assert all(each["p50"] > 0 for each in latency)
    assert all(each["answered"] > 0 for each in floods)


@pytest.mark.skipif(shutil.which("turnserver") is None, reason="needs coturn")
def test_others_take_part(tmp_path: Path) -> None:
    results = relays(tmp_path, "coturn", "--path", "loopback", "floods")
    floods = results["floods, loopback"]
    assert all(each["coturn"][0]["answered"] > 0 for each in floods.values())


@needs_root
def test_kernel_takes_part(tmp_path: Path) -> None:
    results = relays(tmp_path, "firezone --xdp", "--path", "interface", "throughput")
    throughput = results["throughput, interface"]
    bound = [each["firezone --xdp"][0] for case, each in throughput.items() if "idle" in case]
    assert len(bound) == 24
    in_kernel = [each["interface_ns"] * 2 > each["cpu_ns"] for each in bound if each["delivered"]]
    assert sum(in_kernel) > 16  # the rest is for what the machine does besides


def relays(tmp_path: Path, name: str, *arguments: str) -> Any:
    output = tmp_path / "relays.json"
    options = ["--rounds", "1", "--seconds", "0.02", "--only", name, "--json", str(output)]
    command = [sys.executable, "-m", "benchmarks.relays", *options, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(output.read_text())["results"]
