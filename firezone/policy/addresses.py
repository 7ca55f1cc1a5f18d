"""The address plan of the tunnel network."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from firezone.model import IPAddress

TUNNEL_IPV4 = IPv4Network("100.64.0.0/11")
TUNNEL_IPV6 = IPv6Network("fd00:2021:1111::/107")
DNS_RESOURCE_IPV4 = IPv4Network("100.96.0.0/11")
DNS_RESOURCE_IPV6 = IPv6Network("fd00:2021:1111:8000::/107")
RESERVED = (IPv4Network("100.64.0.0/10"), IPv6Network("fd00:2021:1111::/48"))
"""The portal refuses CIDR resources in here."""


def is_peer(address: IPAddress) -> bool:
    """Whether it is the tunnel address of some client or gateway."""
    return address in (TUNNEL_IPV4 if address.version == 4 else TUNNEL_IPV6)
