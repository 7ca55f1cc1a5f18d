"""Relays over TCP and TLS, between the real programs, at sites that let no UDP through."""

from __future__ import annotations

from pathlib import Path

import pytest
from certificates import self_signed

from firezone.durations import SECOND
from firezone.lab import Lab, Nat, Site
from firezone.lab.topology import RESOURCE_ALLOWED

PAGE = f"http://{RESOURCE_ALLOWED.v4}/"
LARGE = f"http://{RESOURCE_ALLOWED.v4}/bytes/2000000"
FAMILIES = [frozenset({4}), frozenset({6}), frozenset({4, 6})]


@pytest.mark.parametrize("families", FAMILIES)
def test_tcp(families: frozenset[int]) -> None:
    with Lab(client=Site(Nat.UDP_BLOCKED, families)) as lab:
        _start(lab)
        _passes(lab)
        assert _streams(lab) == {"tcp"}
        assert _path(lab) == "relayed"


def test_both_sites() -> None:
    with Lab(client=Site(Nat.UDP_BLOCKED), gateway=Site(Nat.UDP_BLOCKED)) as lab:
        _start(lab)
        _passes(lab)


def test_tls_where_tcp_is_blocked_too(tmp_path: Path) -> None:
    with Lab(client=Site(Nat.UDP_BLOCKED)) as lab:
        rules = "table inet more { chain forward { type filter hook forward priority -30;"
        rules += " tcp dport 3478 reject with tcp reset; }; }"
        done = lab.exec("client-nat", ["nft", rules])
        assert done.returncode == 0, done.stderr
        _start(lab, {"FIREZONE_TLS_CERT": str(self_signed(tmp_path))})
        _passes(lab)
        assert _streams(lab) == {"tls"}


def test_streams_can_be_switched_off_at_the_relay() -> None:
    with Lab(client=Site(Nat.UDP_BLOCKED)) as lab:
        _start(lab, {"FIREZONE_RELAY_STREAMS": "false"})
        assert lab.fetch(PAGE, timeout=6 * SECOND).status == 0
        assert not _streams(lab)


@pytest.mark.slow
def test_udp_that_comes_back_is_used_again() -> None:
    with Lab() as lab:
        lab.block_udp(lab.plan.client, True)
        _start(lab)
        _passes(lab)
        client = lab.programs["client"]
        skip = len(client.lines())
        lab.block_udp(lab.plan.client, False)
        chosen = client.wait_for(
            lambda line: line.get("event") == "path_chosen" and line["kind"] == "direct",
            45 * SECOND,
            skip=skip,
        )
        assert chosen
        _passes(lab)


def _start(lab: Lab, relay: dict[str, str] | None = None) -> None:
    lab.start_resource()
    lab.start_portal()
    lab.start_relay(environment=relay)
    lab.start_gateway()
    lab.start_client()


def _passes(lab: Lab) -> None:
    assert lab.fetch(PAGE).status == 200, lab.programs["client"].tail()
    assert lab.fetch(LARGE).body_bytes == 2_000_000


def _streams(lab: Lab) -> set[str]:
    text = "reaching a relay over a stream"
    lines = lab.programs["client"].lines()
    return {line["stream"] for line in lines if line.get("message") == text}


def _path(lab: Lab) -> str:
    lines = lab.programs["client"].lines()
    return [line["kind"] for line in lines if line.get("event") == "path_chosen"][-1]
