"""The check of the network by the real program, behind each kind of NAT."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from firezone.lab import Lab, Nat, Site, netns
from firezone.lab.topology import relay_name

DEPENDENT = "address-dependent or address-and-port-dependent"


def netcheck(lab: Lab, *arguments: str) -> Any:
    argv = [sys.executable, "-m", "firezone", "netcheck", "--json", *arguments]
    done = lab.exec("client", argv)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def relays(lab: Lab, count: int) -> list[str]:
    """Options that name the relays' addresses."""
    found = []
    for number in range(1, count + 1):
        for address in lab.plan.internet[relay_name(number)].addresses():
            found += ["--stun", str(address)]
    return found


@pytest.mark.parametrize(
    ("nat", "mapping", "keeps_port"),
    [
        (Nat.NONE, "no NAT", None),
        (Nat.CONE, "endpoint-independent", True),
        (Nat.SYMMETRIC, DEPENDENT, False),
        (Nat.UDP_BLOCKED, "unknown", None),
    ],
)
def test_the_kind_of_nat(nat: Nat, mapping: str, keeps_port: bool | None) -> None:
    with Lab(client=Site(nat), relays=2) as lab:
        lab.start_portal()
        lab.start_relay(1)
        lab.start_relay(2)
        portal = lab.portal_url(frozenset({4}))
        report = netcheck(lab, *relays(lab, 2), "--api-url", portal)
        for family in report["families"]:
            assert family["reachable"] is (nat is not Nat.UDP_BLOCKED)
            assert family["mapping"] == mapping
            assert family["port_preserved"] is keeps_port
        assert report["portal"]["reachable"], report["portal"]
        if nat is not Nat.UDP_BLOCKED:
            assert {server["path_mtu"] for server in report["servers"]} == {1500}


def test_one_server_cannot_tell_and_a_running_client_knows_the_relays() -> None:
    with Lab(client=Site(Nat.CONE, frozenset({4}))) as lab:
        lab.start_portal()
        lab.start_relay()
        lab.start_client()
        report = netcheck(lab)
        four, six = report["families"]
        assert (four["reachable"], four["mapping"]) == (True, "unknown")
        assert six["reachable"] is False
        assert report["portal"]["status"] == 200
        assert any("name a second one" in finding for finding in report["findings"])


@pytest.mark.parametrize("host", ["client-nat", "client"])
def test_a_narrow_link_on_the_way_or_at_its_begin(host: str) -> None:
    with Lab(client=Site(Nat.NONE)) as lab:
        lab.start_portal()
        lab.start_relay()
        netns.ip_batch(["link set eth0 mtu 1400"], lab.namespace(host))
        servers = netcheck(lab, *relays(lab, 1))["servers"]
        assert [server["path_mtu"] for server in servers] == [1400, 1400]
