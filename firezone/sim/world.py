"""The usual world: a client and a gateway, each behind a NAT, two relays and a portal."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from firezone.client import Client
from firezone.durations import MILLISECOND, SECOND
from firezone.gateway import Gateway
from firezone.model import Endpoint, IPAddress, RelayId
from firezone.nat64 import Prefix
from firezone.roles import Role
from firezone.sim.clock import Clock
from firezone.sim.entropy import SeededEntropy
from firezone.sim.network import Host, Nat, Nat64, NatKind, Network
from firezone.sim.peers import Peer, RelayHost
from firezone.sim.portal import Portal, Resource

RESOURCE = Resource("e0000000-0000-4000-8000-000000000001", "10.9.0.0/16")
RESOURCE_V6 = Resource("e0000000-0000-4000-8000-000000000006", "fd09::/64")


class World:
    """Everything joined and ready; nobody has asked for anything yet."""

    def __init__(
        self,
        seed: int = 0,
        *,
        client_nat: NatKind | None = NatKind.ENDPOINT_INDEPENDENT,
        gateway_nat: NatKind | None = NatKind.ENDPOINT_INDEPENDENT,
        relays: int = 2,
        families: tuple[int, ...] = (4,),
        client_nat64: Prefix | None = None,
        latency: int = 10 * MILLISECOND,
        portal_latency: int = 5 * MILLISECOND,
    ) -> None:
        self.entropy = SeededEntropy(seed)
        self.clock = Clock()
        self.network = Network(self.clock, latency)
        self.relays = [self._make_relay(n, families) for n in range(relays)]
        self.portal = Portal(self.clock, self.relays)
        self.portal.latency = portal_latency
        self.portal.resources = {r.id: r for r in (RESOURCE, RESOURCE_V6)}
        self._gateway_host = self._make_host(gateway_nat, "198.51.100", "2001:db8:2", families)
        if client_nat64 is None:
            self._client_host = self._make_host(client_nat, "192.0.2", "2001:db8:1", families)
        else:
            self._client_host = self._make_nat64_host(client_nat, client_nat64)
        self.gateway = self._start(Gateway, self._gateway_host)
        self.client = self._start(Client, self._client_host)
        self.client.role.handle_nat64(client_nat64, self.clock.now)
        self.portal.join_gateway(self.gateway)
        self.portal.join_client(self.client)
        self.clock.run_for(1 * SECOND)

    def block_direct(self) -> None:
        """Drop what does not go to or come from a relay."""
        relays = {a for relay in self.relays for a in relay.host.addresses.values()}

        def blocked(source: Endpoint, destination: Endpoint) -> bool:
            return source.address not in relays and destination.address not in relays

        self.network.blocked = blocked

    def restart_gateway(self) -> None:
        """Kill the gateway's program and start it anew: new key, no state, the same host."""
        self.gateway.kill()
        self.gateway = self._start(Gateway, self._gateway_host)
        self.portal.join_gateway(self.gateway)

    def _start(self, role: type[Role], host: Host) -> Peer:
        return Peer(self.clock, host, role, self.entropy)

    def _make_relay(self, number: int, families: tuple[int, ...]) -> RelayHost:
        addresses = _addresses("203.0.113", "2001:db8:ffff", number + 1, families)
        host = Host(self.network, *addresses)
        relay_id = RelayId(f"a0000000-0000-4000-8000-{number:012d}")
        return RelayHost(self.clock, host, relay_id, self.entropy)

    def _make_host(
        self, kind: NatKind | None, ipv4: str, ipv6: str, families: tuple[int, ...]
    ) -> Host:
        public = _addresses(ipv4, ipv6, 1, families)
        if kind is None:
            return Host(self.network, *public)
        private = _addresses("10.0." + ipv4.split(".")[0], "fd" + ipv6[2:], 2, families)
        return Host(self.network, *private, nat=Nat(kind, *public))

    def _make_nat64_host(self, kind: NatKind | None, prefix: Prefix) -> Host:
        """In a network that has IPv6 alone."""
        nat = Nat64(kind or NatKind.ENDPOINT_INDEPENDENT, prefix, IPv4Address("192.0.2.1"))
        return Host(self.network, IPv6Address("fd00:db8:1::2"), nat=nat)


def _addresses(ipv4: str, ipv6: str, host: int, families: tuple[int, ...]) -> list[IPAddress]:
    text = {4: f"{ipv4}.{host}", 6: f"{ipv6}::{host}"}
    return [ip_address(text[family]) for family in families]
