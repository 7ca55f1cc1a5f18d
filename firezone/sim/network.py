"""A virtual network: hosts with addresses, NATs before some of them, latency between all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address

from firezone.durations import MILLISECOND
from firezone.model import Endpoint, IPAddress, Transmit
from firezone.nat64 import Prefix
from firezone.sim.clock import Clock

Handler = Callable[[Endpoint, Endpoint, bytes], None]
"""Takes (local, source, payload)."""

Blocked = Callable[[Endpoint, Endpoint], bool]
"""Whether a datagram from one public address to another is dropped."""


LOOPBACK = IPv4Address("127.0.0.1")
FAR_END = IPv4Address("192.0.0.8")
"""Where the relays see streams come from: an address that no host has (RFC 7600)."""


class NatKind(Enum):
    """How a NAT maps: one public port per private one, or one more per destination address, or per
    address and port (RFC 4787). How it filters: everybody may send to such a port, or hosts that it
    was used for, or only addresses and ports that it was used for."""

    ENDPOINT_INDEPENDENT = auto()
    ADDRESS_DEPENDENT = auto()
    SYMMETRIC = auto()


class Nat:
    """A NAT that maps by `kind`, and filters address and port dependently unless told otherwise."""

    def __init__(
        self, kind: NatKind, *public: IPAddress, filtering: NatKind = NatKind.SYMMETRIC
    ) -> None:
        self.kind = kind
        self._filtering = filtering
        self._public: dict[int, IPAddress] = {a.version: a for a in public}
        self._next_port = 40_000
        self._out: dict[tuple[Endpoint, Endpoint | IPAddress | None], Endpoint] = {}
        self._in: dict[Endpoint, Endpoint] = {}
        self._allowed: set[tuple[Endpoint, Endpoint | IPAddress | None]] = set()

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        return tuple(self._public.values())

    def outbound(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:
        """The public source of a private one; None without an address of that family."""
        if source.family not in self._public:
            return None
        key = (source, _distinguished(self.kind, destination))
        public = self._out.get(key)
        if public is None:
            public = Endpoint(self._public[source.family], self._next_port)
            self._next_port += 1
            self._out[key] = public
            self._in[public] = source
        self._allowed.add((public, _distinguished(self._filtering, destination)))
        return public

    def inbound(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:
        """The private destination of a public one; None if nothing went out that way before."""
        if (destination, _distinguished(self._filtering, source)) not in self._allowed:
            return None
        return self._in[destination]

    def reached_at(self, destination: Endpoint) -> Endpoint:
        """Where what is sent to `destination` goes."""
        return destination

    def seen_as(self, source: Endpoint) -> Endpoint:
        """Where what a public address sent seems to come from."""
        return source


class Nat64(Nat):
    """Before a network that has IPv6 alone: translates what is sent to its prefix, drops others."""

    def __init__(self, kind: NatKind, prefix: Prefix, public: IPv4Address) -> None:
        super().__init__(kind)
        self._public = {6: public}
        self._prefix = prefix

    def outbound(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:
        return super().outbound(source, destination) if destination.family == 4 else None

    def reached_at(self, destination: Endpoint) -> Endpoint:
        address = destination.address
        inner = self._prefix.extract(address) if isinstance(address, IPv6Address) else None
        return destination if inner is None else Endpoint(inner, destination.port)

    def seen_as(self, source: Endpoint) -> Endpoint:
        address = source.address
        outer = self._prefix.embed(address) if isinstance(address, IPv4Address) else None
        return source if outer is None else Endpoint(outer, source.port)


def _distinguished(kind: NatKind, remote: Endpoint) -> Endpoint | IPAddress | None:
    """What of a remote endpoint counts."""
    match kind:
        case NatKind.ENDPOINT_INDEPENDENT:
            return None
        case NatKind.ADDRESS_DEPENDENT:
            return remote.address
        case NatKind.SYMMETRIC:
            return remote


class Host:
    """Something with addresses. `handler` gets what arrives at any of them."""

    def __init__(self, network: Network, *addresses: IPAddress, nat: Nat | None = None) -> None:
        self.network = network
        self.nat = nat
        self.handler: Handler | None = None
        self.addresses: dict[int, IPAddress] = {a.version: a for a in addresses}
        self.more: list[IPAddress] = []
        """Those on other links than the one to the internet."""
        self.neighbours: dict[tuple[IPAddress, IPAddress], Host] = {}
        """Who is reached directly between an address of ours and one of theirs."""
        network.attach(self)

    def link(self, own: IPAddress, other: Host, address: IPAddress) -> None:
        """Share a link with another host, past all NATs."""
        for one, mine, peer, theirs in ((self, own, other, address), (other, address, self, own)):
            one.more.append(mine)
            one.neighbours[mine, theirs] = peer

    def unlink(self, own: IPAddress) -> None:
        """Lose an address, and whoever was reached from it."""
        self.more.remove(own)
        self.neighbours = {pair: host for pair, host in self.neighbours.items() if pair[0] != own}

    def send(self, transmit: Transmit, port: int) -> None:
        """Send from `port`, and from the source's address if there is one."""
        source = transmit.source
        own = (*self.addresses.values(), *self.more)
        if source is None or source.address not in own:
            address = self.addresses.get(transmit.destination.family)
            if address is None:
                self.network.counters["no address of the family"] += 1
                return
            source = Endpoint(address, port)
        self.network.send(self, source, transmit.destination, transmit.payload)


class Network:
    """Delivers datagrams after `latency`, unless `blocked` says otherwise."""

    def __init__(self, clock: Clock, latency: int = 10 * MILLISECOND) -> None:
        self.clock = clock
        self.latency = latency
        self.blocked: Blocked = lambda source, destination: False
        self.counters: Counter[str] = Counter()
        self._hosts: dict[IPAddress, Host] = {}
        self._streams: dict[Endpoint, Callable[[bytes], None]] = {}

    def open_stream(self, host: Host, relay: Endpoint) -> Endpoint:
        """Join a host and a relay by a stream, which no NAT or block concerns. What the host sends
        to the endpoint that this gives arrives at the relay, and answers come from there."""
        number = 1 + len(self._streams)
        near, far = Endpoint(LOOPBACK, number), Endpoint(FAR_END, number)
        self._streams[near] = lambda payload: self._deliver(far, relay, payload)
        back = Endpoint(LOOPBACK, near.port)
        self._streams[far] = lambda payload: self._hand_over(host, back, near, payload)
        return near

    def close_stream(self, near: Endpoint) -> None:
        """Cut it; numbers are not used again."""
        for end in (near, Endpoint(FAR_END, near.port)):
            self._streams[end] = lambda payload: None

    def attach(self, host: Host) -> None:
        for address in host.nat.addresses if host.nat else host.addresses.values():
            self._hosts[address] = host

    def detach(self, host: Host) -> None:
        self._hosts = {a: h for a, h in self._hosts.items() if h is not host}

    def send(self, host: Host, source: Endpoint, destination: Endpoint, payload: bytes) -> None:
        stream = self._streams.get(destination)
        if stream is not None:
            self.clock.at(self.clock.now + self.latency, lambda: stream(payload))
            return
        neighbour = host.neighbours.get((source.address, destination.address))
        if neighbour is not None:
            self.counters["sent"] += 1
            arrive = self.clock.now + self.latency
            self.clock.at(arrive, lambda: self._hand_over(neighbour, destination, source, payload))
            return
        public: Endpoint | None = source
        if host.nat is not None:
            destination = host.nat.reached_at(destination)
            public = host.nat.outbound(source, destination)
        if public is None or self.blocked(public, destination):
            self.counters["blocked"] += 1
            return
        self.counters["sent"] += 1
        self.clock.at(
            self.clock.now + self.latency, lambda: self._deliver(public, destination, payload)
        )

    def _deliver(self, source: Endpoint, destination: Endpoint, payload: bytes) -> None:
        host = self._hosts.get(destination.address)
        if host is None or host.handler is None:
            self.counters["no host"] += 1
            return
        local = host.nat.inbound(source, destination) if host.nat else destination
        if local is None:
            self.counters["filtered by a NAT"] += 1
            return
        host.handler(local, host.nat.seen_as(source) if host.nat else source, payload)

    def _hand_over(self, host: Host, local: Endpoint, source: Endpoint, payload: bytes) -> None:
        if host.handler is not None:
            host.handler(local, source, payload)
