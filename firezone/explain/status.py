"""Builds the report on a whole client or gateway."""

from __future__ import annotations

import base64
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from firezone.commands import TRAFFIC_COUNTERS, Activity, Traffic, WorkerStatus, losses
from firezone.explain.values import (
    ConnectionStatus,
    FlowTableStatus,
    LostRelayStatus,
    LostStatus,
    PathStatus,
    PortalStatus,
    RelayStatus,
    SessionStatus,
    Status,
    ago,
    milliseconds_or_none,
    seconds,
    seconds_or_none,
)
from firezone.node import Connection, LostConnection, PathChange
from firezone.node.relays import Link
from firezone.noise import SessionReport
from firezone.roles import Role
from firezone.turn import Allocation, RelayServer

MAX_CONNECTIONS = 200
"""How many a report lists: more would be long to make and to read."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the role itself does not know: the data plane, the sockets, the portal link."""

    interface: str
    started_at: int
    portal: PortalStatus
    activity: Callable[[int], Activity]
    traffic: Callable[[int], Traffic]
    flows: FlowTableStatus
    dataplane: Mapping[str, int]
    """The data plane's counters."""
    counters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Other counters of what went wrong, by part."""
    offloads: tuple[str, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()


def status(role: Role, around: Surroundings, now: int) -> Status:
    """The report at `now`."""
    node = role.node
    connections = list(node.connections())
    listed = heapq.nlargest(MAX_CONNECTIONS, connections, key=lambda c: c.last_active)
    return Status(
        role=type(role).__name__.lower(),
        interface=around.interface,
        uptime_seconds=seconds(now - around.started_at),
        public_key=base64.b64encode(node.public_key).decode(),
        portal=around.portal,
        connection_count=len(connections),
        connections=tuple(connection_status(role, c, around, now) for c in listed),
        lost=lost_statuses(node.lost, now),
        relays=relay_statuses(role, now),
        lost_relays=tuple(
            LostRelayStatus(r.id, _addresses(r.server), r.reason, seconds(now - r.at))
            for r in reversed(node.transport.lost_relays)
        ),
        flows=around.flows,
        traffic={k: n for k, n in around.dataplane.items() if k.endswith(TRAFFIC_COUNTERS)},
        drops=_drops(role, connections, around),
        offloads=around.offloads,
        workers=around.workers,
        nat64=None if node.nat64 is None else str(node.nat64),
        preliminary_paths=node.preliminary_paths,
    )


def connection_status(
    role: Role, c: Connection, around: Surroundings, now: int
) -> ConnectionStatus:
    """The report on one connection."""
    facts = role.peer_facts(c.id)
    activity, traffic = around.activity(c.slot), around.traffic(c.slot)
    tunnel = c.tunnel
    since = tunnel.handshake_since
    return ConnectionStatus(
        peer=c.id,
        state=_state(c),
        addresses=tuple(str(a) for a in sorted(facts.addresses, key=lambda a: a.version)),
        resources=facts.resources,
        path=_path(c, now),
        relay=c.relay,
        age_seconds=seconds(now - c.created_at),
        established_ago_seconds=ago(c.established_at, now),
        received_bytes=traffic.received,
        sent_bytes=traffic.sent,
        received_ago_seconds=ago(activity.received_any, now),
        sent_ago_seconds=ago(activity.sent_any, now),
        sessions=tuple(_session(s, now) for s in tunnel.sessions()),
        handshake_for_seconds=seconds_or_none(None if since is None else now - since),
        handshake_ago_seconds=ago(tunnel.established_at, now),
        waiting_packets=len(c.waiting),
        unanswered_checks=next((p.tally.unanswered for p in c.agent.pairs() if p.nominated), 0),
    )


def _path(c: Connection, now: int) -> PathStatus | None:
    if c.paths:
        return path_status(c.paths[-1], now)
    if c.preliminary is None:
        return None
    pair, since = c.preliminary, c.tunnel.established_at or now
    found = path_status(PathChange(since, pair.is_direct, pair.local, pair.remote), now)
    return replace(found, preliminary=True)


def path_status(path: PathChange, now: int) -> PathStatus:
    kind = "direct" if path.direct else "relayed"
    return PathStatus(kind, str(path.local), str(path.remote), seconds(now - path.at))


def relay_statuses(role: Role, now: int) -> tuple[RelayStatus, ...]:
    """Every relay that we use or try to, twice while it is reached over UDP and a stream."""
    return tuple(
        _relay(link, allocation, now)
        for _, link in role.node.transport.relays.links()
        for allocation in link.allocations or (None,)
    )


def lost_statuses(lost: Iterable[LostConnection], now: int) -> tuple[LostStatus, ...]:
    """The newest first."""
    return tuple(
        LostStatus(
            peer=gone.id,
            reason=gone.reason,
            ago_seconds=seconds(now - gone.ended_at),
            lasted_seconds=seconds(gone.ended_at - gone.created_at),
            established=gone.established,
        )
        for gone in reversed([*lost])
    )


def _state(c: Connection) -> str:
    """As `ConnectionState`, but connected means to people that packets flow."""
    if c.established:
        return c.state.name.lower()
    handshaking = c.pair is not None or c.tunnel.handshake_in_progress
    return "handshaking" if handshaking else "connecting"


def _session(session: SessionReport, now: int) -> SessionStatus:
    return SessionStatus(
        local_index=session.local_index,
        initiator=session.initiator,
        age_seconds=seconds(now - session.created_at),
        expires_in_seconds=seconds(session.receive_until - now),
        sending=session.sending,
    )


def _relay(link: Link, allocation: Allocation | None, now: int) -> RelayStatus:
    addresses, stream = _addresses(link.relay.server), link.fallback.kind.value
    if allocation is None:
        return RelayStatus(
            link.relay.id, addresses, stream, "opening a stream", None, None, 0, (), ()
        )
    active, expires_at = allocation.active_socket, allocation.expires_at
    found = allocation.candidates()
    return RelayStatus(
        id=link.relay.id,
        addresses=addresses,
        transport=stream if allocation.over_stream else "udp",
        state=allocation.state.value,
        # Over a stream it is a stand-in of ours.
        active_address=None if active is None or allocation.over_stream else str(active),
        expires_in_seconds=None if expires_at is None else seconds(expires_at - now),
        channels=allocation.channels(),
        mapped=tuple(str(c.address) for c in found if c.kind == "srflx"),
        relayed=tuple(str(c.address) for c in found if c.kind == "relay"),
        round_trip_ms=milliseconds_or_none(allocation.round_trip),
    )


def _addresses(server: RelayServer) -> tuple[str, ...]:
    return tuple(map(str, server.sockets))


def _drops(role: Role, connections: Iterable[Connection], around: Surroundings) -> dict[str, int]:
    node = role.node
    total: Counter[str] = Counter()
    _add(total, "data plane", losses(around.dataplane))
    _add(total, "policy", role.counters)
    _add(total, "connections", node.counters)
    _add(total, "relays", node.transport.counters)
    for c in connections:
        _add(total, "ice", c.agent.counters)
        _add(total, "handshake", c.tunnel.counters)
    for _, allocation in node.transport.relays:
        _add(total, "turn", _failed(allocation.counters))
    for part, counters in around.counters.items():
        _add(total, part, counters)
    return dict(total.most_common())


def _failed(counters: Mapping[str, int]) -> dict[str, int]:
    """What an allocation counts, but for the errors that only bring a nonce (RFC 8489 9.2.4)."""
    return {k: n for k, n in counters.items() if k not in ("error_401", "error_438")}


def _add(total: Counter[str], part: str, counters: Mapping[str, int]) -> None:
    for reason, count in counters.items():
        if count:
            total[f"{part}: {reason}"] += count
