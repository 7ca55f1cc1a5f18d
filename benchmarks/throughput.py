"""What iperf3 gets through a tunnel, and the CPU time that this takes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.processes import cpu_seconds
from benchmarks.tunnel_net import INSIDE, Net


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load; `size` is a UDP payload."""

    name: str
    iperf: tuple[str, ...]
    udp: bool = False


TCP = Load("TCP 1 stream", ())
LOADS = (
    TCP,
    Load("TCP 8 streams", ("-P", "8")),
    Load("TCP 1 stream, reverse", ("-R",)),
    Load("TCP 8 streams, reverse", ("-P", "8", "-R")),
    Load("UDP 64 B", ("-u", "-b", "0", "-l", "64"), udp=True),
    Load("UDP 512 B", ("-u", "-b", "0", "-l", "512"), udp=True),
    Load("UDP 1280 B", ("-u", "-b", "0", "-l", "1280"), udp=True),
)


@dataclass(frozen=True, slots=True)
class Throughput:
    """What arrived, and the CPU time of both tunnel processes. Packets are counted of UDP alone."""

    seconds: float
    gigabits: float
    packets: int
    lost_percent: float
    cpu: float

    @property
    def gigabits_per_second(self) -> float:
        return self.gigabits / self.seconds

    @property
    def gigabits_per_cpu_second(self) -> float:
        return self.gigabits / self.cpu if self.cpu else 0.0

    @property
    def kilopackets_per_second(self) -> float:
        return self.packets / self.seconds / 1000

    @property
    def kilopackets_per_cpu_second(self) -> float:
        return self.packets / self.cpu / 1000 if self.cpu else 0.0

    @property
    def efficiency(self) -> float:
        """The figure to compare: what a packet costs or, for streams, what a byte costs."""
        return self.kilopackets_per_cpu_second or self.gigabits_per_cpu_second


def measure(net: Net, load: Load, pids: list[int], seconds: int) -> Throughput:
    with _server(net):
        before = sum(map(cpu_seconds, pids))
        report = _client(net, load.iperf, INSIDE["b"], seconds)
        cpu = sum(map(cpu_seconds, pids)) - before
    # For UDP `sum` is what the sender offered; what arrived is what counts.
    total = report["end"]["sum" if load.udp else "sum_received"]
    lost = total.get("lost_percent") or 0.0
    arrived = 1 - lost / 100
    return Throughput(
        seconds=total["seconds"],
        gigabits=total["bytes"] * 8 / 1e9 * arrived,
        packets=round((total.get("packets") or 0) * arrived),
        lost_percent=lost,
        cpu=cpu,
    )


@contextmanager
def background(net: Net, options: tuple[str, ...], target: str) -> Iterator[None]:
    """That load, until left."""
    with _server(net):
        command = ["iperf3", "-t", "600", "-c", target, *options]
        client = subprocess.Popen(
            [*net.inside("a"), *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            time.sleep(0.5)
            if client.poll() is not None:
                raise SystemExit(f"iperf3: exit code {client.returncode}")
            yield
        finally:
            client.terminate()
            client.wait()


@contextmanager
def _server(net: Net) -> Iterator[None]:
    server = subprocess.Popen(
        [*net.inside("b"), "iperf3", "-s", "-1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(0.2)
        yield
        server.wait(10)
    finally:
        server.kill()
        server.wait()


def _client(net: Net, options: tuple[str, ...], target: str, seconds: int) -> Any:
    done = subprocess.run(
        [*net.inside("a"), "iperf3", "-J", "-t", str(seconds), "-c", target, *options],
        capture_output=True,
        text=True,
        timeout=seconds + 30,
    )
    report = json.loads(done.stdout)
    if "error" in report:
        raise SystemExit(f"iperf3: {report['error']}")
    return report
