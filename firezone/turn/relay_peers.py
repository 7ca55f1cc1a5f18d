"""Which peers a relay will send to.

A relay sends from inside the network it stands in, so a client could reach through it what the
outside cannot. Never allowed: addresses that are no host's (unspecified, multicast, broadcast). By
default not allowed either: the relay's own host (loopback, and all its addresses but for the ports
of allocations), its link (link-local), and private networks; gateways behind such addresses are
reached by those that the Internet sees. Switches and lists of networks change that; of the
networks that hold an address the smallest decides, and of two equal ones the denied one.

An IPv6 address that carries an IPv4 one (mapped, translated, compatible, NAT64, 6to4, Teredo,
ISATAP) falls under the rules of both, or it would be a way around them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

from firezone.model import Endpoint, IPAddress

IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """The switches and lists. `is_relayed` knows the relayed addresses of our clients' allocations
    at that moment, among `own_addresses`: always allowed, or two clients of one relay could not
    reach each other. All else of these and of `host_addresses` is this host, as loopback is: the
    ports of allocations are those of its other programs, too."""

    allow_loopback: bool = False
    allow_link_local: bool = False
    allow_private: bool = False
    allow: tuple[IPNetwork, ...] = ()
    deny: tuple[IPNetwork, ...] = ()
    own_addresses: frozenset[IPAddress] = frozenset()
    is_relayed: Callable[[Endpoint], bool] = lambda endpoint: False
    host_addresses: frozenset[IPAddress] = frozenset()

    def with_networks(
        self, allow: tuple[IPNetwork, ...], deny: tuple[IPNetwork, ...]
    ) -> PeerPolicy:
        """The same, with more in its lists."""
        return replace(self, allow=self.allow + allow, deny=self.deny + deny)

    def allows(self, peer: Endpoint) -> bool:
        """Whether a channel for this peer may be made or data be sent there (else 403)."""
        if peer.address in self.own_addresses and self.is_relayed(peer):
            return True
        return all(self._allows(form) for form in _forms(peer.address))

    def permits(self, address: IPAddress) -> bool:
        """Whether a permission for this address may be made: some port of it is allowed."""
        return address in self.own_addresses or self.allows(Endpoint(address, 0))

    def _allows(self, address: IPAddress) -> bool:
        if _is_nobodys(address):
            return False
        if not self.allow and not self.deny:
            return self._is_usual(address)
        allowed, denied = _closest(self.allow, address), _closest(self.deny, address)
        if allowed == denied == -1:
            return self._is_usual(address)
        return allowed > denied

    def _is_usual(self, address: IPAddress) -> bool:
        """Whether it is allowed where no list speaks of it."""
        is_own = address in self.own_addresses or address in self.host_addresses
        if is_own or address.is_loopback:
            return self.allow_loopback
        if address.is_link_local:
            return self.allow_link_local
        return self.allow_private or not is_private(address)


@lru_cache(maxsize=4096)
def is_private(address: IPAddress) -> bool:
    """Whether it belongs to networks that the Internet does not reach: private ones, the shared
    ones of providers, those reserved for protocols, benchmarks or nothing yet; or is the one
    address by which a large cloud serves the very host that asks."""
    return _holds(_PRIVATE, address)


_NOBODY: Final = tuple(
    ip_network(text) for text in ("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255", "::", "ff00::/8")
)
_PRIVATE: Final = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "168.63.129.16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "64:ff9b:1::/48",
        "100::/64",
        "fc00::/7",
        "fec0::/10",
    )
)
_COMPATIBLE: Final = IPv6Network("::/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")
"""RFC 8215. The length of the prefix in use there, and so the place of the IPv4 address, is the
network's own choice."""
_TRANSLATED: Final = IPv6Network("::ffff:0:0:0/96")
"""RFC 2765, once of SIIT."""
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_ISATAP: Final = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
"""How an interface identifier begins that ends in an IPv4 address (RFC 5214 section 6.1)."""


@lru_cache(maxsize=4096)
def _is_nobodys(address: IPAddress) -> bool:
    """Remembered, like what is private, because many clients have the same few peers."""
    return _holds(_NOBODY, address)


def _holds(networks: tuple[IPNetwork, ...], address: IPAddress) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _closest(networks: tuple[IPNetwork, ...], address: IPAddress) -> int:
    """The longest prefix among those that hold the address, -1 if none does."""
    same = [network for network in networks if network.version == address.version]
    return max((network.prefixlen for network in same if address in network), default=-1)


def _forms(address: IPAddress) -> Iterator[IPAddress]:
    """The address, and the IPv4 addresses it carries or may carry."""
    yield address
    if isinstance(address, IPv6Address):
        yield from (IPv4Address(carried) for carried in _carried(address))


def _carried(address: IPv6Address) -> Iterator[bytes]:
    packed = address.packed
    if address.ipv4_mapped is not None or address in _NAT64 or address in _TRANSLATED:
        yield packed[12:]
    elif address in _COMPATIBLE:
        if int(address) > 1:  # `::` and `::1` lie there, too, but mean something else
            yield packed[12:]
    elif address in _LOCAL_NAT64:
        yield from _in_local_nat64(packed)
    elif address in _SIX_TO_FOUR:
        yield packed[2:6]
    elif address in _TEREDO:  # RFC 4380 section 4: the client's, with its bits inverted
        yield bytes(byte ^ 0xFF for byte in packed[12:])
    if packed[8:12] in _ISATAP:
        yield packed[12:]


def _in_local_nat64(packed: bytes) -> Iterator[bytes]:
    """By each length of prefix (RFC 6052 section 2.2), but for those that read nothing there."""
    yield from (
        carried
        for carried in (
            packed[6:8] + packed[9:11],
            packed[7:8] + packed[9:12],
            packed[9:13],
            packed[12:],
        )
        if carried[0]
    )
