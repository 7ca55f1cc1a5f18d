"""The report of `firezone netcheck` for people."""

from __future__ import annotations

from collections.abc import Iterator

from firezone.cli.tables import bullets, cut, fields, section, table
from firezone.netcheck import (
    FamilyReport,
    Mapping,
    NetcheckReport,
    PortalReport,
    ServerReport,
    StreamReport,
)


def netcheck_lines(report: NetcheckReport) -> Iterator[str]:
    """What was found, and at the end what it means."""
    for number, family in enumerate(report.families):
        if number:
            yield ""
        by = "" if family.nat64 is None else f", through the NAT64 at {family.nat64}"
        yield f"IPv{family.family}{by}"
        yield from fields(_family(family))
    heads = ("SERVER", "ANSWERED", "FASTEST", "MEDIAN", "PATH MTU", "SEES US AS")
    yield from section("servers", table(heads, map(_server, report.servers)))
    unanswered = (cut(f"  {s.address}: {s.error}") for s in report.servers if s.error)
    yield from section("problems", unanswered)
    streams = ((s.address, _stream(s)) for s in report.streams)
    yield from section("over TCP", fields(streams))
    if report.portal is not None:
        yield from section("portal", fields(_portal(report.portal)))
    found = report.findings or ("nothing stands in the way of tunnels, as far as was asked",)
    yield from section("in short", bullets(found))


def _family(family: FamilyReport) -> Iterator[tuple[str, str]]:
    if not family.reachable:
        yield "UDP", "no server to ask" if family.reachable is None else "no server answered"
        return
    yield "UDP", "works"
    yield "our address", family.local or "unknown"
    for number, mapped in enumerate(family.mapped):
        yield "" if number else "seen as", mapped
    yield "NAT mapping", str(family.mapping.value)
    note = f": {family.filtering_note}" if family.filtering_note is not None else ""
    yield "filtering", f"{family.filtering.value}{note}"
    if family.mapping is not Mapping.NO_NAT:
        yield "keeps the port", _answer(family.port_preserved)
        yield "hairpins", _answer(family.hairpin)


def _server(server: ServerReport) -> tuple[str, ...]:
    return (
        server.address,
        f"{server.answered} of {server.sent}",
        _milliseconds(server.round_trip_min_ms),
        _milliseconds(server.round_trip_median_ms),
        "-" if server.path_mtu is None else str(server.path_mtu),
        server.mapped or "-",
    )


def _stream(stream: StreamReport) -> str:
    return "answers" if stream.reachable else f"no: {stream.error}"


def _portal(portal: PortalReport) -> Iterator[tuple[str, str]]:
    yield "address", portal.url
    took = _milliseconds(portal.milliseconds)
    yield "answers", f"yes, in {took}" if portal.reachable else f"no: {portal.error}"
    if portal.tls is not None:
        yield "certificate", portal.tls


def _answer(known: bool | None) -> str:
    return "unknown" if known is None else "yes" if known else "no"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
