"""A relay or the portal goes away under traffic, and comes back."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
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
from firezone.lab import Lab, Program, fetch
from firezone.lab.topology import CLIENT

DOWNLOAD = 400_000_000


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with first_light() as lab:
        yield lab


def test_a_relay_that_restarts_is_used_again(lab: Lab) -> None:
    """It has a new secret and no allocations, under the same address."""
    with relayed(lab), flowing(lab) as flow:
        client = lab.programs["client"]
        lab.stop("relay1", signal.SIGKILL)
        lab.start_relay()
        assert gap_ms(flow) < 5000
        assert events(client, "path_chosen")[-1]["kind"] == "relayed"
        assert not events(client, "connection_lost")


def test_direct_traffic_does_not_notice_a_restart_of_the_relay(lab: Lab) -> None:
    restart_client(lab)
    with flowing(lab) as flow:
        settle()
        lab.stop("relay1", signal.SIGKILL)
        lab.start_relay()
        time.sleep(1)
        assert uninterrupted(flow)


@pytest.fixture(autouse=True)
def _whole(lab: Lab) -> Iterator[None]:
    """What a failed test has left stopped must not fail the next one."""
    yield
    starts = {"portal": lab.start_portal, "relay1": lab.start_relay, "gateway": lab.start_gateway}
    for name, start in starts.items():
        if lab.programs[name].exit_code is not None:
            start()


def test_traffic_does_not_need_the_portal_and_new_flows_work_when_it_is_back(lab: Lab) -> None:
    restart_client(lab)
    with flowing(lab) as flow:
        settle()
        download = start_download(lab)
        lab.stop("portal")
        fetched = result_of(download)
        assert fetched.body_bytes == DOWNLOAD, fetched
        assert fetches(lab), "a new connection of an old flow needs no portal either"
        assert uninterrupted(flow)
        skip = {name: len(lab.programs[name].lines()) for name in ("client", "gateway", "relay1")}
        lab.start_portal()
        for name, lines in skip.items():
            lab.programs[name].wait_for_event("portal_connected", 30 * SECOND, skip=lines)
        assert not events(lab.programs["client"], "flow_requested")[1:]
        assert fetches(lab, WEB6), "a resource that was never asked for before"
        assert uninterrupted(flow)


def test_a_portal_that_is_killed_and_restarts_disturbs_nothing(lab: Lab) -> None:
    restart_client(lab)
    with flowing(lab) as flow:
        settle()
        skip = len(lab.programs["client"].lines())
        lab.stop("portal", signal.SIGKILL)
        lab.start_portal()
        lab.programs["client"].wait_for_event("portal_connected", 30 * SECOND, skip=skip)
        time.sleep(0.5)
        assert uninterrupted(flow)
        assert not events(lab.programs["client"], "connection_lost")


@pytest.mark.slow
def test_a_gateway_that_stays_away_is_noticed_without_the_portal(lab: Lab) -> None:
    """By the connectivity checks alone; then every packet asks for a gateway again."""
    restart_client(lab)
    with flowing(lab) as flow:
        client = lab.programs["client"]
        lab.stop("gateway", signal.SIGKILL)
        client.wait_for_event("connection_lost", 25 * SECOND)
        requested = len(events(client, "flow_requested"))
        client.wait_for_event("flow_refused", 5 * SECOND)
        lab.start_gateway()
        assert gap_ms(flow) < 30_000
        assert len(events(client, "flow_requested")) > requested


@contextmanager
def relayed(lab: Lab) -> Iterator[None]:
    lab.stop("client")
    lab.block_direct(True)
    try:
        lab.start_client()
        yield
    finally:
        lab.block_direct(False)


def settle() -> None:
    """Let the better paths be found that come shortly after the first."""
    time.sleep(0.5)


def start_download(lab: Lab) -> Program:
    url = f"{WEB}bytes/{DOWNLOAD}"
    return lab.start("download", CLIENT, [sys.executable, "-I", fetch.__file__, url, "30"])


def result_of(download: Program) -> fetch.Fetched:
    return msgspec.convert(
        download.wait_for(lambda line: "status" in line, 60 * SECOND), fetch.Fetched
    )
