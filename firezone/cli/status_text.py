"""The reports of `firezone status` and `firezone explain` for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import wrap

from firezone.cli.hints import hints, is_unanswered
from firezone.cli.tables import (
    WIDTH,
    ago,
    bullets,
    cut,
    duration,
    fields,
    section,
    short_ids,
    size,
    table,
)
from firezone.explain import (
    CandidateStatus,
    ConnectionStatus,
    Explanation,
    LostStatus,
    PairStatus,
    PathStatus,
    PortalStatus,
    RelayStatus,
    SessionStatus,
    Status,
)

_MAX_DROPS = 20


def status_lines(status: Status) -> Iterator[str]:
    """The whole program."""
    yield cut(f"{status.role} on {status.interface}, up {duration(status.uptime_seconds)}")
    yield from fields(_overview(status))
    names = short_ids(c.peer for c in status.connections)
    rows = [_connection_row(c, names) for c in status.connections]
    heads = ("PEER", "STATE", "PATH", "SINCE", "RECEIVED", "SENT", "SESSION", "TO")
    shown = "" if len(rows) == status.connection_count else f", {len(rows)} shown"
    title = f"connections ({status.connection_count}{shown})"
    yield from section(title, table(heads, rows))
    yield from section("relays", relay_lines(status.relays))
    gone = (
        f"  {', '.join(r.addresses)}: {r.reason}, {ago(r.ago_seconds)}" for r in status.lost_relays
    )
    yield from section("relays given up", map(cut, gone))
    yield from section("connections that ended", lost_lines(status.lost))
    drops = [*status.drops.items()][:_MAX_DROPS]
    yield from section("dropped or failed", (cut(f"  {count:>10}  {why}") for why, count in drops))
    yield from section("what to do", bullets(hints(status, names)))


def explain_lines(report: Explanation) -> Iterator[str]:
    """One peer."""
    yield cut(f"{report.kind} {report.peer}")
    if report.connection is None:
        yield "  not connected now"
    else:
        yield from fields(_facts(report.connection, report))
    yield from section("pairs, the best first (* is in use)", _pair_lines(report.pairs))
    yield from section("candidates", _candidate_lines(report.candidates))
    yield from section("relay", relay_lines(report.relays))
    yield from section("paths, the newest last", _path_lines(report.paths))
    yield from section("connections before that ended", lost_lines(report.lost))


def portal_fields(portal: PortalStatus) -> Iterator[tuple[str, str]]:
    """The link to the portal."""
    link = "connected" if portal.connected else "NOT CONNECTED"
    yield "portal", f"{portal.url}: {link} for {duration(portal.since_seconds)}"
    if portal.error is not None:
        yield "", f"last error: {portal.error}"


def relay_lines(relays: Iterable[RelayStatus]) -> Iterator[str]:
    names = ("ADDRESS", "OVER", "STATE", "AWAY", "EXPIRES IN", "CHANNELS", "SEES US AS")
    return table(names, (row for relay in relays for row in _relay_rows(relay)))


def _relay_rows(relay: RelayStatus) -> Iterator[tuple[str, ...]]:
    """One, and one more for each further address that it sees us at."""
    first, *others = relay.mapped or ("-",)
    yield (
        relay.active_address or next(iter(relay.addresses), "-"),
        relay.transport.upper(),
        relay.state,
        "-" if relay.round_trip_ms is None else f"{relay.round_trip_ms:.1f} ms",
        "-" if relay.expires_in_seconds is None else duration(relay.expires_in_seconds),
        str(relay.channels),
        first,
    )
    for mapped in others:
        yield ("",) * 6 + (mapped,)


def lost_lines(lost: Iterable[LostStatus]) -> Iterator[str]:
    for each in lost:
        lasted = f"lasted {duration(each.lasted_seconds)}"
        had = lasted if each.established else f"{lasted} and never carried a packet"
        yield cut(f"  {each.peer}: {each.reason}, {ago(each.ago_seconds)}; {had}")


def _overview(status: Status) -> Iterator[tuple[str, str]]:
    yield from portal_fields(status.portal)
    if status.nat64 is not None:
        yield "NAT64", f"no IPv4 here; it is reached at {status.nat64}"
    yield "flows", f"{status.flows.entries} of {status.flows.capacity} each way"
    t = status.traffic
    for name, kind in (("received", "udp_received"), ("sent data", "udp_sent")):
        volume, count = size(t.get(f"{kind}_bytes", 0)), t.get(f"{kind}_packets", 0)
        yield name, f"{volume} in {count} datagrams"
    yield "offloads", ", ".join(status.offloads) or "none"
    for number, worker in enumerate(status.workers if len(status.workers) > 1 else ()):
        told = f"{worker.received_packets} packets received, {worker.sent_packets} sent"
        handed = worker.handed_over_packets
        yield f"worker {number}", told + (f", {handed} handed over" if handed else "")


def _connection_row(c: ConnectionStatus, names: dict[str, str]) -> tuple[str, ...]:
    sending = next((s for s in c.sessions if s.sending), None)
    session = "-" if sending is None else f"{duration(sending.age_seconds)} old"
    return (
        names[c.peer],
        "unanswered" if is_unanswered(c) else c.state,
        c.path.kind if c.path else "-",
        "-" if c.established_ago_seconds is None else duration(c.established_ago_seconds),
        size(c.received_bytes),
        size(c.sent_bytes),
        session,
        c.path.remote.partition(" ")[2] if c.path else "-",
    )


def _facts(c: ConnectionStatus, report: Explanation) -> Iterator[tuple[str, str]]:
    since = c.established_ago_seconds
    packets = "no packet has passed yet" if since is None else f"packets flow for {duration(since)}"
    quiet = f"; {c.unanswered_checks} checks unanswered" if is_unanswered(c) else ""
    yield "state", f"{c.state}; {packets}; ICE {report.ice_state}{quiet}"
    if c.path is not None:
        until = ", until ICE has chosen one" if c.path.preliminary else ""
        yield "path", f"{c.path.kind} for {duration(c.path.chosen_ago_seconds)}{until}"
        yield "from", c.path.local
        yield "to", c.path.remote
    else:
        yield "path", "none yet"
    yield "addresses", ", ".join(c.addresses) or "-"
    yield "resources", ", ".join(c.resources) or "-"
    yield "received", f"{size(c.received_bytes)}, last {ago(c.received_ago_seconds)}"
    yield "sent", f"{size(c.sent_bytes)}, last {ago(c.sent_ago_seconds)}"
    yield "handshake", _handshake(c)
    for session in c.sessions:
        yield "session", _session(session)
    if c.waiting_packets:
        yield "waiting", f"{c.waiting_packets} packets until there is a path and a session"
    yield "chooses", "we nominate the pair" if report.controlling else "the peer nominates the pair"


def _handshake(c: ConnectionStatus) -> str:
    last = f"the last {ago(c.handshake_ago_seconds)}"
    if c.handshake_for_seconds is None:
        return last
    return f"unanswered for {duration(c.handshake_for_seconds)}; {last}"


def _session(session: SessionStatus) -> str:
    who = "we" if session.initiator else "the peer"
    age, rest = duration(session.age_seconds), duration(session.expires_in_seconds)
    use = ", in use" if session.sending else ""
    return f"{session.local_index:#010x}: {who} began it {age} ago, ends in {rest}{use}"


def _pair_lines(pairs: Iterable[PairStatus]) -> Iterator[str]:
    for pair in pairs:
        yield from _ends(f"{'*' if pair.nominated else ' ':>3} ", pair)
        answers = f"{pair.answered} of {pair.sent} answered"
        trip = "" if pair.round_trip_ms is None else f", {pair.round_trip_ms:.1f} ms"
        told = f"{pair.verdict} ({answers}{trip}, priority {pair.priority})"
        yield from wrap(told, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 8)


def _candidate_lines(candidates: Iterable[CandidateStatus]) -> Iterator[str]:
    rows = [(c.side, c.kind, c.address, str(c.priority), c.note) for c in candidates]
    return table(("SIDE", "KIND", "ADDRESS", "PRIORITY", "NOTE"), rows)


def _path_lines(paths: Iterable[PathStatus]) -> Iterator[str]:
    for path in paths:
        yield from _ends(f"  {ago(path.chosen_ago_seconds):>16}  {path.kind:<8} ", path)


def _ends(start: str, path: PathStatus | PairStatus) -> Iterator[str]:
    """Both ends on one line, or on two where they are too long for it."""
    line = f"{start}{path.local} -> {path.remote}"
    if len(line) <= WIDTH:
        yield line
    else:
        yield f"{start}{path.local}"
        yield f"{'':{len(start)}}-> {path.remote}"
