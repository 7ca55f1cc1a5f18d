"""Writes the table of docs/aead.md from the figures that benchmarks.bench_aead has written as JSON.

    python -m benchmarks.aead_page

`make bench-full` does so, and a test checks that page and figures agree.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.report import ROOT

FIGURES = ROOT / "benchmarks/results/aead.json"
PAGE = ROOT / "docs/aead.md"
BEGIN = "<!-- made from benchmarks/results/aead.json by benchmarks.aead_page: do not edit -->\n"
END = "<!-- end of what is made -->\n"
BATCHES = (1, 16, 64)
OURS = ("avx512z", "avx512", "avx2")


def main() -> int:
    PAGE.write_text(renewed(PAGE.read_text(), json.loads(FIGURES.read_text())))
    return 0


def renewed(page: str, figures: dict[str, Any]) -> str:
    """The page with the part between the marks made anew; ValueError without the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no marks around its table")
    return before + begin + "".join(f"{line}\n" for line in _lines(figures)) + end + after


def _lines(figures: dict[str, Any]) -> Iterator[str]:
    machine, cases = figures["machine"], figures["results"]["aead seal"]
    names = list(next(iter(cases.values())))
    libraries = [name for name in reversed(names) if name not in OURS]
    compared = [name for name in names if name in (machine["cipher"].split()[0], "avx2")]
    heads = [f"{ours}: {', '.join(libraries)}" for ours in compared]
    yield (
        f"{machine['cpu']}, {'virtual, ' * machine['virtual']}Linux {machine['kernel']}, "
        f"{machine['date'][:10]}, commit {figures['source']['commit'][:10]}; "
        f"medians of {figures['settings']['rounds']}."
    )
    yield ""
    yield f"| size | batch | {' | '.join((*names, *heads))} |"
    yield "|---" * (2 + len(names) + len(heads)) + "|"
    for case, samples in cases.items():
        size, _, batch = case.partition(" x ")
        if int(batch) in BATCHES and (size, batch) != ("mixed", "1"):
            costs = {n: statistics.median(s["nanoseconds"] for s in samples[n]) for n in names}
            times = [f"{costs[name]:.0f}" for name in names]
            ratios = [
                ", ".join(f"{costs[library] / costs[ours]:.2f}" for library in libraries)
                for ours in compared
            ]
            yield f"| {size} | {batch} | {' | '.join((*times, *ratios))} |"


if __name__ == "__main__":
    sys.exit(main())
