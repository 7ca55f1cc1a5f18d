"""Prints the figure that counts here, nanoseconds a packet, below pytest-benchmark's table."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    session = getattr(config, "_benchmarksession", None)
    results = [b for b in getattr(session, "benchmarks", ()) if "ns_per_packet" in b.extra_info]
    if not results:
        return
    terminalreporter.section("ns per packet (median)")
    for result in sorted(results, key=lambda b: (b.group or "", b.name)):
        figure = result.extra_info["ns_per_packet"]
        terminalreporter.write_line(f"{figure:10.1f}  {result.group:24} {result.name}")
