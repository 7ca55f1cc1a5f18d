"""The check of the network by the real program, behind each kind of NAT."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from firezone.lab import Depends, Lab, Nat, Site, netns
from firezone.lab.topology import relay_name

PRIVATE = "192.168.1.2"
DEPENDENT = "address-dependent or address-and-port-dependent"


def netcheck(lab: Lab, *arguments: str) -> Any:
    argv = [sys.executable, "-m", "firezone", "netcheck", "--json", *arguments]
    done = lab.exec("client", argv)
    assert not done.stderr
    report = json.loads(done.stdout)
    assert done.returncode == (not any(family["reachable"] for family in report["families"]))
    return report


def relays(lab: Lab, count: int) -> list[str]:
    """Options that name the relays' addresses."""
    found = []
    for number in range(1, count + 1):
        for address in lab.plan.internet[relay_name(number)].addresses():
            found += ["--stun", str(address)]
    return found


KINDS = [
    Nat.NONE,
    Nat.RESTRICTED_CONE,
    Nat.CONE,
    Nat.SHIFTED_FULL_CONE,
    Nat.ADDRESS_SYMMETRIC,
    Nat.OPEN_SYMMETRIC,
    Nat.RESTRICTED_SYMMETRIC,
    Nat.UDP_BLOCKED,
]


@pytest.mark.parametrize("nat", KINDS)
def test_the_kind_of_nat(nat: Nat) -> None:
    with Lab(client=Site(nat), relays=2) as lab:
        lab.start_portal()
        lab.start_relay(1)
        lab.start_relay(2)
        lab.start_client().wait_for_event("ready")
        report = netcheck(lab)
        for family in report["families"]:
            assert family["reachable"] is (nat is not Nat.UDP_BLOCKED)
            assert family["mapping"] == mapping(nat)
            assert family["port_preserved"] is keeps_port(nat)
            assert family["filtering"] == filtering(nat), family["filtering_note"]
            refused = str(family["filtering_note"]).endswith(f"refuses to send to {PRIVATE}")
            assert refused is (nat is Nat.NONE and family["family"] == 4)
        assert report["portal"]["reachable"], report["portal"]
        takes_tcp = {stream["address"] for stream in report["streams"] if stream["reachable"]}
        assert any(a.endswith(":3478") for a in takes_tcp) is (nat is Nat.UDP_BLOCKED)
        if nat is not Nat.UDP_BLOCKED:
            assert {server["path_mtu"] for server in report["servers"]} == {1500}


def mapping(nat: Nat) -> str:
    """What two servers with one port each can tell."""
    if nat in (Nat.NONE, Nat.UDP_BLOCKED):
        return "no NAT" if nat is Nat.NONE else "unknown"
    is_independent = nat.behaviour.mapping is Depends.NOTHING
    return "endpoint-independent" if is_independent else DEPENDENT


def filtering(nat: Nat) -> str:
    """The lab's sites have private addresses, where relays send nothing to."""
    unknown = nat in (Nat.NONE, Nat.UDP_BLOCKED)
    return "unknown" if unknown else nat.behaviour.filtering.value


def keeps_port(nat: Nat) -> bool | None:
    return None if nat in (Nat.NONE, Nat.UDP_BLOCKED) else nat.behaviour.keeps_port


@pytest.mark.parametrize("nat", [Nat.CONE, Nat.SHIFTED_FULL_CONE])
@pytest.mark.parametrize("hairpin", [True, False])
def test_whether_the_nat_hairpins(nat: Nat, hairpin: bool) -> None:
    with Lab(client=Site(nat, hairpin=hairpin)) as lab:
        lab.start_portal()
        lab.start_relay()
        families = netcheck(lab, *relays(lab, 1))["families"]
        assert [family["hairpin"] for family in families] == [hairpin, hairpin]


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


def test_a_network_with_ipv6_alone_and_a_nat64() -> None:
    four, six = frozenset({4}), frozenset({6})
    site = Site(Nat.SHIFTED_CONE, six, nat64=True)
    with Lab(client=site, gateway=Site(families=four), relays=2, public_families=four) as lab:
        lab.start_portal()
        lab.start_relay(1)
        lab.start_relay(2)
        servers = ["--stun", str(lab.plan.internet["relay1"].v4), "--stun", "relay2.lab.test"]
        report = netcheck(lab, *servers, "--api-url", lab.portal_url_of(lab.plan.client))
        family = report["families"][0]
        assert family["nat64"] == "2001:db8:64::/96"
        assert (family["reachable"], family["mapping"]) == (True, "endpoint-independent")
        assert report["families"][1]["reachable"] is None
        assert report["portal"]["reachable"], report["portal"]
