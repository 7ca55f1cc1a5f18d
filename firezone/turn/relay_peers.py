"""Which peers a relay will send to.

A relay sends from inside the network it stands in, so a client could reach through it what the
outside cannot. Never allowed: addresses that are no host's (unspecified, multicast, broadcast) and,
unless switched on, the relay's own host (loopback) and link (link-local). Addresses of private
networks are allowed unless switched off, as gateways and clients commonly sit beside each other.
An IPv6 address that carries an IPv4 one (mapped, compatible, NAT64, 6to4) falls under the rules of
both, or it would be a way around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import Final

from firezone.model import Endpoint, IPAddress


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """The switches. `own_addresses` with a port in `own_ports` are our clients' relayed addresses:
    always allowed, or two clients of one relay could not reach each other."""

    allow_loopback: bool = False
    allow_link_local: bool = False
    allow_private: bool = True
    own_addresses: frozenset[IPAddress] = frozenset()
    own_ports: range = range(0)

    def allows(self, peer: Endpoint) -> bool:
        """Whether a channel or permission for this peer may be made (else 403 Forbidden)."""
        if peer.address in self.own_addresses and peer.port in self.own_ports:
            return True
        return not any(self._refuses(form) for form in _forms(peer.address))

    def _refuses(self, address: IPAddress) -> bool:
        if any(address in network for network in _NOBODY if network.version == address.version):
            return True
        return (
            (address.is_loopback and not self.allow_loopback)
            or (address.is_link_local and not self.allow_link_local)
            or (_is_private(address) and not self.allow_private)
        )


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


def _is_private(address: IPAddress) -> bool:
    return any(address in network for network in _PRIVATE if network.version == address.version)


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
