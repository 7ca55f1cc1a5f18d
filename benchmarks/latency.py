"""What a tunnel adds to the time of a small UDP datagram.

The same round trips are measured over the bare veth pair in the same round, idle and under the same
load. Half the difference is what one way through the tunnel adds, both its ends included; that of
the 99th percentiles is a difference of percentiles, not the percentile of a difference.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import throughput
from benchmarks.tunnel_net import Net

PING_PORT = 7007
INTERVAL_MICROSECONDS = 1000
SIZE = 64
CONDITIONS: dict[str, tuple[str, ...]] = {
    "idle": (),
    "300 Mbit/s of UDP": ("-u", "-b", "300M", "-l", "1280"),
}


@dataclass(frozen=True, slots=True)
class Latency:
    """Round-trip times in microseconds."""

    p50: float
    p99: float
    lost_percent: float


def measure(
    net: Net, program: Path, addresses: dict[str, str], condition: str, seconds: int
) -> Latency:
    """From a to b and back. `program` is the built udp_ping.c."""
    load = CONDITIONS[condition]
    with _echo(net, program, addresses["b"]):
        if not load:
            return _ping(net, program, addresses["b"], seconds)
        with throughput.background(net, load, addresses["b"]):
            return _ping(net, program, addresses["b"], seconds)


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


@contextmanager
def _echo(net: Net, program: Path, address: str) -> Iterator[None]:
    command = [*net.inside("b"), str(program), "echo", address, str(PING_PORT)]
    echo = subprocess.Popen(command)
    try:
        time.sleep(0.1)
        yield
    finally:
        echo.kill()
        echo.wait()


def _ping(net: Net, program: Path, address: str, seconds: int) -> Latency:
    count = seconds * 1_000_000 // INTERVAL_MICROSECONDS
    options = [PING_PORT, count, INTERVAL_MICROSECONDS, SIZE]
    command = [*net.inside("a"), str(program), "ping", address, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.split()
    times = sorted(int(line) / 1000 for line in lines if line != "lost")
    if not times:
        raise SystemExit(f"no answer from {address}")
    lost = 100 * (1 - len(times) / len(lines))
    return Latency(percentile(times, 0.5), percentile(times, 0.99), lost)
