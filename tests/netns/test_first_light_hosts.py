"""What the programs do to their hosts: crashes, failed starts, second instances, several labs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from first_light import WEB, fetches, first_light, host_state, resident_kilobytes

from firezone.durations import SECOND
from firezone.lab import Lab, Program
from firezone.lab.topology import CLIENT, GATEWAY

MEMORY_BUDGET_KILOBYTES = 60_000
TABLE = "table inet firezone-tun-firezone"


@pytest.fixture(scope="module")
def started() -> Iterator[Lab]:
    with first_light() as lab:
        yield lab


@pytest.fixture
def lab(started: Lab) -> Lab:
    """Everything runs, whatever the test before has done."""
    starts = {
        "portal": started.start_portal,
        "gateway": started.start_gateway,
        "client": started.start_client,
    }
    for name, start in starts.items():
        if started.programs[name].exit_code is not None:
            start()
    return started


def test_an_idle_client_is_small(lab: Lab) -> None:
    assert fetches(lab)
    assert resident_kilobytes(lab.programs["client"]) < MEMORY_BUDGET_KILOBYTES


def test_a_killed_client_takes_interface_and_routes_along_and_starts_again(lab: Lab) -> None:
    assert lab.stop("client", signal.SIGKILL) == -signal.SIGKILL
    state = host_state(lab, CLIENT)
    assert ": tun-firezone" not in state and "dev tun-firezone" not in state
    assert "100.64.0.0/11" not in state
    assert not lab.fetch(WEB, timeout=SECOND).status
    portal = lab.portal_url(frozenset({4})).replace("ws:", "http:")
    assert fetches(lab, f"{portal}/healthz"), "the rules that it left harm nobody"
    lab.start_client()
    assert fetches(lab)
    for family in ("-4", "-6"):
        rules = lab.exec(CLIENT, ["ip", family, "rule"]).stdout
        assert rules.count("fwmark") == 1


def test_a_killed_gateway_is_repaired_by_the_next(lab: Lab) -> None:
    lab.stop("gateway")
    untouched = host_state(lab, GATEWAY)
    lab.start_gateway()
    assert lab.stop("gateway", signal.SIGKILL) == -signal.SIGKILL
    crashed = host_state(lab, GATEWAY)
    assert ": tun-firezone" not in crashed
    assert crashed.count(TABLE) == 1
    lab.start_gateway()
    assert host_state(lab, GATEWAY).count(TABLE) == 1
    assert fetches(lab)
    assert lab.stop("gateway") == 0
    assert host_state(lab, GATEWAY) == untouched


def test_a_hangup_ends_nobody(lab: Lab) -> None:
    """The gateway takes no notice, the client connects anew, from another port."""
    assert fetches(lab)
    before = host_state(lab, GATEWAY)
    for name in ("gateway", "relay1"):
        lab.programs[name].signal(signal.SIGHUP)
        lab.programs[name].wait_for(lambda line: "SIGHUP is ignored" in line["message"])
    assert host_state(lab, GATEWAY) == before
    client = lab.programs["client"]
    skip = len(client.lines())
    client.signal(signal.SIGHUP)
    client.wait_for_event("ready", skip=skip)
    assert fetches(lab)
    assert client.exit_code is None


@pytest.mark.parametrize("kind", ["client", "gateway"])
def test_a_second_instance_is_refused_and_harms_nobody(lab: Lab, kind: str) -> None:
    assert fetches(lab)
    before = host_state(lab, kind)
    second = start_with(lab, kind)
    assert ended(second) == 2
    assert "in use by another instance" in second.tail()
    assert host_state(lab, kind) == before
    assert fetches(lab)


@pytest.mark.parametrize("kind", ["client", "gateway"])
def test_a_start_that_fails_leaves_nothing(lab: Lab, kind: str) -> None:
    lab.stop(kind)
    before = host_state(lab, kind)
    refused = start_with(lab, kind, FIREZONE_TOKEN="unknown")
    assert ended(refused) == 1
    assert refused.tail().splitlines()[-1] == (
        "firezone: the portal refused us: HTTP 401: invalid token"
    )
    assert host_state(lab, kind) == before


@pytest.mark.parametrize("kind", ["client", "gateway"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_a_portal(lab: Lab, kind: str, number: signal.Signals) -> None:
    lab.stop(kind)
    before = host_state(lab, kind)
    program = start_with(lab, kind, FIREZONE_API_URL="ws://203.0.113.10:1")
    program.wait_for(lambda line: line["message"] == "portal unreachable")
    assert program.stop(number) == 0
    assert host_state(lab, kind) == before


@pytest.mark.parametrize("kind", ["client", "gateway"])
def test_a_signal_at_any_moment_leaves_nothing(lab: Lab, kind: str) -> None:
    """However far the start got: loading, setting up the host, connecting."""
    lab.stop(kind)
    before = host_state(lab, kind)
    for delay_ms in range(150, 600, 50):
        program = start_with(lab, kind)
        time.sleep(delay_ms / 1000)
        program.stop()
        assert host_state(lab, kind) == before, f"after {delay_ms} ms"


def test_health_of_the_gateway(lab: Lab) -> None:
    def status(path: str) -> int:
        return lab.fetch(f"http://127.0.0.1:8080{path}", GATEWAY).status

    assert (status("/healthz"), status("/readyz"), status("/else")) == (200, 200, 404)
    gateway = lab.programs["gateway"]
    lab.stop("portal")
    gateway.wait_for(lambda line: line["message"] == "portal unreachable")
    assert (status("/healthz"), status("/readyz")) == (200, 503)
    skip = len(gateway.lines())
    lab.start_portal()
    gateway.wait_for_event("portal_connected", 30 * SECOND, skip=skip)
    assert status("/readyz") == 200


def test_two_labs_at_once() -> None:
    with first_light() as one, first_light() as two:
        assert fetches(one) and fetches(two)
        two.stop("gateway", signal.SIGKILL)
        assert fetches(one)
        assert not two.fetch(WEB, timeout=SECOND).status


def test_the_demo_as_an_ordinary_user() -> None:
    """Without any capability but the one that mapping uid 0 (as which we run) takes."""
    if os.environ.get("FIREZONE_LAB_USERNS"):
        pytest.skip("is in a user namespace already")
    bare = "setpriv --bounding-set -all,+setfcap --inh-caps -all --ambient-caps -all"
    demo = [sys.executable, "-m", "firezone", "demo", "--megabytes", "1"]
    done = subprocess.run([*bare.split(), *demo], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("demo: ok\n")


def start_with(lab: Lab, kind: str, **changes: str) -> Program:
    """One more instance of a program, set up as the lab's own but for the changes."""
    site = lab.plan.client if kind == "client" else lab.plan.gateway
    environment = {
        "LOG_FORMAT": "json",
        "FIREZONE_API_URL": lab.portal_url(site.site.families),
        "FIREZONE_TOKEN_PATH": str(lab.directory / f"{kind}.token"),
        "FIREZONE_ID": "another",
        "HEALTH_CHECK_ADDR": "",
    }
    argv = [sys.executable, "-m", "firezone", kind]
    return lab.start(f"{kind}-changed", site.host, argv, environment | changes)


def ended(program: Program) -> int | None:
    """The exit code of a program that ends by itself."""
    with pytest.raises(Exception, match="ended with code"):
        program.wait_for(lambda _: False, 5 * SECOND)
    return program.exit_code
