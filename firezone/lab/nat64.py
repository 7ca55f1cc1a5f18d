"""A site that has IPv6 alone: its router translates (NAT64), its DNS makes addresses up (DNS64).

The translator is TAYGA, without state: it gives each host of the site an IPv4 address of a pool.
What leaves the router from the pool goes through its NAT, whose kind thus decides how the site
looks from outside, as for any other site.

    client -- IPv6 --> router: TAYGA on `nat64` -- IPv4 from the pool --> NAT --> internet
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from firezone.lab.topology import Addresses, SitePlan

PREFIX = IPv6Network("2001:db8:64::/96")
"""The network's own: the well-known one is not for the lab's addresses (RFC 6052 section 3.1)."""
POOL = IPv4Network("192.168.255.0/24")
DEVICE = "nat64"
DOMAIN = "lab.test"
"""The hosts on the internet have names in it, for sites whose DNS the lab runs."""


def configuration() -> str:
    """TAYGA's."""
    lines = (
        f"tun-device {DEVICE}",
        f"ipv4-addr {POOL[1]}",
        f"prefix {PREFIX}",
        f"dynamic-pool {POOL}",
    )
    return "\n".join(lines) + "\n"


def device_commands() -> Iterator[str]:
    """`ip` commands for the router, once TAYGA has made its device."""
    yield f"link set {DEVICE} up"
    yield f"route add {POOL} dev {DEVICE}"
    yield f"route add {PREFIX} dev {DEVICE}"


def resolver_arguments(
    site: SitePlan, hosts: Mapping[str, Addresses], families: frozenset[int]
) -> list[str]:
    """Of `dns64.py`: where it listens, the prefix, and the names of `hosts`."""
    names = (
        f"{host}.{DOMAIN}={address}"
        for host, addresses in hosts.items()
        for address in addresses.addresses(families)
    )
    return [str(site.router_inside.v6), str(PREFIX.network_address), *names]


def write_resolver_files(site: SitePlan, directory: Path) -> None:
    """What a host of the site has to have in /etc."""
    directory.mkdir(exist_ok=True)
    (directory / "resolv.conf").write_text(f"nameserver {site.router_inside.v6}\n")
    # Other sources, as resolved(8), belong to the machine and know nothing of the lab.
    (directory / "nsswitch.conf").write_text("hosts: files dns\n")
