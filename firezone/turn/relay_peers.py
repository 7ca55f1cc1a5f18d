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

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network

from firezone.addresses import forms, is_nobodys, is_private
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
    one_port: int | None = None
    """That of the relay and of all allocations, if they have but one: on this host it is reached by
    the relayed address only, or what comes back could be taken for a client's."""

    def with_networks(
        self, allow: tuple[IPNetwork, ...], deny: tuple[IPNetwork, ...]
    ) -> PeerPolicy:
        """The same, with more in its lists."""
        return replace(self, allow=self.allow + allow, deny=self.deny + deny)

    def allows(self, peer: Endpoint) -> bool:
        """Whether a channel for this peer may be made or data be sent there (else 403)."""
        if peer.address in self.own_addresses and self.is_relayed(peer):
            return True
        if peer.port == self.one_port and any(map(self._is_this_host, forms(peer.address))):
            return False
        return all(self._allows(form) for form in forms(peer.address))

    def permits(self, address: IPAddress) -> bool:
        """Whether a permission for this address may be made: some port of it is allowed."""
        return address in self.own_addresses or self.allows(Endpoint(address, 0))

    def _allows(self, address: IPAddress) -> bool:
        if is_nobodys(address):
            return False
        if not self.allow and not self.deny:
            return self._is_usual(address)
        allowed, denied = _closest(self.allow, address), _closest(self.deny, address)
        if allowed == denied == -1:
            return self._is_usual(address)
        return allowed > denied

    def _is_usual(self, address: IPAddress) -> bool:
        """Whether it is allowed where no list speaks of it."""
        if self._is_this_host(address):
            return self.allow_loopback
        if address.is_link_local:
            return self.allow_link_local
        return self.allow_private or not is_private(address)

    def _is_this_host(self, address: IPAddress) -> bool:
        is_own = address in self.own_addresses or address in self.host_addresses
        return is_own or address.is_loopback


def _closest(networks: tuple[IPNetwork, ...], address: IPAddress) -> int:
    """The longest prefix among those that hold the address, -1 if none does."""
    same = [network for network in networks if network.version == address.version]
    return max((network.prefixlen for network in same if address in network), default=-1)
