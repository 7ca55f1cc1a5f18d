"""Checks the network: by STUN reachability, NAT, hairpinning, path MTU; by TURN also filtering.

    every address of every server answers or not ──► hairpinning, once a family ──► done
                                                 └─► path MTU, towards each that answered ──► done
    filtering, once a family, with the help of relays that let us allocate ──► done

Each family has four sockets. All servers are asked from MAIN, so that what they see of it can be
compared; SECOND serves the hairpin test, PROBED and RELAYING that of filtering: see filter_test.py.
All datagrams go out with fragmentation forbidden.

Where a NAT64 stands for IPv4, servers are asked through it, and what it does is told as IPv4's.

Answers count by their transaction id and source. Nothing else is authenticated, nor need it be: who
can read the ids stands on the path and is the network that is being judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from itertools import islice

from firezone.durations import MILLISECOND
from firezone.model import Endpoint, Entropy, Timeout, earliest
from firezone.nat64 import Prefix
from firezone.netcheck.filter_test import FilterTest
from firezone.netcheck.filtering import Filtering
from firezone.netcheck.mapping import Mapping, mapping_of
from firezone.netcheck.parts import Hairpin, PathMtu, Reachability
from firezone.netcheck.relayed import Relayed
from firezone.netcheck.report import (
    FamilyReport,
    NetcheckReport,
    PortalReport,
    ServerReport,
    StreamReport,
    findings,
)
from firezone.netcheck.wire import MAIN, PROBED, RELAYING, SECOND, Answer, SendProbe, Wire
from firezone.stun import XOR_MAPPED_ADDRESS, Class, DecodeError, Message, Method, decode
from firezone.turn import Credentials, RelayServer

__all__ = [
    "MAIN",
    "MAX_ADDRESSES",
    "NO_CREDENTIALS",
    "PROBED",
    "RELAYING",
    "SECOND",
    "Netcheck",
    "SendProbe",
    "Server",
]

MAX_ADDRESSES = 32
"""Of all servers together; those beyond are left out."""
MAX_RELAYS = 4
"""That we allocate on."""
NO_CREDENTIALS = "no credentials for a relay"
NOT_THROUGH_NAT64 = "not asked through a NAT64"


@dataclass(frozen=True, slots=True)
class Server:
    """A STUN server or relay, and where it listens; nowhere, if its name has no address. With
    `credentials` it is a relay that serves us."""

    name: str
    addresses: tuple[Endpoint, ...]
    credentials: Credentials | None = field(default=None, repr=False)


class Netcheck:
    """One check. It starts at once; `report` is whole when `poll_timeout` is None."""

    def __init__(
        self, servers: Iterable[Server], *, entropy: Entropy, nat64: Prefix | None = None, now: int
    ) -> None:
        """`nat64` is where this network, which has IPv6 alone, translates IPv4."""
        self._nat64 = nat64
        self.counters: Counter[str] = Counter()
        self._wire = Wire(entropy)
        self._names: dict[Endpoint, str] = {}
        self._unresolved: list[str] = []
        listed = list(servers)
        for server in listed:
            if not server.addresses:
                self._unresolved.append(server.name)
            for address in map(self._reached_at, server.addresses):
                if len(self._names) < MAX_ADDRESSES:
                    self._names.setdefault(address, server.name)
        self._servers = [Reachability(self._wire, address, now) for address in self._names]
        self._hairpins: dict[int, Hairpin] = {}
        self._mtus: dict[Endpoint, PathMtu] = {}
        self._is_second_phase = False
        self._relays = list(self._allocate(listed, entropy, now))
        self._filters: dict[int, FilterTest] = {}
        if self._relays:
            for family in sorted({a.family for s in listed for a in self._direct(s)}):
                self._filters[family] = FilterTest(self._wire, family, self._relays, entropy, now)

    @property
    def is_done(self) -> bool:
        return self.poll_timeout() is None

    def handle_datagram(
        self, socket: int, local: Endpoint, source: Endpoint, payload: bytes, now: int
    ) -> None:
        """What a socket (MAIN, SECOND, PROBED or RELAYING) received at `local`."""
        if socket == RELAYING:
            self._handle_relayed(local, source, payload, now)
            return
        try:
            message = decode(payload)
        except DecodeError as error:
            self.counters[error.reason] += 1
            return
        if message.method != Method.BINDING:
            self.counters["another method"] += 1
        elif message.class_ is Class.REQUEST:
            self._handle_request(socket, message)
        elif message.class_ is Class.INDICATION:
            self._handle_indication(socket, source, message, now)
        else:
            self._handle_response(socket, local, source, message, now)
        self._proceed(now)

    def handle_unsent(self, probe: SendProbe, reason: str, now: int) -> None:
        """The host refused to send a probe; `reason` is for people."""
        sent = self._wire.take(probe.payload[8:20])
        if sent is not None:
            sent.owner.handle_unsent(sent, reason, now)
        self._proceed(now)

    def handle_timeout(self, now: int) -> None:
        for relay in self._relays:
            relay.handle_timeout(now)
        for part in [*self._parts()]:
            part.handle_timeout(now)
        self._proceed(now)

    def poll_timeout(self) -> Timeout | None:
        """None when the check is done."""
        deadlines = (part.deadline for part in self._parts())
        own = [Timeout(d, "network check") for d in deadlines if d is not None]
        return earliest(*own, *(relay.poll_timeout() for relay in self._relays))

    def poll_transmit(self) -> SendProbe | None:
        return self._wire.outbox.popleft() if self._wire.outbox else None

    @property
    def unreached(self) -> tuple[Endpoint, ...]:
        """The servers' addresses, if none has answered so far."""
        if any(server.round_trips for server in self._servers):
            return ()
        return tuple(server.target for server in self._servers)

    def report(
        self, portal: PortalReport | None = None, streams: tuple[StreamReport, ...] = ()
    ) -> NetcheckReport:
        """What was found so far, and what is known of the portal and of streams."""
        families = tuple(self._family(family) for family in (4, 6))
        servers = (*map(self._server, self._servers), *map(_unresolved, self._unresolved))
        report = NetcheckReport(families, servers, portal, streams=streams)
        return replace(report, findings=tuple(findings(report)))

    # The network.

    def _handle_request(self, socket: int, request: Message) -> None:
        """A request of our own came back, at the other socket: the NAT turned it around."""
        sent = self._wire.find(request.transaction_id)
        if sent is None or sent.socket == socket:
            self.counters["request of a stranger"] += 1
            return
        sent.owner.handle_arrival(sent)

    def _handle_response(
        self, socket: int, local: Endpoint, source: Endpoint, response: Message, now: int
    ) -> None:
        sent = self._wire.find(response.transaction_id)
        if sent is None or (sent.socket, sent.destination) != (socket, source):
            self.counters["unexpected response"] += 1
            return
        self._wire.take(response.transaction_id)
        mapped = response.get(XOR_MAPPED_ADDRESS) if response.class_ is Class.SUCCESS else None
        sent.owner.handle_answer(sent, Answer(local, mapped), now)

    def _handle_indication(
        self, socket: int, source: Endpoint, indication: Message, now: int
    ) -> None:
        """What a relay sends to PROBED for us."""
        test = self._filters.get(source.family) if socket == PROBED else None
        if test is None or not test.handle_indication(indication.transaction_id, source, now):
            self.counters["unexpected indication"] += 1

    def _handle_relayed(self, local: Endpoint, source: Endpoint, payload: bytes, now: int) -> None:
        """What a relay says, or what a peer sent to our address there."""
        relay = next((r for r in self._relays if r.matches(source)), None)
        if relay is None:
            self.counters["no relay of ours"] += 1
            return
        data = relay.handle_datagram(local, source, payload, now)
        for test in self._filters.values():
            if data is not None:
                test.handle_peer_data(relay, data, now)
        self._proceed(now)

    # The plan.

    def _reached_at(self, server: Endpoint) -> Endpoint:
        """Where we have to send for a server."""
        if self._nat64 is None or not isinstance(server.address, IPv4Address):
            return server
        there = self._nat64.embed(server.address)
        return server if there is None else Endpoint(there, server.port)

    def _direct(self, server: Server) -> list[Endpoint]:
        """Those of its addresses that need no translation."""
        return [a for a in server.addresses if self._reached_at(a) == a and not self._embeds(a)]

    def _embeds(self, target: Endpoint) -> bool:
        """Whether the NAT64 stands for a server there."""
        address = target.address
        if self._nat64 is None or not isinstance(address, IPv6Address):
            return False
        return self._nat64.extract(address) is not None

    def _family_of(self, target: Endpoint) -> int:
        """Whose network a server shows us."""
        return 4 if self._embeds(target) else target.family

    def _allocate(self, servers: Iterable[Server], entropy: Entropy, now: int) -> Iterator[Relayed]:
        able = (s for s in servers if s.credentials is not None and self._direct(s))
        for server in islice(able, MAX_RELAYS):
            assert server.credentials is not None
            yield Relayed(
                _relay_server(self._direct(server)),
                server.credentials,
                wire=self._wire,
                entropy=entropy,
                now=now,
            )

    def _parts(self) -> Iterator[Reachability | Hairpin | PathMtu | FilterTest]:
        yield from self._servers
        yield from self._filters.values()
        yield from self._hairpins.values()
        yield from self._mtus.values()

    def _proceed(self, now: int) -> None:
        for test in self._filters.values():
            test.proceed(now)
        if all(test.deadline is None for test in self._filters.values()):
            self._leave_relays(now)
        self._begin_second_phase(now)

    def _leave_relays(self, now: int) -> None:
        for relay in self._relays:
            relay.leave(now)
        self._relays.clear()

    def _begin_second_phase(self, now: int) -> None:
        if self._is_second_phase or any(part.deadline is not None for part in self._servers):
            return
        self._is_second_phase = True
        for server in self._servers:
            if server.mapped is None or server.median is None:
                continue
            target = server.target
            self._mtus[target] = PathMtu(self._wire, target, server.median, now)
            has_nat = server.mapped != server.local and not self._embeds(target)
            if has_nat and target.family not in self._hairpins:
                self._hairpins[target.family] = Hairpin(self._wire, target, server.mapped, now)

    # The report.

    def _family(self, family: int) -> FamilyReport:
        asked = [s for s in self._servers if self._family_of(s.target) == family]
        is_translated = self._nat64 is not None and family == 4
        answered = [s for s in asked if s.mapped is not None and s.local is not None]
        seen = {s.target: s.mapped for s in answered if s.mapped is not None}
        local = answered[0].local if answered else None
        mapping = mapping_of(local, seen) if local is not None else Mapping.UNKNOWN
        outer = {mapped for mapped in seen.values() if mapped != local}
        hairpin, filters = self._hairpins.get(family), self._filters.get(family)
        if mapping is Mapping.UNKNOWN and filters is not None:
            mapping = filters.mapping
        return FamilyReport(
            family=family,
            reachable=any(s.round_trips for s in asked) if asked else None,
            local=None if local is None else str(local),
            mapped=tuple(str(mapped) for mapped in sorted(set(seen.values()))),
            mapping=mapping,
            port_preserved=all(o.port == local.port for o in outer) if local and outer else None,
            hairpin=hairpin.works if hairpin is not None else None,
            filtering=filters.result if filters is not None else Filtering.UNKNOWN,
            filtering_note=_note(filters, is_translated),
            nat64=str(self._nat64) if is_translated else None,
        )

    def _server(self, part: Reachability) -> ServerReport:
        mtu = self._mtus.get(part.target)
        return ServerReport(
            name=self._names[part.target],
            address=str(part.target),
            family=part.target.family,
            sent=part.sent,
            answered=len(part.round_trips),
            round_trip_min_ms=_milliseconds(min(part.round_trips, default=None)),
            round_trip_median_ms=_milliseconds(part.median),
            mapped=None if part.mapped is None else str(part.mapped),
            path_mtu=mtu.result if mtu is not None else None,
            error=part.error,
        )


def _note(filters: FilterTest | None, is_translated: bool) -> str | None:
    if filters is not None:
        return filters.note
    return NOT_THROUGH_NAT64 if is_translated else NO_CREDENTIALS


def _relay_server(addresses: Iterable[Endpoint]) -> RelayServer:
    first = {address.family: address for address in reversed([*addresses])}
    return RelayServer(first.get(4), first.get(6))


def _unresolved(name: str) -> ServerReport:
    return ServerReport(name, name, 0, 0, 0, None, None, None, None, "the name has no address")


def _milliseconds(duration: int | None) -> float | None:
    return None if duration is None else round(duration / MILLISECOND, 3)
