"""What one way through a relay takes, alone and beside other traffic.

A datagram at a time, at fixed intervals; whoever waits for it polls, so that no wake-up but the
relay's own is in the figure. The other traffic is a process that keeps many flows busy at a fixed
rate. Relay and load have a CPU each; the datagrams that are timed come before the load.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.relay_load import CHANNEL, Flow, Lane, RelayProcess, may_be_first
from firezone.durations import MICROSECOND, MILLISECOND
from firezone.turn.channel_data import encode_channel_data

INTERVAL = 2 * MILLISECOND
PATIENCE = 50 * MILLISECOND
SIZE = 120
LOAD_FLOWS = 32
LOAD_SIZE = 1200
LOAD_RATE = 20_000
"""Datagrams a second, to peers: less than any of the relays can move."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Microseconds, of the datagrams that arrived."""

    p50: float
    p99: float
    lost: int


def measure(relay: RelayProcess, loaded: bool, to_peer: bool, seconds: float) -> Latency:
    flow = Flow(relay)
    try:
        with _load(relay) if loaded else contextlib.nullcontext():
            return _ping(flow, to_peer, int(seconds * 1e9) // INTERVAL)
    finally:
        flow.close()


def _ping(flow: Flow, to_peer: bool, count: int) -> Latency:
    data = encode_channel_data(CHANNEL, bytes(SIZE)) if to_peer else bytes(SIZE)
    source, sink = (flow.client, flow.peer) if to_peer else (flow.peer, flow.client)
    destination = flow.relay.address if to_peer else flow.relayed.sockaddr
    taken = []
    with _in_front():
        for _ in range(count):
            time.sleep(INTERVAL / 1e9)
            sent = time.monotonic_ns()
            source.sendto(data, destination)
            now = sent
            while now < sent + PATIENCE:
                with contextlib.suppress(BlockingIOError):
                    sink.recv(2048)
                    taken.append((time.monotonic_ns() - sent) / MICROSECOND)
                    break
                now = time.monotonic_ns()
    if len(taken) < 2:
        return Latency(float("nan"), float("nan"), count - len(taken))
    marks = statistics.quantiles(taken, n=100)
    return Latency(statistics.median(taken), marks[98], count - len(taken))


@contextlib.contextmanager
def _in_front() -> Iterator[None]:
    """On the last CPU, before the load that shares it."""
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    if may_be_first():
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextlib.contextmanager
def _load(relay: RelayProcess) -> Iterator[None]:
    flows = [Flow(relay) for _ in range(LOAD_FLOWS)]
    burst = 16
    lanes = [Lane(flow, True, LOAD_SIZE, burst, False) for flow in flows]
    child = os.fork()
    if child == 0:
        _keep_busy(lanes, burst)
    try:
        time.sleep(0.1)
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for flow in flows:
            flow.close()


def _keep_busy(lanes: list[Lane], burst: int) -> None:
    """Until killed, or for as long as nobody can want it."""
    try:
        os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
        due = started = time.monotonic_ns()
        while due < started + 60_000 * MILLISECOND:
            for lane in lanes:
                lane.send()
                due += burst * 10**9 // LOAD_RATE
                time.sleep(max(due - time.monotonic_ns(), 0) / 1e9)
                lane.receive()
    finally:
        os._exit(0)
