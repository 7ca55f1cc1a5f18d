"""`firezone wg` beside every other user-space WireGuard that is installed, in one run.

    python -m benchmarks.tunnels [--seconds 3] [--rounds 5] [--only NAME,…] [--json FILE] [PART…]

    throughput    TCP and UDP, by CPU time of both ends
    latency       what one way through the tunnel adds, idle and loaded, beyond the bare path
    peers         memory and throughput with 1, 1000 and 10000 configured peers
    handshakes    answered by one core
    floods        what arrives of a peer's traffic beside a flood of each kind
    workers       throughput of `firezone wg` with one and with two workers at both ends

Two namespaces joined by a veth pair; both ends of the tunnel run the same implementation, and both
ends and the load share this machine's cores. So the figure of throughput to read is that per CPU
second of the tunnel processes. Implementations take turns within a round; tables hold medians of
the rounds. `null tunnel` is `firezone` without a cipher: the price of everything else. It is left
out where nothing is sealed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from benchmarks import floods, handshakes, latency, peers, report, throughput
from benchmarks.compiled import program
from benchmarks.floods import Flooded
from benchmarks.handshakes import Crowd, Handshakes
from benchmarks.latency import Latency
from benchmarks.peers import Peers
from benchmarks.report import Samples, parse_parts, parser_of_parts
from benchmarks.throughput import Throughput
from benchmarks.tunnel_net import (
    INSIDE,
    NULL_TUNNEL,
    UNDERLAY,
    Implementation,
    Net,
    installed,
    network,
    with_workers,
)

BARE = "bare path"
WORKERS = (1, 2)


@dataclass(frozen=True, slots=True)
class Run:
    """What all parts need."""

    net: Net
    implementations: list[Implementation]
    seconds: int
    rounds: int

    def turns(self) -> Iterator[Implementation]:
        for _ in range(self.rounds):
            yield from self.implementations

    def real(self) -> Iterator[Implementation]:
        return (i for i in self.turns() if i.name != NULL_TUNNEL)


def main() -> int:
    options = parse_parts(parser_of_parts(__doc__, seconds=3, measured="implementations"), PARTS)
    implementations = installed(options.only)
    results: dict[str, Samples] = {}
    with network() as net:
        run = Run(net, implementations, options.seconds, options.rounds)
        for part in options.parts or PARTS:
            measure, show = PARTS[part]
            results[part] = Samples()
            measure(run, results[part])
            print(f"\n{part}\n", *show(results[part]), sep="\n", flush=True)
    if options.json:
        versions = {i.name: i.version for i in implementations}
        settings = {"seconds": options.seconds, "rounds": options.rounds, "versions": versions}
        report.write(options.json, settings, results)
    return 0


# Measuring.


def measure_throughput(run: Run, samples: Samples) -> None:
    for implementation in run.turns():
        with run.net.tunnel(implementation) as pids:
            for load in throughput.LOADS:
                result = throughput.measure(run.net, load, pids, run.seconds)
                samples.add(load.name, implementation.name, result)


def measure_workers(run: Run, samples: Samples) -> None:
    for _ in range(run.rounds):
        for count in WORKERS:
            implementation = with_workers(count)
            with run.net.tunnel(implementation) as pids:
                for load in throughput.LOADS:
                    result = throughput.measure(run.net, load, pids, run.seconds)
                    samples.add(load.name, implementation.name, result)


def measure_latency(run: Run, samples: Samples) -> None:
    ping = program("udp_ping.c", run.net.directory)

    def through(name: str, addresses: dict[str, str]) -> None:
        for condition in latency.CONDITIONS:
            result = latency.measure(run.net, ping, addresses, condition, run.seconds)
            samples.add(condition, name, result)

    for number, implementation in enumerate(run.turns()):
        if number % len(run.implementations) == 0:
            through(BARE, UNDERLAY)
        with run.net.tunnel(implementation):
            through(implementation.name, INSIDE)


def measure_peers(run: Run, samples: Samples) -> None:
    for implementation in run.real():
        for count in peers.COUNTS:
            result = peers.measure(run.net, implementation, count, run.seconds)
            samples.add(str(count), implementation.name, result)


def measure_handshakes(run: Run, samples: Samples) -> None:
    crowd = Crowd(run.net.keys["b"].public, run.seconds)
    for implementation in run.real():
        result = handshakes.measure(run.net, implementation, crowd)
        samples.add("as responder", implementation.name, result)


def measure_floods(run: Run, samples: Samples) -> None:
    for implementation in run.real():
        for kind, result in floods.measure(run.net, implementation, run.seconds):
            samples.add(kind, implementation.name, result)


# Showing.


def show_throughput(samples: Samples) -> Iterable[str]:
    yield (
        f"{'load':24}{'implementation':20}{'Gbit/CPU s':>12}{'kpkt/CPU s':>12}{'firezone is':>13}"
        f"{'Gbit/s':>8}{'kpkt/s':>8}{'lost':>7}"
    )
    for load, name, rounds in samples.of(Throughput):
        ours = median(r.efficiency for r in samples.get(load, "firezone", Throughput))
        theirs = median(r.efficiency for r in rounds)
        ratio = f"{ours / theirs:.2f}x" if theirs and ours and name != "firezone" else ""
        yield (
            f"{load:24}{name:20}"
            f"{median(r.gigabits_per_cpu_second for r in rounds):12.2f}"
            f"{median(r.kilopackets_per_cpu_second for r in rounds):12.0f}{ratio:>13}"
            f"{median(r.gigabits_per_second for r in rounds):8.2f}"
            f"{median(r.kilopackets_per_second for r in rounds):8.0f}"
            f"{median(r.lost_percent for r in rounds):6.1f}%"
        )


def show_workers(samples: Samples) -> Iterable[str]:
    yield f"{'load':24}{'':22}{'Gbit/CPU s':>12}{'kpkt/CPU s':>12}{'Gbit/s':>8}{'kpkt/s':>8}"
    for load, name, rounds in samples.of(Throughput):
        yield (
            f"{load:24}{name:22}"
            f"{median(r.gigabits_per_cpu_second for r in rounds):12.2f}"
            f"{median(r.kilopackets_per_cpu_second for r in rounds):12.0f}"
            f"{median(r.gigabits_per_second for r in rounds):8.2f}"
            f"{median(r.kilopackets_per_second for r in rounds):8.0f}"
        )


def show_latency(samples: Samples) -> Iterable[str]:
    yield f"{'':44}{'round trip, µs':>20}{'added one way, µs':>20}{'':8}"
    yield f"{'condition':24}{'path':20}{'p50':>10}{'p99':>10}{'p50':>10}{'p99':>10}{'lost':>8}"
    for condition, name, rounds in samples.of(Latency):
        bare = samples.get(condition, BARE, Latency)
        p50, p99 = median(r.p50 for r in rounds), median(r.p99 for r in rounds)
        added = ""
        if name != BARE:
            added = f"{added_p50(rounds, bare):10.0f}{added_p99(rounds, bare):10.0f}"
        lost = median(r.lost_percent for r in rounds)
        yield f"{condition:24}{name:20}{p50:10.0f}{p99:10.0f}{added:20}{lost:7.1f}%"


def show_peers(samples: Samples) -> Iterable[str]:
    yield (
        f"{'implementation':20}{'peers':>8}{'ready s':>9}{'RSS MB':>9}{'KB/peer':>9}"
        f"{'Gbit/CPU s':>12}{'of 1 peer':>11}"
    )
    for count, name, rounds in sorted(samples.of(Peers), key=lambda row: row[1]):
        one = samples.get("1", name, Peers)
        each = bytes_per_peer(rounds, one) / 1000 if count != "1" else 0.0
        moved = median(r.throughput.efficiency for r in rounds)
        share = moved / median(r.throughput.efficiency for r in one)
        yield (
            f"{name:20}{count:>8}{median(r.ready_seconds for r in rounds):9.1f}"
            f"{median(r.resident for r in rounds) / 1e6:9.1f}{each:9.1f}{moved:12.2f}{share:10.0%}"
        )


def show_handshakes(samples: Samples) -> Iterable[str]:
    yield f"{'implementation':20}{'per CPU second':>16}{'answered a second':>20}"
    for _, name, rounds in samples.of(Handshakes):
        cost, rate = (
            median(r.per_cpu_second for r in rounds),
            median(r.per_second for r in rounds),
        )
        yield f"{name:20}{cost:16.0f}{rate:20.0f}"


def show_floods(samples: Samples) -> Iterable[str]:
    yield (
        f"{'flood':18}{'implementation':20}{'a second':>10}"
        f"{'arrived':>9}{'CPU s':>8}{'grown KB':>10}"
    )
    for kind, name, rounds in samples.of(Flooded):
        yield (
            f"{kind:18}{name:20}"
            f"{median(r.rate for r in rounds):10.0f}"
            f"{median(r.arrived_percent for r in rounds):8.1f}%"
            f"{median(r.cpu for r in rounds):8.2f}"
            f"{median(r.grown for r in rounds) / 1000:10.0f}"
        )


def added_p50(rounds: list[Latency], bare: list[Latency]) -> float:
    return (median(r.p50 for r in rounds) - median(r.p50 for r in bare)) / 2


def added_p99(rounds: list[Latency], bare: list[Latency]) -> float:
    return (median(r.p99 for r in rounds) - median(r.p99 for r in bare)) / 2


def bytes_per_peer(rounds: list[Peers], one: list[Peers]) -> float:
    more = median(r.resident for r in rounds) - median(r.resident for r in one)
    return more / (rounds[0].count - 1)


def median(values: Iterable[float]) -> float:
    return statistics.median([*values] or [0.0])


PARTS: dict[str, tuple[Callable[[Run, Samples], None], Callable[[Samples], Iterable[str]]]] = {
    "throughput": (measure_throughput, show_throughput),
    "latency": (measure_latency, show_latency),
    "peers": (measure_peers, show_peers),
    "handshakes": (measure_handshakes, show_handshakes),
    "floods": (measure_floods, show_floods),
    "workers": (measure_workers, show_workers),
}

if __name__ == "__main__":
    sys.exit(main())
