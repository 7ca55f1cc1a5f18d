"""The relay's report for people."""

from __future__ import annotations

from dataclasses import replace

from firezone.cli.relay_text import relay_report_lines
from firezone.cli.tables import WIDTH
from firezone.explain.relay import DirectionStatus, RelayReport, XdpStatus
from firezone.explain.values import PortalStatus

REPORT = RelayReport(
    uptime_seconds=61.0,
    public=("192.0.2.1", "2001:db8::1"),
    listen_port=3478,
    mode="ports",
    ports="49152-65535",
    state="serving",
    portal=PortalStatus("wss://portal", False, 7.0, "refused"),
    allocations=2,
    capacity=16384,
    users=1,
    reservations=0,
    channels=3,
    permissions=4,
    streams=5,
    to_peers=DirectionStatus(10, 12_000),
    to_clients=DirectionStatus(1, 1200),
    indication_bytes=0,
    workers=(8, 3),
    xdp=XdpStatus(
        interface="eth0",
        mode="native",
        channels=3,
        to_peers=DirectionStatus(1000, 1_200_000),
        to_clients=DirectionStatus(7, 700),
        passed={"no_route": 4, "no_neighbour": 5},
    ),
    counters={"binding_success": 9, "unbound_channel": 1},
)


def test_what_matters_is_there_and_fits() -> None:
    lines = [*relay_report_lines(REPORT)]
    assert max(map(len, lines)) <= WIDTH
    text = "\n".join(lines)
    for expected in (
        "relay on port 3478, up 1 min 1 s",
        "NOT CONNECTED",
        "2 of 16384, of 1 users, on ports 49152-65535",
        "3, 4 permissions",
        "last error: refused",
        "12.0 kB in 10 datagrams to peers, 1.2 kB in 1 datagrams to clients",
        "workers      2, the busiest moved 72 % of it",
        "on eth0, native, 3 channels",
        "1.2 MB in 1000 datagrams to peers",
        f"  {5:>10}  no_neighbour\n  {4:>10}  no_route",
        "9  binding_success",
    ):
        assert expected in text, expected


def test_without_portal_and_kernel() -> None:
    text = "\n".join(relay_report_lines(replace(REPORT, portal=None, xdp=None, counters={})))
    assert "XDP          off" in text and "portal       none" in text
    assert "left to user space" not in text


def test_draining_with_reservations_and_indications() -> None:
    report = replace(REPORT, state="draining", reservations=1, indication_bytes=2000)
    text = "\n".join(relay_report_lines(report))
    assert "DRAINING" in text and "1 more reserved" in text and "2.0 kB in Send and Data" in text
