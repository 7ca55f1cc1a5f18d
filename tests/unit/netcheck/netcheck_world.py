"""A check on a virtual network, with STUN servers, NATs, and paths that lose what is too long."""

import random
from ipaddress import ip_address

from firezone import stun
from firezone.model import Endpoint, RelayId, Transmit
from firezone.netcheck import MAIN, PROBED, RELAYING, SECOND, Netcheck, Server
from firezone.sim import Clock, Host, Nat, Nat64, NatKind, Network, RelayHost
from firezone.turn import Credentials
from firezone.turn.relay_auth import password_of

PORTS = {MAIN: 40_000, SECOND: 41_000, PROBED: 42_000, RELAYING: 43_000}
"""The simulated NAT hands out 40000 first."""


class StunServer:
    """Answers Bindings on every port of its addresses."""

    def __init__(self, network, *addresses):
        self.host = Host(network, *map(ip_address, addresses))
        self.host.handler = self.handle
        self.received = []

    def handle(self, local, source, payload):
        self.received.append(payload)
        response = stun.decode(payload).success().with_(stun.XOR_MAPPED_ADDRESS, source)
        self.host.send(Transmit(response.encode(), source, local), local.port)


class World:
    """A host that checks its network. `mtu` is that of the path, for a family of IP packets."""

    def __init__(
        self, *, nat=None, filtering=None, families=(4,), mtu=9000, interface_mtu=9000, seed=1
    ):
        self.random = random.Random(seed)
        self.clock = Clock()
        self.network = Network(self.clock)
        self.mtu = mtu
        self.interface_mtu = interface_mtu
        self.sent = []
        private = {4: "10.0.0.2", 6: "fd00::2"}
        public = {4: "192.0.2.1", 6: "2001:db8:1::1"}
        inner = [ip_address((private if nat else public)[f]) for f in families]
        outer = [ip_address(public[f]) for f in families]
        self.nat = Nat(nat, *outer, filtering=filtering or SYM) if nat else None
        self.nat64 = None
        self.host = Host(self.network, *inner, nat=self.nat)
        self.host.handler = self._receive

    def enter_nat64(self, kind, prefix):
        """The host has IPv6 alone; what is sent to the prefix is translated."""
        self.network.detach(self.host)
        self.nat64, self.nat = prefix, Nat64(kind, prefix, ip_address("192.0.2.1"))
        self.host = Host(self.network, ip_address("fd00::2"), nat=self.nat)
        self.host.handler = self._receive

    def stun_server(self, *addresses):
        return StunServer(self.network, *addresses)

    def relay(self, *addresses):
        host = Host(self.network, *map(ip_address, addresses))
        return RelayHost(self.clock, host, RelayId("r"), self.random.randbytes)

    def check(self, *servers, limit=60):
        """Run a whole check against endpoints given as text, or servers; its report."""
        named = [
            server if isinstance(server, Server) else Server(server, (Endpoint.parse(server),))
            for server in servers
        ]
        self.machine = Netcheck(
            named, entropy=self.random.randbytes, nat64=self.nat64, now=self.clock.now
        )
        self._pump()
        end = self.clock.now + limit * 10**9
        while not self.machine.is_done:
            deadline = self.machine.poll_timeout().deadline
            self.clock.at(deadline, lambda: self.machine.handle_timeout(self.clock.now))
            done = self.machine.is_done
            self.clock.run_until(lambda done=done, at=deadline: self.clock.now >= at)
            self._pump()
            assert self.clock.now < end, "the check does not end"
        return self.machine.report()

    def _pump(self):
        while (probe := self.machine.poll_transmit()) is not None:
            self.sent.append(probe)
            size = len(probe.payload) + (28 if probe.destination.family == 4 else 48)
            if size > self.interface_mtu:
                self.machine.handle_unsent(probe, "Message too long", self.clock.now)
            elif probe.destination.family not in self.host.addresses:
                self.machine.handle_unsent(probe, "Network is unreachable", self.clock.now)
            elif size <= self.mtu:
                self.host.send(Transmit(probe.payload, probe.destination), PORTS[probe.socket])

    def _receive(self, local, source, payload):
        socket = next(s for s, port in PORTS.items() if port == local.port)
        self.machine.handle_datagram(socket, local, source, payload, self.clock.now)
        self._pump()


def server_of(relay, *, realm="firezone", secret=None):
    """A simulated relay as a check is given it."""
    username = f"{relay.clock.unix_now // 10**9 + 3600}:salt"
    password = password_of(username, secret or relay.secret)
    addresses = tuple(Endpoint(a, 3478) for a in relay.host.addresses.values())
    return Server("relay", addresses, Credentials(username, password, realm))


EI, AD, SYM = NatKind.ENDPOINT_INDEPENDENT, NatKind.ADDRESS_DEPENDENT, NatKind.SYMMETRIC
