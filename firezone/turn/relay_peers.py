"""Which peers a relay will send to.

A relay sends from inside the network it stands in, so a client could reach through it what the
outside cannot. Never allowed: addresses that are no host's (unspecified, multicast, broadcast). By
default not allowed either: the relay's own host (loopback, and all its addresses but for the ports
of allocations), its link (link-local), and private networks; gateways behind such addresses are
reached by those that the Internet sees. Switches and lists of networks change that; of the
networks that hold an address the smallest decides, and of two equal ones the denied one.

An IPv6 address that carries an IPv4 one (mapped, compatible, NAT64, 6to4) falls under the rules of
both, or it would be a way around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

from firezone.model import Endpoint, IPAddress

IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """The switches and lists. `own_addresses` with a port in `own_ports` are our clients' relayed
    addresses: always allowed, or two clients of one relay could not reach each other. They and
    `host_addresses` are otherwise this host, as loopback is."""

    allow_loopback: bool = False
    allow_link_local: bool = False
    allow_private: bool = False
    allow: tuple[IPNetwork, ...] = ()
    deny: tuple[IPNetwork, ...] = ()
    own_addresses: frozenset[IPAddress] = frozenset()
    own_ports: range = range(0)
    host_addresses: frozenset[IPAddress] = frozenset()

    def allows(self, peer: Endpoint) -> bool:
        """Whether a channel for this peer may be made or data be sent there (else 403)."""
        if peer.address in self.own_addresses and peer.port in self.own_ports:
            return True
        return all(self._allows(form) for form in _forms(peer.address))

    def permits(self, address: IPAddress) -> bool:
        """Whether a permission for this address may be made: some port of it is allowed."""
        return address in self.own_addresses or self.allows(Endpoint(address, 0))

    def _allows(self, address: IPAddress) -> bool:
        if _holds(_NOBODY, address):
            return False
        allowed, denied = _closest(self.allow, address), _closest(self.deny, address)
        if allowed == denied == -1:
            return self._is_usual(address)
        return allowed > denied

    def _is_usual(self, address: IPAddress) -> bool:
        """Whether it is allowed where no list speaks of it."""
        if address.is_loopback or address in self.own_addresses | self.host_addresses:
            return self.allow_loopback
        if address.is_link_local:
            return self.allow_link_local
        return self.allow_private or not is_private(address)


def is_private(address: IPAddress) -> bool:
    """Whether it belongs to private networks, the shared ones of providers included."""
    return _holds(_PRIVATE, address)


_NOBODY: Final = tuple(
    ip_network(text) for text in ("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255", "::", "ff00::/8")
)
_PRIVATE: Final = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fc00::/7",
        "fec0::/10",
    )
)
_COMPATIBLE: Final = IPv6Network("::/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")


def _holds(networks: tuple[IPNetwork, ...], address: IPAddress) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _closest(networks: tuple[IPNetwork, ...], address: IPAddress) -> int:
    """The longest prefix among those that hold the address, -1 if none does."""
    same = [network for network in networks if network.version == address.version]
    return max((network.prefixlen for network in same if address in network), default=-1)


def _forms(address: IPAddress) -> Iterator[IPAddress]:
    """The address, and the IPv4 address it carries."""
    yield address
    if isinstance(address, IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address in _NAT64 or (address in _COMPATIBLE and not _is_well_known(address)):
        yield IPv4Address(address.packed[12:])
    elif address in _SIX_TO_FOUR:
        yield IPv4Address(address.packed[2:6])


def _is_well_known(address: IPv6Address) -> bool:
    """`::` and `::1` lie in the range of IPv4-compatible addresses but mean something else."""
    return int(address) <= 1
