"""Every harness still runs, and its figures mean something. None asserts a speed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tunnels import PARTS

FIGURES = ("gigabits", "answered", "p50", "arrived_percent")
ROOT = Path(__file__).parents[2]
OURS = ["firezone", "null tunnel"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler"),
    pytest.mark.skipif(not shutil.which("wg"), reason="needs wireguard-tools"),
    pytest.mark.skipif(not shutil.which("iperf3"), reason="needs iperf3"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All parts, once."""
    return tunnels(tmp_path_factory.mktemp("tunnels"), "--only", ",".join(OURS))


@pytest.mark.parametrize("part", PARTS)
def test_tunnels(page: Path, part: str) -> None:
    written = read(page)
    assert written["machine"]["cpu"]
    assert written["machine"]["cores"] > 0
    by_case = written["results"][part]
    assert by_case
    assert all(meaningful(s) for by_name in by_case.values() for s in by_name["firezone"])


def test_plots(page: Path) -> None:
    pytest.importorskip("matplotlib")
    run("benchmarks.plots", str(page))
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_ciphers(tmp_path: Path) -> None:
    page = tmp_path / "aead.json"
    run(
        "benchmarks.bench_aead",
        "--repeats",
        "1",
        "--size",
        "64",
        "--batch",
        "1",
        "--json",
        str(page),
    )
    for what in ("seal", "open"):
        costs = read(page)["results"][f"aead {what}"]["64 x 1"]
        assert {"libsodium", "avx2"} & costs.keys()
        assert all(sample["nanoseconds"] > 0 for rounds in costs.values() for sample in rounds)


@pytest.mark.skipif(not shutil.which("wireguard-go"), reason="needs wireguard-go")
def test_others_take_part(tmp_path: Path) -> None:
    written = read(tunnels(tmp_path, "handshakes", "--only", "wireguard-go,boringtun-cli"))
    assert written["settings"]["versions"]["wireguard-go"].startswith("wireguard-go")
    for rounds in written["results"]["handshakes"]["as responder"].values():
        assert all(meaningful(sample) for sample in rounds)


@pytest.mark.skipif(not shutil.which("perf"), reason="needs perf")
def test_profile(tmp_path: Path) -> None:
    run("benchmarks.profile_tunnel", "--seconds", "1", "--output", str(tmp_path))
    assert "up_loop loops.pyx" in (tmp_path / "flame.svg").read_text()
    assert "loops.pyx:" in (tmp_path / "lines.txt").read_text()
    assert "@pipeline.pyx:" in (tmp_path / "perf.script").read_text()


def test_end_to_end(tmp_path: Path) -> None:
    run("benchmarks.end_to_end", "--seconds", "1", "--rounds", "1")


def tunnels(directory: Path, *arguments: str) -> Path:
    output = directory / "tunnels.json"
    options = ["--seconds", "1", "--rounds", "1", "--json", str(output)]
    run("benchmarks.tunnels", *options, *arguments)
    return output


def read(page: Path) -> Any:
    return json.loads(page.read_text())


def run(module: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def meaningful(sample: Any) -> bool:
    """Something was moved, answered or timed."""
    sample = sample.get("throughput", sample)
    return any(sample.get(figure, 0) > 0 for figure in FIGURES)
