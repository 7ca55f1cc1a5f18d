"""Which path the real programs find through each pair of NATs, and that they use it."""

from __future__ import annotations

import signal
import time

import pytest

from firezone.durations import SECOND
from firezone.lab import Lab, Nat, Site
from firezone.lab.topology import RESOURCE_ALLOWED

V4, V6, BOTH = frozenset({4}), frozenset({6}), frozenset({4, 6})

PATHS = [
    (Site(Nat.CONE), Site(Nat.CONE), "direct"),
    (Site(Nat.NONE), Site(Nat.CONE), "direct"),
    (Site(Nat.SYMMETRIC), Site(Nat.NONE), "direct"),
    (Site(Nat.CONE), Site(Nat.SYMMETRIC), "relayed"),
    (Site(Nat.SYMMETRIC), Site(Nat.SYMMETRIC), "relayed"),
    (Site(Nat.CONE, V4), Site(Nat.CONE, V4), "direct"),
    (Site(Nat.CONE, V6), Site(Nat.CONE, V6), "direct"),
    (Site(Nat.CONE, V4), Site(Nat.CONE, V6), "relayed"),
]


@pytest.mark.parametrize(("client", "gateway", "path"), PATHS)
def test_path(client: Site, gateway: Site, path: str) -> None:
    with Lab(client=client, gateway=gateway) as lab:
        _start(lab)
        for address in RESOURCE_ALLOWED.addresses():
            host = f"[{address}]" if address.version == 6 else str(address)
            fetched = lab.fetch(f"http://{host}/")
            assert fetched.status == 200, fetched
        relayed_before = _relay_bytes(lab)
        assert lab.fetch(f"http://{RESOURCE_ALLOWED.v4}/bytes/2000000").body_bytes == 2_000_000
        relayed = _relay_bytes(lab) - relayed_before
        assert relayed > 2_000_000 if path == "relayed" else relayed < 100_000
        kinds = [
            x["kind"] for x in lab.programs["client"].lines() if x.get("event") == "path_chosen"
        ]
        assert kinds[-1] == path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_programs_leave_their_hosts_as_they_were(number: signal.Signals) -> None:
    """After a crash, whatever stays is gone at the latest when the program has run once more."""
    with Lab() as lab:
        before = _host(lab, "client"), _host(lab, "gateway")
        _start(lab)
        assert lab.fetch(f"http://{RESOURCE_ALLOWED.v4}/").status == 200
        assert lab.stop("client", number) in (0, -signal.SIGKILL)
        assert lab.stop("gateway", number) in (0, -signal.SIGKILL)
        if number is signal.SIGKILL:
            lab.start_gateway()
            lab.start_client()
            assert lab.fetch(f"http://{RESOURCE_ALLOWED.v4}/").status == 200
            assert lab.exec("client", ["ip", "rule"]).stdout.count("fwmark") == 1
            lab.stop("client")
            lab.stop("gateway")
        assert (_host(lab, "client"), _host(lab, "gateway")) == before


def test_a_live_connection_moves_to_the_relay_in_three_seconds() -> None:
    """ICE alone takes 16 s to give up a pair that worked; the traffic tells sooner."""
    with Lab() as lab:
        _start(lab)
        assert lab.fetch(f"http://{RESOURCE_ALLOWED.v4}/").status == 200
        client = lab.programs["client"]
        lab.block_direct(True)
        skip = len(client.lines())
        started = time.monotonic()
        fetched = lab.fetch(f"http://{RESOURCE_ALLOWED.v4}/", timeout=30 * SECOND)
        took = time.monotonic() - started
        assert fetched.status == 200, client.tail()
        assert client.wait_for_event("path_chosen", skip=skip)["kind"] == "relayed"
        # A lost SYN is sent again after 1 s and after 3 s, the first of which meets the old path.
        assert took < 4.5


def _start(lab: Lab) -> None:
    lab.start_resource()
    lab.start_portal()
    lab.start_relay()
    lab.start_gateway()
    lab.start_client()


def _host(lab: Lab, host: str) -> str:
    show = (
        "ip -o addr; ip rule; ip -6 rule; ip route show table all; nft list ruleset;"
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"
    )
    shown = lab.exec(host, ["sh", "-c", show]).stdout
    return "".join(line for line in shown.splitlines(True) if "eth" not in line)


def _relay_bytes(lab: Lab) -> int:
    """What the relay's host has received on its interface."""
    path = "/sys/class/net/eth0/statistics/rx_bytes"
    return int(lab.exec("relay1", ["cat", path]).stdout)
