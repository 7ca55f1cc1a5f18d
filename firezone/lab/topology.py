"""The lab's network, as data.

                          internet (a bridge)
       portal .10    relay1 .21 ...    client-nat .31        gateway-nat .41
                                            |                      |
                                         client                 gateway
                                      192.168.1.2             192.168.2.2
                                                                   |
                                                    resource 10.20.0.80 and .81

A site may have a carrier's NAT (RFC 6598) between its own and the internet; then that one has the
address on the bridge, and client-nat or gateway-nat is 100.64.1.2 or 100.64.2.2 behind it.

With a shared NAT both networks are client-nat's, which joins them to the internet but not to each
other, as with a guest network: only by its outer address, and only if it hairpins.

Each host is a network namespace of its own, so addresses and interface names are the same in every
lab and nothing appears in the machine's own namespace. In all hosts eth0 leads towards the
internet; eth1 of a router or the gateway leads away from it. The resource knows no way back but
the segment it is on, so whatever reaches it has been masqueraded by the gateway.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from firezone.lab.errors import LabError
from firezone.lab.nat_kinds import Depends, Nat

BOTH = frozenset({4, 6})

INTERNET = "internet"
PORTAL = "portal"
CLIENT = "client"
CLIENT_NAT = "client-nat"
GATEWAY = "gateway"
GATEWAY_NAT = "gateway-nat"
RESOURCE = "resource"


@dataclass(frozen=True, slots=True)
class Site:
    """One network behind a router: the kind of NAT, and the IP families it has to the outside."""

    nat: Nat = Nat.CONE
    families: frozenset[int] = BOTH
    carrier: Nat | None = None
    """A second NAT, of the provider, between the site's router and the internet."""
    hairpin: bool = False
    """Whether the router turns round what its own site sends to its outer address."""
    path_mtu: int | None = None
    """The router says so to senders of larger packets, and fragments where they allow it."""
    mtu_hole: int | None = None
    """Larger packets vanish without a word. Fragments count as what they are part of."""
    nat64: bool = False
    """Whether the router translates to IPv4, for a site that has IPv6 alone."""

    def __post_init__(self) -> None:
        if self.carrier is Nat.NONE or (self.carrier is not None and self.nat is Nat.NONE):
            raise LabError("a carrier's NAT takes a site with a NAT of its own")
        if self.hairpin and not _can_hairpin(self.nat):
            raise LabError("only a NAT that maps independently of endpoints turns packets round")
        if self.nat64 and (self.families != frozenset({6}) or self.nat is Nat.NONE):
            raise LabError("a NAT64 takes a site with IPv6 alone, and a NAT")

    @property
    def outside_families(self) -> frozenset[int]:
        """The IP families its router has towards the internet."""
        return BOTH if self.nat64 else self.families


@dataclass(frozen=True, slots=True)
class Addresses:
    """An address of each family with the length of its network."""

    v4: IPv4Address
    v6: IPv6Address
    v4_length: int = 24
    v6_length: int = 64

    def interfaces(self, families: frozenset[int] = BOTH) -> list[str]:
        """As `ip address add` takes them."""
        both = {4: f"{self.v4}/{self.v4_length}", 6: f"{self.v6}/{self.v6_length}"}
        return [text for family, text in both.items() if family in families]

    def addresses(self, families: frozenset[int] = BOTH) -> list[IPv4Address | IPv6Address]:
        both: dict[int, IPv4Address | IPv6Address] = {4: self.v4, 6: self.v6}
        return [address for family, address in both.items() if family in families]

    def networks(self, families: frozenset[int] = BOTH) -> list[IPv4Network | IPv6Network]:
        both: dict[int, IPv4Network | IPv6Network] = {
            4: IPv4Network((self.v4, self.v4_length), strict=False),
            6: IPv6Network((self.v6, self.v6_length), strict=False),
        }
        return [network for family, network in both.items() if family in families]


@dataclass(frozen=True, slots=True)
class SitePlan:
    """A site with its hosts and addresses."""

    site: Site
    host: str
    router: str
    carrier: str | None
    """The host of the provider's NAT, if there is one."""
    outside: Addresses
    """On the internet: the router's, or the carrier's if there is one."""
    carrier_inside: Addresses
    router_outside: Addresses
    router_inside: Addresses
    host_inside: Addresses
    inside_device: str = "eth1"
    """The router's, towards the site."""

    @property
    def edge(self) -> str:
        """The host on the internet segment."""
        return self.carrier or self.router


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is built."""

    client: SitePlan
    gateway: SitePlan
    relays: int
    public_families: frozenset[int]
    """Of the portal and the relays."""
    shared_nat: bool = False
    """Whether both sites are behind the client's router."""
    internet: dict[str, Addresses] = field(init=False)
    """The hosts on the bridge, with their addresses there."""

    def __post_init__(self) -> None:
        for site in self.sites:
            if not site.site.outside_families & self.public_families:
                raise LabError(f"the {site.host} has no IP family to reach the portal by")
        hosts = {PORTAL: internet_addresses(10)}
        hosts |= {relay_name(n): internet_addresses(20 + n) for n in range(1, self.relays + 1)}
        hosts |= {site.edge: site.outside for site in self.routed}
        object.__setattr__(self, "internet", hosts)

    @property
    def sites(self) -> tuple[SitePlan, SitePlan]:
        return (self.client, self.gateway)

    @property
    def routed(self) -> tuple[SitePlan, ...]:
        """A site of each router."""
        return self.sites[:1] if self.shared_nat else self.sites

    def families_of(self, host: str) -> frozenset[int]:
        """The IP families that a host on the internet segment has there."""
        edges = {site.edge: site.site.outside_families for site in self.sites}
        return edges.get(host, self.public_families)

    @property
    def hosts(self) -> list[str]:
        """Every namespace."""
        routers = [site.router for site in self.routed if site.carrier is not None]
        behind = [site.host for site in self.sites]
        return [INTERNET, *self.internet, *routers, *behind, RESOURCE]


GATEWAY_TO_RESOURCE = Addresses(IPv4Address("10.20.0.1"), IPv6Address("fd20::1"))
RESOURCE_ALLOWED = Addresses(IPv4Address("10.20.0.80"), IPv6Address("fd20::80"))
RESOURCE_DENIED = Addresses(IPv4Address("10.20.0.81"), IPv6Address("fd20::81"))


def plan(client: Site, gateway: Site, relays: int, public_families: frozenset[int] = BOTH) -> Plan:
    """Lay out a lab of one client site, one gateway site and that many relays (at most 9)."""
    return Plan(
        client=_site(client, CLIENT, CLIENT_NAT, 1),
        gateway=_site(gateway, GATEWAY, GATEWAY_NAT, 2),
        relays=relays,
        public_families=public_families,
    )


def shared_plan(site: Site, relays: int, public_families: frozenset[int] = BOTH) -> Plan:
    """Lay out a lab whose client and gateway are in two networks behind one NAT."""
    client = _site(site, CLIENT, CLIENT_NAT, 1)
    gateway = _site(site, GATEWAY, CLIENT_NAT, 2)
    gateway = replace(
        gateway,
        carrier=client.carrier,
        outside=client.outside,
        carrier_inside=client.carrier_inside,
        router_outside=client.router_outside,
        inside_device="eth2",
    )
    return Plan(client, gateway, relays, public_families, shared_nat=True)


def relay_name(number: int) -> str:
    return f"relay{number}"


def internet_addresses(number: int) -> Addresses:
    """Host `number` on the internet segment, in networks kept for documentation (RFC 5737)."""
    return Addresses(IPv4Address(f"203.0.113.{number}"), IPv6Address(f"2001:db8:113::{number}"))


def _can_hairpin(kind: Nat) -> bool:
    translates = kind not in (Nat.NONE, Nat.UDP_BLOCKED)
    return translates and kind.behaviour.mapping is Depends.NOTHING


def _site(site: Site, host: str, router: str, number: int) -> SitePlan:
    def inside(last: int) -> Addresses:
        v6 = IPv6Address(f"fd31:0:0:{number}::{last}")
        return Addresses(IPv4Address(f"192.168.{number}.{last}"), v6)

    def carried(last: int) -> Addresses:
        v6 = IPv6Address(f"fd64:0:0:{number}::{last}")
        return Addresses(IPv4Address(f"100.64.{number}.{last}"), v6)

    outside = internet_addresses(21 + 10 * number)
    has_carrier = site.carrier is not None
    return SitePlan(
        site=site,
        host=host,
        router=router,
        carrier=f"{host}-carrier" if has_carrier else None,
        outside=outside,
        carrier_inside=carried(1),
        router_outside=carried(2) if has_carrier else outside,
        router_inside=inside(1),
        host_inside=inside(2),
    )
