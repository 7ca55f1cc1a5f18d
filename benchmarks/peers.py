"""What peers cost that are only configured: memory, and the throughput of the one that is busy."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks import throughput
from benchmarks.processes import resident_bytes
from benchmarks.throughput import Throughput
from benchmarks.tunnel_net import Implementation, Net, idle_peers

COUNTS = (1, 1000, 10_000)


@dataclass(frozen=True, slots=True)
class Peers:
    """`resident` is of one end, in bytes, before any load; the throughput is of one peer."""

    count: int
    ready_seconds: float
    resident: int
    throughput: Throughput


def measure(net: Net, implementation: Implementation, count: int, seconds: int) -> Peers:
    """With `count` peers at each end, of which one exists."""
    others = idle_peers(count - 1)
    started = time.monotonic()
    with net.tunnel(implementation, others) as pids:
        ready = time.monotonic() - started
        resident = sum(map(resident_bytes, pids)) // len(pids)
        moved = throughput.measure(net, throughput.TCP, pids, seconds)
    return Peers(count, ready, resident, moved)
