"""Which peers the relay sends to, whatever form their address takes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from firezone.addresses import is_private
from firezone.model import Endpoint
from firezone.turn.relay_peers import PeerPolicy

LOOPBACK = ["127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
LOOPBACK += ["::127.0.0.1", "2002:7f00:1::"]
LINK_LOCAL = ["169.254.169.254", "fe80::1", "::ffff:169.254.0.1", "64:ff9b::a9fe:a9fe"]
PRIVATE = ["10.1.2.3", "100.64.0.1", "172.31.0.1", "192.168.1.1", "fd00::1", "::ffff:10.0.0.1"]
PRIVATE += ["2002:0a01:0203::1", "64:ff9b::c0a8:101"]
RESERVED = ["192.0.0.192", "198.18.0.1", "198.19.255.1", "240.0.0.1", "168.63.129.16", "100::1"]
RESERVED += ["64:ff9b:1::a00:1", "64:ff9b:1::808:808"]
NOBODY = ["0.0.0.0", "0.1.2.3", "255.255.255.255", "224.0.0.1", "239.1.1.1", "::", "ff02::1"]
NOBODY += ["::ffff:0.0.0.0", "2002:e000:1::", "64:ff9b::"]
PUBLIC = ["192.0.2.1", "8.8.8.8", "2001:db8::1", "64:ff9b::808:808", "2002:808:808::1"]


def allows(policy: PeerPolicy, address: str, port: int = 53) -> bool:
    return policy.allows(Endpoint.of(address, port))


@pytest.mark.parametrize("address", PUBLIC)
def test_allowed_by_default(address: str) -> None:
    assert allows(PeerPolicy(), address)


@pytest.mark.parametrize("address", LOOPBACK + LINK_LOCAL + PRIVATE + NOBODY)
def test_refused_by_default(address: str) -> None:
    assert not allows(PeerPolicy(), address)


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_is_a_switch(address: str) -> None:
    assert allows(PeerPolicy(allow_loopback=True), address)


@pytest.mark.parametrize("address", LINK_LOCAL)
def test_link_local_is_a_switch(address: str) -> None:
    assert allows(PeerPolicy(allow_link_local=True), address)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_is_a_switch(address: str) -> None:
    assert allows(PeerPolicy(allow_private=True), address)


CARRY_PRIVATE = ["::ffff:0:10.0.0.1", "2001:0:808:808::f5ff:fffe", "2001:db8::5efe:10.0.0.1"]
CARRY_PRIVATE += ["2001:db8::200:5efe:10.0.0.1", "fe80::5efe:10.0.0.1"]
LOCAL_NAT64 = ["64:ff9b:1::a00:1", "64:ff9b:1:a00:0:100::", "64:ff9b:1:a:0:1::"]
LOCAL_NAT64 += ["64:ff9b:1:0:a:0:100::"]


@pytest.mark.parametrize("address", RESERVED + CARRY_PRIVATE)
def test_reserved_and_tunnelled_addresses_are_as_private_ones(address: str) -> None:
    assert not allows(PeerPolicy(), address)
    assert allows(PeerPolicy(allow_private=True, allow_link_local=True), address)


@pytest.mark.parametrize("address", LOCAL_NAT64)
def test_a_local_nat64_carries_an_address_at_each_length_of_prefix(address: str) -> None:
    """What is allowed of the prefix allows nothing behind it."""
    policy = PeerPolicy(allow=(ip_network("64:ff9b:1::/48"),))
    assert not allows(policy, address)
    assert allows(replace(policy, allow_private=True), address)


def test_public_addresses_in_tunnels() -> None:
    for address in ("2001:0:808:808::f7f7:f7f7", "2001:db8::5efe:8.8.8.8", "::ffff:0:8.8.8.8"):
        assert allows(PeerPolicy(), address)


@pytest.mark.parametrize("address", NOBODY)
def test_nobodys_address_is_never_allowed(address: str) -> None:
    everything = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    policy = PeerPolicy(allow_loopback=True, allow_link_local=True, allow=everything)
    assert not allows(policy, address)


def test_the_smallest_network_decides() -> None:
    """And the switches where no network does."""
    policy = PeerPolicy(
        allow=(ip_network("10.1.0.0/16"), ip_network("10.1.2.4/31"), ip_network("192.0.2.9")),
        deny=(ip_network("10.1.2.0/24"), ip_network("192.0.0.0/16"), ip_network("192.0.2.9")),
    )
    assert allows(policy, "10.1.3.1")
    assert not allows(policy, "10.1.2.3")
    assert allows(policy, "10.1.2.5")
    assert not allows(policy, "10.2.0.1")
    assert not allows(policy, "192.0.2.1")
    assert not allows(policy, "192.0.2.9")
    assert allows(policy, "198.51.100.1")
    assert not allows(policy, "64:ff9b::a01:203")


def is_relayed(endpoint: Endpoint) -> bool:
    return endpoint.port in (50000, 50009)


def test_relayed_addresses_of_our_own_are_allowed() -> None:
    """And nothing else of this host, or its services would be open to all clients."""
    own = frozenset({ip_address("192.0.2.1"), ip_address("10.0.0.1")})
    policy = PeerPolicy(
        allow_private=True,
        deny=(ip_network("192.0.2.0/24"),),
        own_addresses=own,
        is_relayed=is_relayed,
    )
    assert allows(policy, "192.0.2.1", 50009)
    assert allows(policy, "10.0.0.1", 50000)
    for port in (22, 3478, 50001):
        assert not allows(policy, "192.0.2.1", port)
        assert not allows(policy, "10.0.0.1", port)
    assert allows(policy, "10.0.0.2", 3478)
    assert policy.permits(ip_address("192.0.2.1")) and policy.permits(ip_address("10.0.0.2"))
    assert not policy.permits(ip_address("192.0.2.2"))


def test_this_host_by_any_of_its_addresses() -> None:
    host = frozenset({ip_address("192.0.2.9"), ip_address("2001:db8::9")})
    own = frozenset({ip_address("192.0.2.1")})
    policy = PeerPolicy(own_addresses=own, is_relayed=is_relayed, host_addresses=host)
    for address in ("192.0.2.9", "2001:db8::9", "192.0.2.1", "64:ff9b::c000:209"):
        assert not allows(policy, address, 22)
        assert allows(replace(policy, allow_loopback=True), address, 22)
    assert not allows(policy, "192.0.2.9", 50000)


def test_own_services_can_be_opened() -> None:
    own = frozenset({ip_address("192.0.2.1")})
    policy = PeerPolicy(allow=(ip_network("192.0.2.1"),), own_addresses=own)
    assert allows(policy, "192.0.2.1", 22)


def test_private_networks() -> None:
    private = [text for text in PUBLIC + PRIVATE if is_private(ip_address(text))]
    assert private == PRIVATE[:5]
