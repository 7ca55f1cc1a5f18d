"""The address plan of the tunnel network."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from firezone.model import IPAddress

TUNNEL_IPV4 = IPv4Network("100.64.0.0/11")
TUNNEL_IPV6 = IPv6Network("fd00:2021:1111::/107")
RESERVED = (IPv4Network("100.64.0.0/10"), IPv6Network("fd00:2021:1111::/48"))
"""The portal refuses resources in here: their addresses are the tunnel's own."""


def is_peer(address: IPAddress) -> bool:
    """Whether it is the tunnel address of some client or gateway."""
    return address in (TUNNEL_IPV4 if address.version == 4 else TUNNEL_IPV6)
