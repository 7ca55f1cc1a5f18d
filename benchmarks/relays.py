"""`firezone relay` beside every other relay that can be had here, in one run.

    python -m benchmarks.relays [--seconds 0.5] [--rounds 5] [--only NAME,…] [--tree DIR]
        [--path loopback|interface] [--coalesce US] [--json FILE] [PART…]

    throughput    datagrams per second of the relay's CPU time
    latency       one way through the relay, idle and beside 20,000 datagrams a second
    floods        Binding and Allocate requests from 3000 strangers: answers, and memory

Relays: `firezone`, over an interface also with `--xdp`; Debian's `coturn`; `pion` (pion/turn) where
Go can build it; and `other tree`, the `firezone` of another checkout, if one is given. Each has one
worker on one CPU, and relays take turns within a round. Tables hold medians of the rounds.
Everything is measured over a loopback and then over an interface, where its receiving counts, too
(`relay_net.py`), or over the one that is asked for. How the load comes is told in `relay_load.py`;
its busy kind takes root, and so does the interface.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import relay_flood, relay_latency, relay_net, report
from benchmarks.private_net import in_private_net
from benchmarks.relay_flood import Flood
from benchmarks.relay_latency import Latency
from benchmarks.relay_load import (
    Coturn,
    Firezone,
    FirezoneXdp,
    Flow,
    Pion,
    RelayProcess,
    Result,
    load,
    may_be_first,
)
from benchmarks.relay_net import PATHS, RelayNet
from benchmarks.report import Samples, parse_parts, parser_of_parts

FLOWS = (1, 32, 256)
SIZES = (120, 1200)
DIRECTIONS = {"up": True, "down": False}
WORTH_TELLING = 0.01
"""Share of datagrams lost: what became of them before counts as well."""
CONDITIONS = {"idle": False, "loaded": True}


class OtherTree(Firezone):
    name = "other tree"


@dataclass(frozen=True, slots=True)
class Run:
    """What all parts need."""

    relays: list[RelayProcess]
    path: str
    seconds: float
    rounds: int

    def turns(self) -> Iterator[RelayProcess]:
        for _ in range(self.rounds):
            yield from self.relays


def main() -> int:
    options = _parse()

    def run(path: str) -> dict[str, Samples]:
        with ExitStack() as running:
            net = running.enter_context(relay_net.opened(path, options.coalesce))
            makers = _installed(options, path)
            relays = [running.enter_context(make(net)) for make in makers]
            return _measure(Run(relays, path, options.seconds, options.rounds), options.parts)

    results: dict[str, Samples] = {}
    for path in [options.path] if options.path else _paths():
        results |= in_private_net(partial(run, path))
    if options.json:
        settings = {name: getattr(options, name) for name in ("seconds", "rounds", "coalesce")}
        report.write(options.json, settings, results)
    return 0


def _parse() -> argparse.Namespace:
    parser = parser_of_parts(__doc__, seconds=0.5, measured="relays")
    parser.add_argument("--path", choices=PATHS, help="over this one only")
    parser.add_argument(
        "--coalesce",
        type=int,
        default=0,
        metavar="US",
        help="let the relay's interface gather frames for so many microseconds, as NICs do",
    )
    parser.add_argument("--tree", type=Path, help="another checkout, with its kernels built")
    return parse_parts(parser, PARTS)


def _paths() -> Iterable[str]:
    return [path for path in PATHS if path == "loopback" or may_be_first()]


def _installed(options: argparse.Namespace, path: str) -> list[Callable[[RelayNet], RelayProcess]]:
    """Each with ports of its own."""
    wanted = None if options.only is None else options.only.split(",")
    tree, coalesce = options.tree, options.coalesce
    one = ("--workers", "1")
    found: dict[str, Callable[[RelayNet], RelayProcess]] = {
        "firezone": lambda net: Firezone(None, one, (10_000, 12_999), net),
    }
    if shutil.which("turnserver"):
        found["coturn"] = lambda net: Coturn((13_000, 15_999), net)
    if (wanted is None or "pion" in wanted) and Pion.build():
        found["pion"] = lambda net: Pion((16_000, 18_999), net)
    if tree is not None:
        found["other tree"] = lambda net: OtherTree(tree, one, (19_000, 21_999), net)
    if path == "interface":
        found["firezone --xdp"] = lambda _: FirezoneXdp(one, (22_000, 24_999), coalesce)
    return [make for name, make in found.items() if wanted is None or name in wanted]


def _measure(run: Run, parts: list[str]) -> dict[str, Samples]:
    results = {}
    for part in parts or PARTS:
        measure, show = PARTS[part]
        name = f"{part}, {run.path}"
        results[name] = Samples()
        measure(run, results[name])
        print(f"\n{name}\n", *show(results[name]), sep="\n", flush=True)
    return results


# Measuring.


def measure_throughput(run: Run, samples: Samples) -> None:
    for relay in run.turns():
        flows = [Flow(relay) for _ in range(max(FLOWS))]
        for merging, busy, size, count in _loads():
            for direction, to_peer in DIRECTIONS.items():
                result = load(flows[:count], to_peer, size, merging, busy, run.seconds)
                samples.add(_case(merging, busy, size, count, direction), relay.name, result)
        for flow in flows:
            flow.close()
        with closing(Flow(relay, channel=False)) as flow:
            for size in SIZES:
                for direction, to_peer in DIRECTIONS.items():
                    result = load([flow], to_peer, size, False, False, run.seconds)
                    samples.add(_without_channel(size, direction), relay.name, result)


def measure_latency(run: Run, samples: Samples) -> None:
    for relay in run.turns():
        for condition, loaded in CONDITIONS.items():
            for direction, to_peer in DIRECTIONS.items():
                result = relay_latency.measure(relay, loaded, to_peer, max(run.seconds, 1.0))
                samples.add(f"{condition} {direction}", relay.name, result)


def measure_floods(run: Run, samples: Samples) -> None:
    for relay in run.turns():
        for kind in relay_flood.KINDS:
            samples.add(kind, relay.name, relay_flood.measure(relay, kind, run.seconds))


def _loads() -> Iterator[tuple[bool, bool, int, int]]:
    conditions = (False, True) if may_be_first() else (False,)
    return itertools.product((True, False), reversed(conditions), reversed(SIZES), FLOWS)


def _case(merging: bool, busy: bool, size: int, count: int, direction: str) -> str:
    ends, state = "merging" if merging else "plain", "busy" if busy else "idle"
    return f"{ends:8}{state:5}{size:>5} B{count:>5} {direction}"


def _without_channel(size: int, direction: str) -> str:
    """What goes by Send and Data."""
    return f"no channel   {size:>5} B    1 {direction}"


# Showing.


def show_throughput(samples: Samples) -> Iterable[str]:
    names = _names(samples, Result)
    yield "thousand datagrams per CPU second of the relay, up / down; beside coturn"
    yield f"{'ends':8}{'relay':5}{'size':>7}{'flows':>6}" + "".join(f"{n:>24}" for n in names)
    cases = [tuple(_case(*each, direction) for direction in DIRECTIONS) for each in _loads()]
    cases += [tuple(_without_channel(size, each) for each in DIRECTIONS) for size in SIZES]
    for up, down in cases:
        row = up.removesuffix(" up")
        for name in names:
            figures = [_rate(samples, each, name) for each in (up, down)]
            row += f"{figures[0] / 1000:>9.0f} /{figures[1] / 1000:>5.0f}"
            others = [_rate(samples, each, "coturn") for each in (up, down)]
            beside = [f / o for f, o in zip(figures, others, strict=True) if o]
            row += f"{min(beside):>7.1f}x" if beside and name != "coturn" else " " * 8
        yield row
    for case, name, rounds in samples.of(Result):
        if (loss := statistics.median(each.loss for each in rounds)) > WORTH_TELLING:
            yield f"{case}: {name} lost {loss:.0%}"


def show_latency(samples: Samples) -> Iterable[str]:
    yield f"{'':16}{'':12}{'p50 us':>9}{'p99 us':>9}{'lost':>6}"
    for case, name, rounds in samples.of(Latency):
        p50 = statistics.median(r.p50 for r in rounds)
        p99 = statistics.median(r.p99 for r in rounds)
        yield f"{case:16}{name:12}{p50:>9.0f}{p99:>9.0f}{sum(r.lost for r in rounds):>6}"


def show_floods(samples: Samples) -> Iterable[str]:
    yield f"{'':30}{'':12}{'answers per CPU s':>18}{'answered':>10}{'grown KiB':>11}"
    for case, name, rounds in samples.of(Flood):
        rate = statistics.median(r.per_cpu_second for r in rounds)
        share = sum(r.answered for r in rounds) / sum(r.sent for r in rounds)
        grown = statistics.median(r.grown_bytes for r in rounds) / 1024
        yield f"{case:30}{name:12}{rate:>18.0f}{share:>9.0%} {grown:>11.0f}"


def _names(samples: Samples, kind: type) -> list[str]:
    return list(dict.fromkeys(name for _, name, _ in samples.of(kind)))


def _rate(samples: Samples, case: str, name: str) -> float:
    rounds = samples.get(case, name, Result)
    return statistics.median(r.per_cpu_second for r in rounds) if rounds else 0.0


PARTS: dict[str, tuple[Callable[[Run, Samples], None], Callable[[Samples], Iterable[str]]]] = {
    "throughput": (measure_throughput, show_throughput),
    "latency": (measure_latency, show_latency),
    "floods": (measure_floods, show_floods),
}


if __name__ == "__main__":
    sys.exit(main())
