"""Draws the figures that benchmarks.tunnels and benchmarks.bench_aead have written as JSON.

    python -m benchmarks.plots benchmarks/results/tunnels.json

writes tunnels.png beside it. Bars are medians, whiskers the whole range of the rounds. Needs
matplotlib: the dependency group `plot`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "firezone": "#d1495b",
    "null tunnel": "#edae49",
    "wireguard-go": "#9fb8c8",
    "wireguard-go-new": "#30638e",
    "boringtun-cli": "#5b8c5a",
    "bare path": "#bbbbbb",
    "avx512": "#d1495b",
    "avx512z": "#8f2d56",
    "avx2": "#edae49",
    "libsodium": "#9fb8c8",
    "OpenSSL": "#30638e",
    "ipsec-mb": "#5b8c5a",
}
WIDTH = 0.8
Rounds = list[dict[str, Any]]
Part = dict[str, dict[str, Rounds]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="as JSON")
    for path in parser.parse_args().files:
        draw(json.loads(path.read_text()), path.with_suffix(".png"))
        print(path.with_suffix(".png"))
    return 0


def draw(page: dict[str, Any], output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        (panel, part) for name, part in page["results"].items() for panel in PANELS.get(name, ())
    ]
    rows = (len(panels) + 1) // 2
    figure, grid = pyplot.subplots(rows, 2, figsize=(13, 4.2 * rows), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for (panel, part), axes in zip(panels, grid.flat, strict=False):
        panel(axes, part)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_title(page), fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(output, dpi=110)
    pyplot.close(figure)


# Panels.


def streams(axes: Axes, part: Part) -> None:
    cases = {case: names for case, names in part.items() if case.startswith("TCP")}
    _bars(axes, cases, lambda r: r["gigabits_per_cpu_second"])
    axes.set_title("Streams: Gbit per CPU second of both ends")


def packets(axes: Axes, part: Part) -> None:
    cases = {case: names for case, names in part.items() if case.startswith("UDP")}
    _bars(axes, cases, lambda r: r["kilopackets_per_cpu_second"])
    axes.set_title("Datagrams: thousands per CPU second of both ends")


def delays(percentile: str) -> Callable[[Axes, Part], None]:
    def panel(axes: Axes, part: Part) -> None:
        cases = {}
        for case, names in part.items():
            bare = statistics.median(r[percentile] for r in names["bare path"])
            cases[case] = {
                name: [{"added": max((r[percentile] - bare) / 2, 0.1)} for r in rounds]
                for name, rounds in names.items()
                if name != "bare path"
            }
        _bars(axes, cases, lambda r: r["added"])
        axes.set_yscale("log")
        axes.set_title(f"Latency that one way through the tunnel adds, {percentile}: µs")

    return panel


def memory(axes: Axes, part: Part) -> None:
    _lines(axes, part, lambda r: r["resident"] / 1e6)
    axes.set_yscale("log")
    axes.set_title("Memory (RSS) of one end by configured peers: MB")


def crowded(axes: Axes, part: Part) -> None:
    _lines(axes, part, lambda r: r["throughput"]["gigabits"] / r["throughput"]["cpu"])
    axes.set_ylim(bottom=0)
    axes.set_title("One stream by configured peers: Gbit per CPU second")


def responders(axes: Axes, part: Part) -> None:
    _bars(axes, part, lambda r: r["per_cpu_second"])
    axes.set_title("Handshakes as responder: per CPU second")


def ciphers(what: str, batch: int) -> Callable[[Axes, Part], None]:
    def panel(axes: Axes, part: Part) -> None:
        end = f" x {batch}"
        cases = {case.removesuffix(end): c for case, c in part.items() if case.endswith(end)}
        _bars(axes, cases, lambda r: r["nanoseconds"])
        axes.set_title(f"{what} packets of so many bytes, {batch} at a time: ns each")

    return panel


def arrivals(axes: Axes, part: Part) -> None:
    _bars(axes, part, lambda r: r["arrived_percent"])
    axes.tick_params(axis="x", labelrotation=20, labelsize=8)
    axes.set_ylim(bottom=0)
    axes.set_title("Of a peer's 200 Mbit/s arrives beside a flood: %")


PANELS: dict[str, list[Callable[[Axes, Part], None]]] = {
    "throughput": [streams, packets],
    "latency": [delays("p50"), delays("p99")],
    "peers": [memory, crowded],
    "handshakes": [responders],
    "floods": [arrivals],
    "aead seal": [ciphers("Sealing", 1), ciphers("Sealing", 16)],
    "aead open": [ciphers("Opening", 1), ciphers("Opening", 16)],
}


def _bars(axes: Axes, cases: Part, value: Callable[[dict[str, Any]], float]) -> None:
    names = list(dict.fromkeys(name for by_name in cases.values() for name in by_name))
    width = WIDTH / max(len(names), 1)
    for number, name in enumerate(names):
        taken = [(i, _spread(c[name], value)) for i, c in enumerate(cases.values()) if name in c]
        places = [i + (number - (len(names) - 1) / 2) * width for i, _ in taken]
        middles = [middle for _, (_, middle, _) in taken]
        whiskers = [
            [middle - low for _, (low, middle, _) in taken],
            [high - middle for _, (_, middle, high) in taken],
        ]
        axes.bar(
            places, middles, width * 0.92, yerr=whiskers, label=name, color=COLOURS.get(name),
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
        )  # fmt: skip
    axes.set_xticks(range(len(cases)), list(cases), fontsize=8)
    axes.margins(y=0.25)
    axes.legend(fontsize=7, frameon=False, ncols=3, loc="upper left")


def _lines(axes: Axes, part: Part, value: Callable[[dict[str, Any]], float]) -> None:
    for name in dict.fromkeys(name for by_name in part.values() for name in by_name):
        counts = [int(count) for count, by_name in part.items() if name in by_name]
        middles = [_spread(part[str(count)][name], value)[1] for count in counts]
        axes.plot(counts, middles, "o-", label=name, color=COLOURS.get(name))
    axes.set_xscale("log")
    axes.set_xticks([int(count) for count in part], list(part))
    axes.minorticks_off()
    axes.legend(fontsize=7, frameon=False)


def _spread(rounds: Rounds, value: Callable[[dict[str, Any]], float]) -> tuple[float, float, float]:
    values = [value(r) for r in rounds]
    return min(values), statistics.median(values), max(values)


def _title(page: dict[str, Any]) -> str:
    machine, settings = page["machine"], page["settings"]
    changed = " and changes" if page["source"]["changed"] else ""
    return (
        f"{machine['cpu']}, {machine['cores']} cores{' (virtual)' * machine['virtual']}, "
        f"Linux {machine['kernel']}, load {machine['load_average']}; "
        f"commit {page['source']['commit'][:10]}{changed}; "
        f"medians of {settings['rounds']} × {settings['seconds']} s; {machine['date']}"
    )


if __name__ == "__main__":
    sys.exit(main())
