"""The report of `firezone status --relay` for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from firezone.cli.status_text import portal_fields
from firezone.cli.tables import cut, duration, fields, section, size
from firezone.explain.relay import DirectionStatus, RelayReport


def relay_report_lines(report: RelayReport) -> Iterator[str]:
    """The whole program."""
    yield cut(f"relay on port {report.listen_port}, up {duration(report.uptime_seconds)}")
    yield from fields(_overview(report))
    if report.xdp is not None:
        yield from section("left to user space by XDP", _counters(report.xdp.passed))
    yield from section("requests, drops and failures", _counters(report.counters))


def _overview(report: RelayReport) -> Iterator[tuple[str, str]]:
    yield "public", ", ".join(report.public)
    yield "state", "DRAINING: nobody new is taken" if report.state == "draining" else report.state
    if report.portal is None:
        yield "portal", "none"
    else:
        yield from portal_fields(report.portal)
    yield "mode", report.mode
    reserved = f", {report.reservations} more reserved" if report.reservations else ""
    held = f"{report.allocations} of {report.capacity}{reserved}"
    yield "allocations", f"{held}, of {report.users} users, on ports {report.ports}"
    yield "channels", f"{report.channels}, {report.permissions} permissions"
    yield "streams", str(report.streams)
    yield "user space", _moved(report.to_peers, report.to_clients)
    if report.indication_bytes:
        yield "", f"{size(report.indication_bytes)} in Send and Data"
    yield "workers", _workers(report.workers)
    if report.xdp is None:
        yield "XDP", "off"
        return
    xdp = report.xdp
    yield "XDP", f"on {xdp.interface}, {xdp.mode}, {xdp.channels} channels"
    yield "", _moved(xdp.to_peers, xdp.to_clients)


def _moved(to_peers: DirectionStatus, to_clients: DirectionStatus) -> str:
    return f"{_volume(to_peers)} to peers, {_volume(to_clients)} to clients"


def _workers(loads: tuple[int, ...]) -> str:
    share = 100 * max(loads) // max(sum(loads), 1)
    return f"{len(loads)}, the busiest moved {share} % of it"


def _volume(moved: DirectionStatus) -> str:
    return f"{size(moved.bytes)} in {moved.packets} datagrams"


def _counters(found: Mapping[str, int]) -> Iterator[str]:
    for reason, count in sorted(found.items(), key=lambda each: -each[1]):
        yield cut(f"  {count:>10}  {reason}")
