"""The line through the whole system: real programs, real TUN devices, one lab for all of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from first_light import (
    WEB,
    WEB6,
    events,
    fetches,
    first_light,
    flowing,
    gap_ms,
    restart_client,
    uninterrupted,
)

from firezone.durations import SECOND
from firezone.lab import Lab
from firezone.lab.topology import CLIENT_NAT, RESOURCE_ALLOWED, RESOURCE_DENIED


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with first_light() as lab:
        yield lab


@pytest.mark.parametrize("blocked", [False, True], ids=["direct", "relayed"])
def test_both_families_over_the_best_path(lab: Lab, blocked: bool) -> None:
    lab.stop("client")
    lab.block_direct(blocked)
    try:
        client = lab.start_client()
        for url in (WEB, WEB6):
            fetched = lab.fetch(url)
            assert "Hello" in fetched.page, fetched
        expected = "relayed" if blocked else "direct"
        assert {e["kind"] for e in events(client, "path_chosen")} == {expected}
    finally:
        lab.block_direct(False)


def test_what_the_policy_does_not_allow_is_refused_at_once(lab: Lab) -> None:
    restart_client(lab)
    assert fetches(lab)
    for url in (f"http://{RESOURCE_ALLOWED.v4}:8080/", f"http://{RESOURCE_DENIED.v4}/"):
        fetched = lab.fetch(url)
        assert fetched.error and fetched.total_ms < 1000, fetched


def test_what_belongs_to_no_resource_is_refused_at_once(lab: Lab) -> None:
    fetched = lab.fetch("http://100.64.0.77/")
    assert fetched.error == "EHOSTUNREACH" and fetched.total_ms < 1000, fetched


def test_a_gateway_that_says_goodbye_is_replaced_at_once(lab: Lab) -> None:
    restart_client(lab)
    assert fetches(lab)
    assert lab.stop("gateway") == 0
    lab.programs["client"].wait_for_event("connection_closed", SECOND)
    lab.start_gateway()
    fetched = lab.fetch(WEB, timeout=3 * SECOND)
    assert fetched.status == 200 and fetched.total_ms < 3000, fetched


def test_traffic_outlives_a_restart_of_the_gateway(lab: Lab) -> None:
    with flowing(lab) as flow:
        lab.stop("gateway")
        lab.start_gateway()
        assert gap_ms(flow) < 4000


def test_a_killed_gateway_is_found_again_as_soon_as_it_is_back(lab: Lab) -> None:
    """It said no goodbye and has a new key; nobody restarts the client."""
    with flowing(lab) as flow, in_the_clear(lab) as leaked:
        client = lab.programs["client"]
        lost = len(events(client, "connection_lost"))
        lab.stop("gateway", signal.SIGKILL)
        lab.start_gateway()
        assert gap_ms(flow) < 3000
        assert len(events(client, "connection_lost")) == lost
        assert leaked() == 0, "no packet for the resource may take the way past the tunnel"
    fetched = lab.fetch(WEB, timeout=3 * SECOND)
    assert fetched.status == 200, fetched


@pytest.mark.parametrize("blocked", [False, True], ids=["direct", "relayed"])
def test_a_client_that_moves_keeps_its_flows(lab: Lab, blocked: bool) -> None:
    """SIGHUP stands for another network: all connections anew, with another key."""
    lab.stop("client")
    lab.block_direct(blocked)
    try:
        client = lab.start_client()
        with flowing(lab) as flow:
            skip = len(client.lines())
            client.signal(signal.SIGHUP)
            client.wait_for_event("connection_closed", skip=skip)
            client.wait_for_event("handshake_done", skip=skip)
            time.sleep(0.5)
            assert uninterrupted(flow)
            assert fetches(lab)
    finally:
        lab.block_direct(False)


@contextmanager
def in_the_clear(lab: Lab) -> Iterator[Callable[[], int]]:
    """Counts the packets for the resource that the router of the client's site sees."""

    def nft(*arguments: str) -> str:
        done = lab.exec(CLIENT_NAT, ["nft", *arguments])
        assert done.returncode == 0, done.stderr
        return done.stdout

    nft("add table ip leak { chain c { type filter hook prerouting priority raw; } ; }")
    nft(f"add rule ip leak c ip daddr {RESOURCE_ALLOWED.v4} counter")
    try:
        yield lambda: int(nft("list", "table", "ip", "leak").partition("packets ")[2].split()[0])
    finally:
        nft("delete", "table", "ip", "leak")
