"""Which peers the relay sends to, whatever form their address takes."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from firezone.model import Endpoint
from firezone.turn.relay_peers import PeerPolicy

LOOPBACK = ["127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
LOOPBACK += ["::127.0.0.1", "2002:7f00:1::"]
LINK_LOCAL = ["169.254.169.254", "fe80::1", "::ffff:169.254.0.1", "64:ff9b::a9fe:a9fe"]
PRIVATE = ["10.1.2.3", "100.64.0.1", "172.31.0.1", "192.168.1.1", "fd00::1", "::ffff:10.0.0.1"]
PRIVATE += ["2002:0a01:0203::1", "64:ff9b::c0a8:101"]
NOBODY = ["0.0.0.0", "0.1.2.3", "255.255.255.255", "224.0.0.1", "239.1.1.1", "::", "ff02::1"]
NOBODY += ["::ffff:0.0.0.0", "2002:e000:1::", "64:ff9b::"]
PUBLIC = ["192.0.2.1", "8.8.8.8", "2001:db8::1", "64:ff9b::808:808", "2002:808:808::1"]


def allows(policy: PeerPolicy, address: str, port: int = 53) -> bool:
    return policy.allows(Endpoint.of(address, port))


@pytest.mark.parametrize("address", PUBLIC + PRIVATE)
def test_allowed_by_default(address: str) -> None:
    assert allows(PeerPolicy(), address)


@pytest.mark.parametrize("address", LOOPBACK + LINK_LOCAL + NOBODY)
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
    assert not allows(PeerPolicy(allow_private=False), address)


@pytest.mark.parametrize("address", NOBODY)
def test_nobodys_address_is_never_allowed(address: str) -> None:
    assert not allows(PeerPolicy(allow_loopback=True, allow_link_local=True), address)


def test_relayed_addresses_of_our_own_are_allowed() -> None:
    own = frozenset({ip_address("127.0.0.1"), ip_address("10.0.0.1")})
    policy = PeerPolicy(allow_private=False, own_addresses=own, own_ports=range(50000, 50010))
    assert allows(policy, "127.0.0.1", 50009)
    assert allows(policy, "10.0.0.1", 50000)
    assert not allows(policy, "10.0.0.1", 3478)
    assert not allows(policy, "10.0.0.2", 50000)
