"""How long a download pauses when hosts move, sleep, or lose a relay or the portal.

    python -m benchmarks.roaming [--rounds 1] [--output docs/roaming.md]

Every round is a network of its own in the lab, in which the real programs carry a TCP download of
1 MB/s. The pause is the longest time without a byte, until some seconds after the change. The
exit code is 1 if a download broke, or did not go on in time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks import report
from firezone.lab.roaming import SCENARIOS, Outcome, run


def main() -> int:
    arguments = _parse()
    found = dict(_run_all(arguments.rounds))
    text = "\n".join(_page(found)) + "\n"
    if arguments.output is not None:
        arguments.output.write_text(text)
    else:
        print(text)
    kept = (SCENARIOS[name].survived(o) for name, each in found.items() for o in each)
    return 0 if all(kept) else 1


_Found = dict[str, list[Outcome]]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=1, help="the pauses are medians of so many")
    parser.add_argument("--output", type=Path, help="write the page there, not to the terminal")
    return parser.parse_args()


def _run_all(rounds: int) -> Iterable[tuple[str, list[Outcome]]]:
    for name, scenario in SCENARIOS.items():
        outcomes = [run(scenario) for _ in range(rounds)]
        print(_row(name, outcomes), file=sys.stderr, flush=True)
        yield name, outcomes


def _page(found: _Found) -> Iterable[str]:
    yield "# Pauses of a download\n"
    yield "Made by `make roaming` on real network namespaces; do not edit.\n"
    yield (
        "The client downloads 1 MB/s over one TCP connection while the change happens. *Away* is "
        "how long the host sleeps, or what goes away stays away; *pause* the longest time without "
        "a byte, that included. Between cones; *relayed* with direct paths blocked.\n"
    )
    yield f"{_where(len(next(iter(found.values()))))}\n"
    yield "| change | away, s | pause, s | worst | the download |"
    yield "|---|---:|---:|---:|---|"
    for name, outcomes in found.items():
        yield _row(name, outcomes)
    yield ""
    yield from _REMARKS


def _where(rounds: int) -> str:
    it = report.machine()
    return (
        f"Medians of {rounds}, on {it['cpu']}, {it['cores']} cores, Linux {it['kernel']}, load "
        f"average {it['load_average']}."
    )


_REMARKS = [
    "A pause ends when TCP sends again: 0.2, 0.6, 1.4 and 3 s after the last answer. So a path",
    "that is back after 0.21 s makes one of 0.6 s, and machines differ by such steps.",
    "",
    "Who moves while the portal is away has lost its connections, as only the portal can introduce",
    "it anew. If the client is back at the portal before the gateway is, it is refused, and asks",
    "again 1, 2, 4, 8, then every 10 s, for 5 minutes; TCP's own retransmissions, seconds apart,",
    "add to that.",
]


def _row(name: str, outcomes: list[Outcome]) -> str:
    scenario = SCENARIOS[name]
    pauses = [outcome.longest_pause_ms / 1000 for outcome in outcomes]
    survived = all(map(scenario.survived, outcomes))
    away = f"{scenario.away_seconds:g}" if scenario.away_seconds else ""
    what = "goes on, all bytes right" if survived else "**breaks, or pauses too long**"
    return f"| {name} | {away} | {statistics.median(pauses):.1f} | {max(pauses):.1f} | {what} |"


if __name__ == "__main__":
    sys.exit(main())
