"""Throughput of the whole system in the lab, direct and relayed, per CPU second.

    python -m benchmarks.end_to_end [--seconds 5] [--rounds 3] [--json FILE]

Client, gateway, relay, both ends of iperf3 and the kernel share this machine's cores, so the plain
Gbit/s tell as much about the machine as about us. CPU seconds per Gbit are what our programs take.
Rounds alternate between the cases, and the table holds medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from firezone.durations import SECOND
from firezone.lab import Lab
from firezone.lab.topology import CLIENT, RESOURCE, RESOURCE_ALLOWED

TICKS = os.sysconf("SC_CLK_TCK")
PROGRAMS = {"direct": ("client", "gateway"), "relayed": ("client", "gateway", "relay1")}


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load."""

    name: str
    iperf: tuple[str, ...]


CASES = (
    Case("TCP up", ()),
    Case("TCP down", ("-R",)),
    Case("TCP up, 8 streams", ("-P", "8")),
    Case("UDP up, 300 Mbit/s", ("-u", "-b", "300M", "-l", "1200", "-w", "2M")),
)


@dataclass(frozen=True, slots=True)
class Round:
    """What one run moved, and what it cost."""

    gigabits: float
    gigabits_per_second: float
    lost_percent: float
    cpu_seconds: dict[str, float]

    @property
    def cpu_seconds_per_gigabit(self) -> float:
        return sum(self.cpu_seconds.values()) / self.gigabits if self.gigabits else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3, help="how long each round takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rounds to this file, too")
    options = parser.parse_args()
    results: dict[str, dict[str, list[Round]]] = {}
    for kind in PROGRAMS:
        with world(kind) as lab:
            results[kind] = measure(lab, kind, options.seconds, options.rounds)
    show(results)
    if options.json:
        plain = {
            kind: {name: [asdict(r) for r in rounds] for name, rounds in cases.items()}
            for kind, cases in results.items()
        }
        options.json.write_text(json.dumps(plain, indent=1))
    return 0


@contextmanager
def world(kind: str) -> Iterator[Lab]:
    """A lab whose client is connected over that kind of path."""
    with Lab() as lab:
        lab.block_direct(kind == "relayed")
        lab.start_resource()
        lab.start_portal()
        lab.start_relay()
        lab.start_gateway()
        client = lab.start_client()
        client.wait_for_event("ready")
        lab.start("iperf3", RESOURCE, ["iperf3", "--server"])
        fetched = lab.fetch(f"http://{RESOURCE_ALLOWED.v4}/")
        if fetched.status != 200:
            raise SystemExit(f"no tunnel: {fetched.error}\n{client.tail()}")
        client.wait_for(lambda line: line.get("kind") == kind)
        yield lab


def measure(lab: Lab, kind: str, seconds: int, rounds: int) -> dict[str, list[Round]]:
    measured: dict[str, list[Round]] = {case.name: [] for case in CASES}
    for _ in range(rounds):
        for case in CASES:
            measured[case.name].append(run(lab, kind, case, seconds))
    return measured


def run(lab: Lab, kind: str, case: Case, seconds: int) -> Round:
    """One iperf3 run, and the CPU time of our programs meanwhile."""
    before = {name: cpu_seconds(lab.programs[name].pid) for name in PROGRAMS[kind]}
    command = ["iperf3", "--json", "--time", str(seconds), "--client", str(RESOURCE_ALLOWED.v4)]
    done = lab.exec(CLIENT, [*command, *case.iperf], timeout=(seconds + 20) * SECOND)
    after = {name: cpu_seconds(lab.programs[name].pid) for name in PROGRAMS[kind]}
    report = json.loads(done.stdout)
    if "error" in report:
        raise SystemExit(f"iperf3: {report['error']}")
    # For UDP `sum` is what the sender offered; what arrived is what counts.
    is_udp = "-u" in case.iperf
    total = report["end"]["sum" if is_udp else "sum_received"]
    lost = total.get("lost_percent") or 0.0
    moved = total["bytes"] * 8 / 1e9 * (1 - lost / 100)
    return Round(
        gigabits=moved,
        gigabits_per_second=moved / total["seconds"],
        lost_percent=lost,
        cpu_seconds={name: after[name] - before[name] for name in before},
    )


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def show(results: dict[str, dict[str, list[Round]]]) -> None:
    print(f"\n{'path':9}{'load':20}{'Gbit/s':>8}{'lost':>7}{'CPU s/Gbit':>12}   by program")
    for kind, cases in results.items():
        for name, rounds in cases.items():
            print(row(kind, name, rounds))


def row(kind: str, name: str, rounds: list[Round]) -> str:
    def median(values: Iterator[float]) -> float:
        return statistics.median(values)

    cpu = median(r.cpu_seconds_per_gigabit for r in rounds)
    shares = "  ".join(
        f"{program} {median(r.cpu_seconds[program] / r.gigabits for r in rounds):.2f}"
        for program in PROGRAMS[kind]
    )
    speed = median(r.gigabits_per_second for r in rounds)
    lost = median(r.lost_percent for r in rounds)
    return f"{kind:9}{name:20}{speed:8.2f}{lost:6.1f}%{cpu:12.2f}   {shares}"


if __name__ == "__main__":
    sys.exit(main())
