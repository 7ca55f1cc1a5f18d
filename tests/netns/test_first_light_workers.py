"""Client and gateway with several workers each."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from first_light import ECHO_PORT, WEB, WEB6, events, fetches, flowing, script, uninterrupted

from firezone.lab import Lab
from firezone.lab.topology import RESOURCE

CLIENT = {"FIREZONE_WORKERS": "2"}
GATEWAY = {"FIREZONE_WORKERS": "3"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.start_resource()
        script(lab, "echo", RESOURCE, "echo", str(ECHO_PORT)).wait_for_event("ready")
        lab.start_portal()
        lab.start_relay()
        lab.start_gateway(GATEWAY)
        lab.start_client(CLIENT)
        yield lab


@pytest.mark.parametrize("blocked", [False, True], ids=["direct", "relayed"])
def test_many_streams_beside_a_flow(lab: Lab, blocked: bool) -> None:
    lab.stop("client")
    lab.block_direct(blocked)
    try:
        client = lab.start_client(CLIENT)
        with flowing(lab) as flow, ThreadPoolExecutor(4) as executor:
            assert all(executor.map(lambda url: fetches(lab, url), [WEB, WEB6] * 12))
            assert uninterrupted(flow)
        expected = "relayed" if blocked else "direct"
        assert {e["kind"] for e in events(client, "path_chosen")} == {expected}
    finally:
        lab.block_direct(False)
    # One peer: one worker has all that comes in, and any sends.
    for host, count in (("client", 2), ("gateway", 3)):
        shown = workers_of(lab, host)
        assert len(shown) == count
        assert sum(worker["received_packets"] > 20 for worker in shown) >= 1
        assert sum(worker["sent_packets"] > 0 for worker in shown) >= 2
        if not blocked:  # the kernel knows what is whose; of a relay's it brings all to the first
            assert sum(worker["handed_over_packets"] for worker in shown) == 0


def test_new_sockets_after_a_change_of_network(lab: Lab) -> None:
    client = lab.programs["client"]
    with flowing(lab) as flow:
        skip = len(client.lines())
        client.signal(signal.SIGHUP)
        client.wait_for_event("handshake_done", skip=skip)
        assert fetches(lab) and uninterrupted(flow)
    assert len(workers_of(lab, "client")) == 2


def workers_of(lab: Lab, host: str) -> list[dict[str, Any]]:
    done = lab.exec(host, [sys.executable, "-m", "firezone", "status", "--json"])
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["workers"]
    return found
