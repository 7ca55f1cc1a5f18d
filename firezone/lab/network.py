"""Builds the namespaces of a plan and joins them."""

from __future__ import annotations

from collections.abc import Iterator

from firezone.lab import nat, netns
from firezone.lab.nat_kinds import Nat
from firezone.lab.topology import (
    BOTH,
    GATEWAY_TO_RESOURCE,
    INTERNET,
    RESOURCE,
    RESOURCE_ALLOWED,
    RESOURCE_DENIED,
    Addresses,
    Plan,
    SitePlan,
)


class Network:
    """The namespaces of one lab, all named `<prefix>-<host>`."""

    def __init__(self, prefix: str, plan: Plan) -> None:
        self.prefix = prefix
        self.plan = plan

    def namespace(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    def build(self) -> None:
        """Make everything. Raises LabError; what was made by then is for `remove`."""
        netns.ip_batch(f"netns add {self.namespace(host)}" for host in self.plan.hosts)
        netns.ip_batch(self._cables())
        self._configure(INTERNET, self._bridge())
        for host, addresses in self.plan.internet.items():
            self._configure(host, _interface("eth0", addresses, self.plan.families_of(host)))
        for site in self.plan.routed:
            self._build_router(site)
        for site in self.plan.sites:
            self._build_site(site)
        self._build_resource()

    def remove(self) -> None:
        """Kill what runs in the namespaces, and delete them with all that is in them."""
        netns.remove(netns.existing(f"{self.prefix}-"))

    def block_direct(self, blocked: bool) -> None:
        """Drop, or let through again, all UDP between the two sites."""
        for site, other in (self.plan.sites, self.plan.sites[::-1]):
            block = nat.block_inside_rules() if self.plan.shared_nat else nat.block_rules(other)
            rules = nat.UNBLOCK_RULES + (block if blocked else "")
            netns.load_rules(self.namespace(site.router), rules)

    def block_udp(self, site: SitePlan, blocked: bool) -> None:
        """Drop, or let through again, all UDP of a site, or of both behind a shared NAT."""
        rules = nat.NO_UDP_RULES + (nat.UDP_RULES if blocked else "")
        netns.load_rules(self.namespace(site.router), rules)

    def _cables(self) -> Iterator[str]:
        for host in self.plan.internet:
            yield self._cable(host, "eth0", INTERNET, host)
        for site in self.plan.sites:
            yield self._cable(site.host, "eth0", site.router, site.inside_device)
        for site in self.plan.routed:
            if site.carrier is not None:
                yield self._cable(site.router, "eth0", site.carrier, "eth1")
        yield self._cable(RESOURCE, "eth0", self.plan.gateway.host, "eth1")

    def _cable(self, host: str, interface: str, peer: str, peer_interface: str) -> str:
        one = f"{interface} netns {self.namespace(host)}"
        other = f"{peer_interface} netns {self.namespace(peer)}"
        return f"link add {one} type veth peer name {other}"

    def _bridge(self) -> Iterator[str]:
        yield "link add bridge type bridge"
        yield "link set bridge up"
        for port in self.plan.internet:
            yield f"link set {port} master bridge"
            yield f"link set {port} up"

    def _configure(self, host: str, commands: Iterator[str]) -> None:
        netns.ip_batch(["link set lo up", *commands], self.namespace(host))

    def _build_router(self, site: SitePlan) -> None:
        if site.carrier is not None:
            self._build_carrier(site, site.carrier)
        rules = nat.router_rules(
            site.site.nat,
            hairpin=site.site.hairpin,
            mtu_hole=site.site.mtu_hole,
            isolating=self.plan.shared_nat,
        )
        self._make_router(site.router, rules)

    def _build_site(self, site: SitePlan) -> None:
        families = site.site.families
        inside = _interface(site.inside_device, site.router_inside, families)
        self._configure(site.router, inside)
        self._configure(site.host, _interface("eth0", site.host_inside, families))
        self._add_default_routes(site.host, site.router_inside, families)
        if site.site.path_mtu is not None:
            self._narrow(site, site.site.path_mtu)
        if site.site.mtu_hole is not None:
            self._split(site)
        if site.site.nat is Nat.NONE:
            self._make_routable(site)

    def _build_carrier(self, site: SitePlan, carrier: str) -> None:
        assert site.site.carrier is not None
        families = site.site.outside_families
        self._make_router(carrier, nat.router_rules(site.site.carrier))
        self._configure(carrier, _interface("eth1", site.carrier_inside, families))
        self._configure(site.router, _interface("eth0", site.router_outside, families))
        self._add_default_routes(site.router, site.carrier_inside, families)

    def _make_router(self, host: str, rules: str) -> None:
        netns.set_sysctls(self.namespace(host), _ROUTER_PARAMETERS)
        netns.load_rules(self.namespace(host), nat.NO_ROUTE_RULES + rules)

    def _add_default_routes(self, host: str, router: Addresses, families: frozenset[int]) -> None:
        defaults = (f"route add default via {a}" for a in router.addresses(families))
        netns.ip_batch(defaults, self.namespace(host))

    def _narrow(self, site: SitePlan, mtu: int) -> None:
        """Routes carry the limit: a router minds it for packets that it forwards, both ways."""
        sides = (
            ("eth0", site.router_outside),
            (site.inside_device, site.router_inside),
        )
        netns.ip_batch(
            (
                f"route replace {network} dev {device} mtu lock {mtu}"
                for device, addresses in sides
                for network in addresses.networks(site.site.families)
            ),
            self.namespace(site.router),
        )

    def _split(self, site: SitePlan) -> None:
        """Virtual cables carry what is yet to be cut into datagrams (GSO) in one piece: the router
        would take that for a large packet. So it is cut before it gets there."""
        for host, device in ((INTERNET, site.edge), (site.host, "eth0")):
            netns.ip_batch([f"link set {device} gso_max_segs 1"], self.namespace(host))

    def _make_routable(self, site: SitePlan) -> None:
        for host in self.plan.internet.keys() - {site.router}:
            families = site.site.families & self.plan.families_of(host)
            networks = site.router_inside.networks(families)
            routers = site.outside.addresses(families)
            routes = zip(networks, routers, strict=True)
            netns.ip_batch((f"route add {n} via {r}" for n, r in routes), self.namespace(host))

    def _build_resource(self) -> None:
        self._configure(self.plan.gateway.host, _interface("eth1", GATEWAY_TO_RESOURCE))
        self._configure(RESOURCE, _interface("eth0", RESOURCE_ALLOWED))
        self._configure(RESOURCE, _interface("eth0", RESOURCE_DENIED))


_ROUTER_PARAMETERS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    # For the same reason as NO_ROUTE_RULES.
    "net/ipv4/icmp_ratelimit": "0",
    "net/ipv6/icmp/ratelimit": "0",
}


def _interface(name: str, addresses: Addresses, families: frozenset[int] = BOTH) -> Iterator[str]:
    yield f"link set {name} up"
    for address in addresses.interfaces(families):
        # Without duplicate address detection a new IPv6 address serves at once.
        yield f"address add {address} dev {name}" + (" nodad" if ":" in address else "")
