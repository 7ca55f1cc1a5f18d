"""One site has IPv6 alone and a NAT64; portal, relay and the other site have IPv4 alone."""

from __future__ import annotations

import pytest

from firezone.lab import Nat, Site, netns
from firezone.lab.matrix import between, use
from firezone.lab.nat64 import PREFIX
from firezone.lab.paths import DIRECT, RELAYED, expected_path
from firezone.lab.topology import CLIENT, RESOURCE_ALLOWED

V4, V6 = frozenset({4}), frozenset({6})


def behind_nat64(nat: Nat) -> Site:
    return Site(nat, V6, nat64=True)


CASES = [
    (behind_nat64(Nat.SYMMETRIC), Site(Nat.CONE, V4), RELAYED),
    (behind_nat64(Nat.CONE), Site(Nat.SHIFTED_CONE, V4), DIRECT),
    (Site(Nat.SYMMETRIC, V4), behind_nat64(Nat.RESTRICTED_CONE), DIRECT),
]


@pytest.mark.parametrize(("client", "gateway", "path"), CASES)
def test_the_path(client: Site, gateway: Site, path: str) -> None:
    assert expected_path(client, gateway) == path
    cell = use(between(client, gateway))
    assert cell.path == path, cell
    assert cell.ok, cell


def test_it_is_found_when_ipv4_goes() -> None:
    with between(behind_nat64(Nat.CONE), Site(Nat.CONE, V4)) as lab:
        lab.start_resource()
        lab.start_portal()
        lab.start_relay()
        lab.start_gateway()
        netns.ip_batch(DEAD_IPV4, lab.namespace(CLIENT))
        client = lab.start_client()
        assert not any(line.get("event") == "nat64_prefix" for line in client.lines())
        netns.ip_batch(["link delete dead"], lab.namespace(CLIENT))
        assert client.wait_for_event("nat64_prefix")["prefix"] == str(PREFIX)
        assert lab.fetch(f"http://{RESOURCE_ALLOWED.v4}/").status == 200, client.tail()


DEAD_IPV4 = [
    "link add dead type veth peer name end",
    "link set dead up",
    "link set end up",
    "address add 10.99.0.2/24 dev dead",
    "route add default via 10.99.0.1",
]
