"""The plan of a lab, its filters and its log reading, without a network."""

from __future__ import annotations

import pytest

from firezone.lab import Nat, Site, topology
from firezone.lab.nat import block_rules, router_rules
from firezone.lab.topology import RESOURCE_ALLOWED, RESOURCE_DENIED


def test_every_host_has_an_address_of_its_own() -> None:
    plan = topology.plan(Site(), Site(), relays=9)
    addresses = [a for each in plan.internet.values() for a in each.addresses()]
    assert len(set(addresses)) == len(addresses) == 2 * (1 + 9 + 2)
    assert len(set(plan.hosts)) == len(plan.hosts)


def test_namespaces_and_interfaces_fit_the_kernel() -> None:
    plan = topology.plan(Site(), Site(), relays=9)
    assert all(len(host) <= 15 for host in plan.hosts)


def test_a_site_of_one_family() -> None:
    addresses = topology.internet_addresses(10)
    assert addresses.interfaces(frozenset({4})) == ["203.0.113.10/24"]
    assert [n.version for n in addresses.networks(frozenset({6}))] == [6]


def test_the_resource_can_be_told_from_the_denied_one() -> None:
    assert RESOURCE_ALLOWED.v4 != RESOURCE_DENIED.v4
    assert RESOURCE_ALLOWED.networks() == RESOURCE_DENIED.networks()


@pytest.mark.parametrize(
    ("kind", "present", "absent"),
    [
        (Nat.CONE, "masquerade\n", "random"),
        (Nat.SYMMETRIC, "masquerade fully-random", "udp drop"),
        (Nat.UDP_BLOCKED, "meta l4proto udp drop", "random"),
        (Nat.FULL_CONE, "dnat ip to udp dport map @hosts4", "@asked4"),
        (Nat.RESTRICTED_CONE, "udp dport . ip saddr @asked4", "random"),
        (Nat.SHIFTED_CONE, "masquerade to :jhash ip saddr . udp sport mod", "random"),
    ],
)
def test_rules_of_a_router(kind: Nat, present: str, absent: str) -> None:
    rules = router_rules(kind)
    assert present in rules
    assert absent not in rules


def test_a_plain_router_has_no_rules() -> None:
    assert router_rules(Nat.NONE) == ""


def test_a_hole_swallows_what_is_larger() -> None:
    assert "meta length > 1300 drop" in router_rules(Nat.NONE, mtu_hole=1300)


def test_a_carrier_stands_between_the_router_and_the_internet() -> None:
    plan = topology.plan(Site(carrier=Nat.CONE), Site(), relays=1)
    assert plan.internet["client-carrier"] == plan.client.outside
    assert "client-nat" not in plan.internet
    assert {"client-nat", "client-carrier"} <= set(plan.hosts)
    assert all(len(host) <= 15 for host in plan.hosts)
    assert plan.client.router_outside.v4 in plan.client.carrier_inside.networks()[0]


def test_blocking_names_the_other_site_and_no_relay() -> None:
    plan = topology.plan(Site(), Site(), relays=1)
    rules = block_rules(plan.gateway)
    assert "203.0.113.41" in rules
    assert "192.168.2.0/24" in rules
    assert str(plan.internet["relay1"].v4) not in rules
