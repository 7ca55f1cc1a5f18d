"""What operators see of the real programs: status, explain, and who may ask."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from firezone.durations import SECOND
from firezone.lab import Lab, Nat, Site
from firezone.lab.topology import RESOURCE_ALLOWED

PAGE = f"http://{RESOURCE_ALLOWED.v4}/"


def ask(lab: Lab, host: str, *arguments: str) -> Any:
    done = run(lab, host, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run(lab: Lab, host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return lab.exec(host, [sys.executable, "-m", "firezone", *arguments])


def test_status_and_explain_of_a_direct_path() -> None:
    with Lab(client=Site(Nat.CONE), gateway=Site(Nat.CONE)) as lab:
        start(lab)
        assert ask(lab, "client", "status")["connections"] == []
        waiting = run(lab, "client", "explain", str(RESOURCE_ALLOWED.v4))
        assert waiting.returncode == 1
        assert "has no gateway now" in waiting.stderr
        assert lab.fetch(PAGE).status == 200
        wait_for(lambda: path_kind(lab) == "direct")

        for host in ("client", "gateway"):
            report = ask(lab, host, "status")
            assert (report["role"], report["portal"]["connected"]) == (host, True)
            (connection,) = report["connections"]
            assert connection["state"] == "connected"
            assert connection["received_bytes"] > 100 < connection["sent_bytes"]
            assert report["relays"][0]["state"] == "allocated"
            explained = ask(lab, host, "explain", connection["peer"][:8])
            (winner,) = [pair for pair in explained["pairs"] if pair["nominated"]]
            assert winner["verdict"] == "in use"
            assert "relay" not in winner["local"] + winner["remote"]
            assert all(pair["verdict"] for pair in explained["pairs"])
            assert any(pair["verdict"] == "works; lower priority" for pair in explained["pairs"])

        for host, peer in (("client", str(RESOURCE_ALLOWED.v4)), ("gateway", tunnel_address(lab))):
            for arguments in (("status",), ("explain", peer)):
                done = run(lab, host, *arguments)
                assert done.returncode == 0, done.stderr
                assert max(map(len, done.stdout.splitlines())) <= 100, done.stdout
                assert "direct" in done.stdout
        assert run(lab, "client", "explain", "nobody").returncode == 1

        inode = lab.exec("client", ["stat", "-Lc", "%i", "/proc/self/ns/net"]).stdout.strip()
        path = Path(f"/run/firezone/tun-firezone-{inode}.sock")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_ISSOCK(path.stat().st_mode)
        lab.stop("client")
        assert not path.exists()


@pytest.mark.slow
def test_explain_follows_the_path_to_the_relay() -> None:
    with Lab() as lab:
        start(lab)
        assert lab.fetch(PAGE).status == 200
        wait_for(lambda: path_kind(lab) == "direct")
        lab.block_direct(True)
        assert lab.fetch(PAGE, timeout=30 * SECOND).status == 200
        explained = ask(lab, "client", "explain", str(RESOURCE_ALLOWED.v4))
        assert explained["connection"]["path"]["kind"] == "relayed"
        assert [path["kind"] for path in explained["paths"]][-2:] == ["direct", "relayed"]
        (winner,) = [pair for pair in explained["pairs"] if pair["nominated"]]
        assert "relay" in winner["local"] + winner["remote"]
        better = [p for p in explained["pairs"] if p["priority"] > winner["priority"]]
        assert better
        assert all("no answer" in p["verdict"] or "failed after" in p["verdict"] for p in better), (
            better
        )


def test_who_has_no_program_running_is_told() -> None:
    with Lab() as lab:
        done = run(lab, "client", "status")
        assert done.returncode == 1
        assert "no client or gateway answers at /run/firezone/tun-firezone-" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def start(lab: Lab) -> None:
    lab.start_resource()
    lab.start_portal()
    lab.start_relay()
    lab.start_gateway()
    lab.start_client()


def path_kind(lab: Lab) -> str:
    (connection,) = ask(lab, "client", "status")["connections"]
    return str(connection["path"]["kind"]) if connection["path"] else ""


def tunnel_address(lab: Lab) -> str:
    (connection,) = ask(lab, "gateway", "status")["connections"]
    return str(connection["addresses"][0])


def wait_for(reached: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)
