"""Checks the network by STUN alone: reachability, NAT, hairpinning, path MTU.

    every address of every server answers or not ──► hairpinning, once a family ──► done
                                                 └─► path MTU, towards each that answered ──► done

Each family has two sockets. All servers are asked from MAIN, so that what they see of it can be
compared; SECOND serves the hairpin test only. All datagrams go out with fragmentation forbidden.

Answers count by their transaction id and source. Nothing else is authenticated, nor need it be: who
can read the ids stands on the path and is the network that is being judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from firezone.durations import MILLISECOND
from firezone.model import Endpoint, Entropy, Timeout, earliest
from firezone.netcheck.mapping import Mapping, mapping_of
from firezone.netcheck.parts import Hairpin, PathMtu, Reachability
from firezone.netcheck.report import (
    FamilyReport,
    NetcheckReport,
    PortalReport,
    ServerReport,
    findings,
)
from firezone.netcheck.wire import MAIN, SECOND, Answer, SendProbe, Wire
from firezone.stun import XOR_MAPPED_ADDRESS, Class, DecodeError, Message, Method, decode

__all__ = ["MAIN", "MAX_ADDRESSES", "SECOND", "Netcheck", "SendProbe", "Server"]

MAX_ADDRESSES = 32
"""Of all servers together; those beyond are left out."""


@dataclass(frozen=True, slots=True)
class Server:
    """A STUN server or relay, and where it listens; nowhere, if its name has no address."""

    name: str
    addresses: tuple[Endpoint, ...]


class Netcheck:
    """One check. It starts at once; `report` is whole when `poll_timeout` is None."""

    def __init__(self, servers: Iterable[Server], *, entropy: Entropy, now: int) -> None:
        self.counters: Counter[str] = Counter()
        self._wire = Wire(entropy)
        self._names: dict[Endpoint, str] = {}
        self._unresolved: list[str] = []
        for server in servers:
            if not server.addresses:
                self._unresolved.append(server.name)
            for address in server.addresses:
                if len(self._names) < MAX_ADDRESSES:
                    self._names.setdefault(address, server.name)
        self._servers = [Reachability(self._wire, address, now) for address in self._names]
        self._hairpins: dict[int, Hairpin] = {}
        self._mtus: dict[Endpoint, PathMtu] = {}
        self._is_second_phase = False

    @property
    def is_done(self) -> bool:
        return self.poll_timeout() is None

    def handle_datagram(
        self, socket: int, local: Endpoint, source: Endpoint, payload: bytes, now: int
    ) -> None:
        """What a socket (MAIN or SECOND) received at `local`."""
        try:
            message = decode(payload)
        except DecodeError as error:
            self.counters[error.reason] += 1
            return
        if message.method != Method.BINDING:
            self.counters["another method"] += 1
        elif message.class_ is Class.REQUEST:
            self._handle_request(socket, message)
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
        for part in self._parts():
            part.handle_timeout(now)
        self._proceed(now)

    def poll_timeout(self) -> Timeout | None:
        """None when the check is done."""
        deadlines = (part.deadline for part in self._parts())
        return earliest(*(Timeout(d, "network check") for d in deadlines if d is not None))

    def poll_transmit(self) -> SendProbe | None:
        return self._wire.outbox.popleft() if self._wire.outbox else None

    def report(self, portal: PortalReport | None = None) -> NetcheckReport:
        """What was found so far, and what is known of the portal."""
        families = tuple(self._family(family) for family in (4, 6))
        servers = (*map(self._server, self._servers), *map(_unresolved, self._unresolved))
        report = NetcheckReport(families, servers, portal)
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

    # The plan.

    def _parts(self) -> list[Reachability | Hairpin | PathMtu]:
        return [*self._servers, *self._hairpins.values(), *self._mtus.values()]

    def _proceed(self, now: int) -> None:
        if self._is_second_phase or any(part.deadline is not None for part in self._servers):
            return
        self._is_second_phase = True
        for server in self._servers:
            if server.mapped is None or server.median is None:
                continue
            target = server.target
            self._mtus[target] = PathMtu(self._wire, target, server.median, now)
            if server.mapped != server.local and target.family not in self._hairpins:
                self._hairpins[target.family] = Hairpin(self._wire, target, server.mapped, now)

    # The report.

    def _family(self, family: int) -> FamilyReport:
        asked = [s for s in self._servers if s.target.family == family]
        answered = [s for s in asked if s.mapped is not None and s.local is not None]
        seen = {s.target: s.mapped for s in answered if s.mapped is not None}
        local = answered[0].local if answered else None
        mapping = mapping_of(local, seen) if local is not None else Mapping.UNKNOWN
        outer = {mapped for mapped in seen.values() if mapped != local}
        hairpin = self._hairpins.get(family)
        return FamilyReport(
            family=family,
            reachable=any(s.round_trips for s in asked) if asked else None,
            local=None if local is None else str(local),
            mapped=tuple(str(mapped) for mapped in sorted(set(seen.values()))),
            mapping=mapping,
            port_preserved=all(o.port == local.port for o in outer) if local and outer else None,
            hairpin=hairpin.works if hairpin is not None else None,
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


def _unresolved(name: str) -> ServerReport:
    return ServerReport(name, name, 0, 0, 0, None, None, None, None, "the name has no address")


def _milliseconds(duration: int | None) -> float | None:
    return None if duration is None else round(duration / MILLISECOND, 3)
