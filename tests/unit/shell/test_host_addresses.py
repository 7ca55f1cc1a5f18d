"""Which of a host's addresses its peers get to know."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.policy.addresses import RESERVED
from firezone.shell.host_addresses import MAX_HOST_ADDRESSES, host_addresses
from firezone.shell.rtnetlink import Link, LinkAddress

# netdevice(7), <linux/if_arp.h>, <linux/if_addr.h>
UP, BROADCAST, LOOPBACK, POINT_TO_POINT, RUNNING, NO_ARP = 0x1, 0x2, 0x8, 0x10, 0x40, 0x80
LAN_FLAGS = UP | BROADCAST | RUNNING | 0x1000
ETHERNET, INFINIBAND, PPP, LOOPBACK_HARDWARE, IPIP, NONE = 1, 32, 512, 772, 768, 0xFFFE
TEMPORARY = SECONDARY = 0x01
OPTIMISTIC, DAD_FAILED, DEPRECATED, TENTATIVE, PERMANENT = 0x04, 0x08, 0x20, 0x40, 0x80

TUNNEL = 9
ETH0, ETH1 = Link(2, ETHERNET, LAN_FLAGS), Link(3, ETHERNET, LAN_FLAGS)
HOME = LinkAddress(2, ip_interface("192.168.1.2/24"))
LAN = LinkAddress(3, ip_interface("10.7.0.2/24"))


def found(links, addresses, *, outward=(), held=()):
    chosen = host_addresses(
        links,
        addresses,
        tunnel=TUNNEL,
        outward=[ip_address(a) for a in outward],
        held=[ip_address(a) for a in held],
    )
    return [str(address) for address in chosen]


def at(link, text, flags=0):
    return LinkAddress(link, ip_interface(text), flags)


def test_the_addresses_of_all_networks_of_this_host():
    assert found([ETH0, ETH1], [LAN, HOME]) == ["192.168.1.2", "10.7.0.2"]


def test_what_faces_the_internet_comes_first():
    addresses = [HOME, at(2, "2001:db8::2/64"), LAN, at(3, "fd07::2/64")]
    outward = ["10.7.0.2", "fd07::2"]
    chosen = found([ETH0, ETH1], addresses, outward=outward)
    assert chosen == [*outward, "192.168.1.2", "2001:db8::2"]


@pytest.mark.parametrize(
    "link",
    [
        Link(2, ETHERNET, LAN_FLAGS & ~UP),
        Link(2, ETHERNET, LAN_FLAGS & ~RUNNING),
        Link(1, LOOPBACK_HARDWARE, UP | RUNNING | LOOPBACK),
        Link(2, NONE, UP | RUNNING | POINT_TO_POINT | NO_ARP, "tun"),
        Link(2, NONE, UP | RUNNING | POINT_TO_POINT | NO_ARP, "wireguard"),
        Link(2, NONE, LAN_FLAGS),
        Link(2, PPP, UP | RUNNING | POINT_TO_POINT | NO_ARP, "ppp"),
        Link(2, IPIP, UP | RUNNING | NO_ARP, "ipip"),
        Link(2, ETHERNET, LAN_FLAGS | POINT_TO_POINT),
        Link(2, ETHERNET, LAN_FLAGS | NO_ARP, "dummy"),
        Link(2, ETHERNET, LAN_FLAGS, "tun"),
        Link(TUNNEL, ETHERNET, LAN_FLAGS),
    ],
)
def test_interfaces_without_neighbours_are_left_out(link):
    """Even where the address faces the internet: relays may know it, we do not spread it."""
    here = at(link.index, "192.168.1.2/24")
    assert found([link], [here]) == []
    assert found([link], [here], outward=["192.168.1.2"], held=["192.168.1.2"]) == []


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1/8",
        "127.9.9.9/8",
        "169.254.7.7/16",
        "224.0.0.251/4",
        "0.0.0.0/0",
        "100.64.0.1/11",
        "100.96.0.1/32",
        "100.127.255.254/10",
        "::1/128",
        "::/128",
        "fe80::1/64",
        "ff02::1/16",
        "fd00:2021:1111::1/107",
        "fd00:2021:1111:8000::5/128",
        "::ffff:100.64.0.1/128",
    ],
)
def test_addresses_that_are_nobodys_business_are_left_out(text):
    address = text.partition("/")[0]
    assert found([ETH0], [at(2, text)], outward=[address], held=[address]) == []


@pytest.mark.parametrize("text", ["100.63.255.255/8", "100.128.0.0/8", "fd00:2021:1110::1/64"])
def test_their_neighbours_are_not(text):
    assert found([ETH0], [at(2, text)]) == [text.partition("/")[0]]


def test_addresses_of_unknown_interfaces_are_left_out():
    assert found([ETH0], [LAN]) == []


@pytest.mark.parametrize(
    ("ports", "is_found"),
    [
        ([], False),
        (["veth"], False),
        (["veth", "tun"], False),
        ([""], True),
        (["veth", "bond"], True),
        (["vlan"], True),
    ],
)
def test_bridges_count_that_lead_out_of_this_host(ports, is_found):
    bridge = Link(5, ETHERNET, LAN_FLAGS, "bridge")
    links = [Link(10 + n, ETHERNET, LAN_FLAGS, kind, 5) for n, kind in enumerate(ports)]
    assert found([bridge, *links], [at(5, "172.17.0.1/16")]) == ["172.17.0.1"] * is_found


def test_a_container_of_its_own_is_on_a_network():
    assert found([Link(2, ETHERNET, LAN_FLAGS, "veth")], [HOME]) == ["192.168.1.2"]


def test_infiniband_is_a_network():
    assert found([Link(2, INFINIBAND, LAN_FLAGS)], [HOME]) == ["192.168.1.2"]


@pytest.mark.parametrize("flags", [TENTATIVE, TENTATIVE | OPTIMISTIC, DAD_FAILED])
def test_addresses_that_do_not_work_are_left_out(flags):
    address = at(2, "2001:db8::2/64", flags)
    assert found([ETH0], [address], held=["2001:db8::2"]) == []


def test_a_deprecated_address_is_kept_by_those_that_have_it_but_told_to_nobody():
    address = at(2, "2001:db8::2/64", DEPRECATED)
    fresh = at(2, "2001:db8::3/64")
    assert found([ETH0], [address]) == []
    assert found([ETH0], [address, fresh], held=["2001:db8::2"]) == ["2001:db8::3", "2001:db8::2"]


def test_temporary_addresses_hide_the_stable_one_of_their_network():
    stable, temporary = at(2, "2001:db8::2/64", PERMANENT), at(2, "2001:db8::aa/64", TEMPORARY)
    elsewhere = at(2, "fd07::2/64", PERMANENT)
    addresses = [stable, temporary, elsewhere]
    assert found([ETH0], addresses) == ["2001:db8::aa", "fd07::2"]
    assert "2001:db8::2" in found([ETH0], addresses, held=["2001:db8::2"])
    assert "2001:db8::2" in found([ETH0], addresses, outward=["2001:db8::2"])


def test_a_temporary_address_that_is_deprecated_hides_nothing():
    stable = at(2, "2001:db8::2/64")
    old = at(2, "2001:db8::aa/64", TEMPORARY | DEPRECATED)
    assert found([ETH0], [stable, old]) == ["2001:db8::2"]


def test_in_ipv4_that_flag_means_secondary_and_hides_nothing():
    addresses = [at(2, "192.168.1.1/24", SECONDARY), HOME]
    assert found([ETH0], addresses) == ["192.168.1.2", "192.168.1.1"]


def test_few_are_told_and_the_outward_one_among_them():
    links = [Link(n, ETHERNET, LAN_FLAGS) for n in range(20, 60)]
    addresses = [at(n, f"10.0.{n}.1/24") for n in range(20, 60)]
    chosen = found(links, addresses, outward=["10.0.59.1"])
    assert chosen == ["10.0.59.1", *(f"10.0.{n}.1" for n in range(20, 27))]
    assert len(chosen) == MAX_HOST_ADDRESSES


LINKS = st.builds(
    Link,
    st.integers(1, 12),
    st.sampled_from([ETHERNET, INFINIBAND, PPP, LOOPBACK_HARDWARE, NONE]),
    st.integers(0, 0xFF),
    st.sampled_from(["", "bridge", "tun", "veth", "wireguard"]),
    st.none() | st.integers(1, 12),
)
IPS = st.ip_addresses() | st.ip_addresses(network="100.64.0.0/10") | st.ip_addresses(v=4)
IPS |= st.ip_addresses(network="fd00:2021:1111::/48")
ADDRESSES = st.builds(LinkAddress, st.integers(1, 12), IPS.map(ip_interface), st.integers(0, 0xFF))


@given(st.lists(LINKS), st.lists(ADDRESSES), st.data())
def test_nothing_of_a_tunnel_ever_gets_out(links, addresses, data):
    ips = [a.interface.ip for a in addresses]
    some = st.lists(st.sampled_from(ips), max_size=4) if ips else st.just([])
    chosen = host_addresses(
        links, addresses, tunnel=TUNNEL, outward=data.draw(some), held=data.draw(some)
    )
    assert len(chosen) == len(set(chosen)) <= MAX_HOST_ADDRESSES
    closed = LOOPBACK | POINT_TO_POINT | NO_ARP
    for ip in chosen:
        assert not any(ip in network for network in RESERVED)
        owners = {a.link for a in addresses if a.interface.ip == ip} - {TUNNEL}
        assert any(
            link.index in owners
            and link.driver != "tun"
            and link.hardware in (ETHERNET, INFINIBAND)
            and link.flags & UP
            and not link.flags & closed
            for link in links
        )
