"""Which addresses of this host a peer on the same network may reach it at: its host candidates.

Of what the kernel tells, only addresses on a network with neighbours count. Left out are

- interfaces that are down or have no carrier, loopback, and point-to-point links and tunnels of any
  kind, ours and others': what is in a tunnel is nobody's business outside, and a tunnel that runs
  through another one ends with it;
- bridges that join nothing but containers and virtual machines of this host: the same addresses
  exist on every host with such a bridge, and they lead nowhere;
- loopback, link-local, multicast and unspecified addresses, and all that the tunnel network
  reserves, which is carrier-grade NAT space as well (RFC 6598);
- IPv6 addresses that are not usable (yet), or deprecated (RFC 4862 section 5.5.4);
- the stable IPv6 address where a temporary one stands beside it (RFC 8981): this host does not want
  to be recognised.

The address that the kernel sends from to the internet comes first; the relays see that one anyway.
An address that was told once stays while it can be used: deprecated means no new uses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv6Address

from firezone.model import IPAddress
from firezone.node import MAX_HOST_ADDRESSES
from firezone.policy.addresses import RESERVED
from firezone.shell.rtnetlink import IPNetwork, Link, LinkAddress


def host_addresses(
    links: Collection[Link],
    addresses: Collection[LinkAddress],
    *,
    tunnel: int,
    outward: Sequence[IPAddress],
    held: Collection[IPAddress] = (),
) -> tuple[IPAddress, ...]:
    """The addresses to tell peers, the best first.

    `tunnel` is the index of our own interface, `outward` the addresses that the kernel sends from
    to the internet, `held` what was told before.
    """
    open_links = {link.index for link in links if link.index != tunnel and _has_neighbours(link)}
    open_links -= _inner_bridges(links)
    usable = [a for a in addresses if a.link in open_links and _is_usable(a)]
    temporary = {_network(a) for a in usable if _is_temporary(a) and not a.flags & _DEPRECATED}
    kept = {*held, *outward}
    chosen = [a for a in usable if a.interface.ip in kept or _is_fresh(a, temporary)]
    ranks = {address: rank for rank, address in enumerate(outward)}
    chosen.sort(key=lambda a: (ranks.get(a.interface.ip, len(ranks)), *_order(a)))
    return tuple(dict.fromkeys(a.interface.ip for a in chosen))[:MAX_HOST_ADDRESSES]


_Network = tuple[int, IPNetwork]

# netdevice(7), <linux/if_arp.h>, <linux/if_addr.h>
_IFF_UP, _IFF_BROADCAST, _IFF_RUNNING, _IFF_NOARP = 0x1, 0x2, 0x40, 0x80
_IFF_LOOPBACK, _IFF_POINTOPOINT = 0x8, 0x10
_OPEN = _IFF_UP | _IFF_RUNNING | _IFF_BROADCAST
_CLOSED = _IFF_LOOPBACK | _IFF_POINTOPOINT | _IFF_NOARP
_ETHERNET, _INFINIBAND = 1, 32
_TEMPORARY = _SECONDARY = 0x01  # in IPv6, in IPv4
_DAD_FAILED, _DEPRECATED, _TENTATIVE = 0x08, 0x20, 0x40


def _has_neighbours(link: Link) -> bool:
    """Layer 2 with neighbours to find. The driver "tun" also makes such interfaces (tap): they are
    other VPNs' tunnels, or end in a virtual machine."""
    is_open = link.flags & (_OPEN | _CLOSED) == _OPEN
    return is_open and link.hardware in (_ETHERNET, _INFINIBAND) and link.driver != "tun"


def _inner_bridges(links: Iterable[Link]) -> set[int]:
    bridges = {link.index for link in links if link.driver == "bridge"}
    return bridges - {link.master for link in links if link.driver not in ("veth", "tun")}


def _is_usable(address: LinkAddress) -> bool:
    ip = address.interface.ip
    if address.flags & (_TENTATIVE | _DAD_FAILED) or any(
        (ip.is_loopback, ip.is_link_local, ip.is_multicast, ip.is_unspecified)
    ):
        return False
    is_mapped = isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None
    return not is_mapped and not any(ip in network for network in RESERVED)


def _is_fresh(address: LinkAddress, temporary: Collection[_Network]) -> bool:
    """Whether to tell it to somebody for the first time."""
    if address.flags & _DEPRECATED:
        return False
    return _is_temporary(address) or _network(address) not in temporary


def _is_temporary(address: LinkAddress) -> bool:
    return address.interface.version == 6 and bool(address.flags & _TEMPORARY)


def _network(address: LinkAddress) -> _Network:
    return address.link, address.interface.network


def _order(address: LinkAddress) -> tuple[bool, int, bool, int, int]:
    """Among those that do not face the internet."""
    ip = address.interface.ip
    is_secondary = ip.version == 4 and bool(address.flags & _SECONDARY)
    is_deprecated = bool(address.flags & _DEPRECATED)
    return is_deprecated, address.link, is_secondary, ip.version, int(ip)
