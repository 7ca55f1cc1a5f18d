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


@pytest.mark.parametrize("carrier", [None, Nat.CONE])
def test_a_shared_nat_is_one_router_with_two_networks(carrier: Nat | None) -> None:
    plan = topology.shared_plan(Site(carrier=carrier), relays=1)
    assert plan.client.router == plan.gateway.router == "client-nat"
    assert plan.client.inside_device != plan.gateway.inside_device
    assert plan.client.router_inside != plan.gateway.router_inside
    assert plan.client.outside == plan.gateway.outside
    assert "gateway-nat" not in plan.hosts
    assert len(set(plan.hosts)) == len(plan.hosts)


def test_a_router_with_two_networks_keeps_them_apart_unless_it_is_plain() -> None:
    assert "ct status & dnat == 0 drop" in router_rules(Nat.CONE, isolating=True)
    assert router_rules(Nat.NONE, isolating=True) == ""


def test_portal_and_relays_may_have_one_family() -> None:
    site = Site(families=frozenset({6}), nat64=True)
    plan = topology.plan(site, Site(), relays=1, public_families=frozenset({4}))
    families = {host: sorted(plan.families_of(host)) for host in plan.internet}
    assert families == {
        "portal": [4],
        "relay1": [4],
        "client-nat": [4, 6],
        "gateway-nat": [4, 6],
    }
