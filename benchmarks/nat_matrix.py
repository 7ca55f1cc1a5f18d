"""Which path the real programs find through each pair of NATs, and how soon the first byte comes.

    python -m benchmarks.nat_matrix [--rounds 1] [--output docs/nat-matrix.md]

Every cell is a network of its own in the lab. The outcome is compared with what theory expects
(`firezone.lab.paths`); the exit code is 1 if a cell differs. The time is that of the client's first
TCP connection to the resource, from opening the socket to the first byte of the answer: it holds
the authorization by the portal, ICE, the WireGuard handshake and the request.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from firezone.lab.matrix import OTHERS, SITES, Cell, run_cell, use


def main() -> int:
    arguments = _parse()
    cells = dict(_run_all(arguments.rounds))
    others = dict(_run_others(arguments.rounds))
    text = "\n".join(_page(cells, others)) + "\n"
    if arguments.output is not None:
        arguments.output.write_text(text)
    else:
        print(text)
    every = [*cells.values(), *others.values()]
    return 0 if all(cell.ok for each in every for cell in each) else 1


_Cells = dict[tuple[str, str], list[Cell]]
_Others = dict[str, list[Cell]]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=1, help="the times are medians of so many")
    parser.add_argument("--output", type=Path, help="write the page there, not to the terminal")
    return parser.parse_args()


def _run_all(rounds: int) -> Iterable[tuple[tuple[str, str], list[Cell]]]:
    for client in SITES:
        for gateway in SITES:
            cells = [run_cell(SITES[client], SITES[gateway]) for _ in range(rounds)]
            print(f"{client} - {gateway}: {_entry(cells)}", file=sys.stderr, flush=True)
            yield (client, gateway), cells


def _run_others(rounds: int) -> Iterable[tuple[str, list[Cell]]]:
    for name, lab in OTHERS.items():
        cells = [use(lab()) for _ in range(rounds)]
        print(f"{name}: {_entry(cells)}", file=sys.stderr, flush=True)
        yield name, cells


def _page(cells: _Cells, others: _Others) -> Iterable[str]:
    yield "# Paths through NATs\n"
    yield "Made by `make nat-matrix` on real network namespaces; do not edit.\n"
    yield (
        "Rows are the client's site, columns the gateway's. *direct* or *relayed* is the path the "
        "programs chose, in bold where theory expects another one. The number is the time from the "
        "client's first connection attempt to the first byte of the resource's answer, in ms: "
        "authorization by the portal, ICE, handshake and request.\n"
    )
    yield "| client \\ gateway | " + " | ".join(SITES) + " |"
    yield "|---" * (len(SITES) + 1) + "|"
    for client in SITES:
        entries = (_entry(cells[client, gateway]) for gateway in SITES)
        yield f"| {client} | " + " | ".join(entries) + " |"
    yield ""
    yield from _LEGEND
    yield ""
    yield "## Other networks\n"
    yield "| network | path |\n|---|---|"
    for name, each in others.items():
        yield f"| {name} | {_entry(each)} |"
    yield ""
    yield from _OTHER_LEGEND


_LEGEND = [
    "- *full cone*: one port for all destinations, everybody may send to it.",
    "- *restricted cone*: the same, but only hosts that were sent to; any port of theirs.",
    "- *port-restricted cone*: only the very addresses and ports that were sent to.",
    "- *shifted*: the three cones with another port outside than inside.",
    "- *two cones*: a carrier's NAT (shifted) behind the site's own, both port-restricted.",
    "- *address-symmetric*: another port for each remote address, answers only.",
    "- *open symmetric*: another random port for each destination, everybody may send to it.",
    "- *restricted symmetric*: the same, but only the host that was sent to; any port of its.",
    "- *symmetric*: another random port for each destination, answers only.",
    "- *IPv4 only*, *IPv6 only*: a port-restricted cone of one family. The relay has both.",
    "- *MTU 1280*: a port-restricted cone; the path takes no larger packets, and says so.",
    "- *no UDP*: only TCP passes, so the relay is reached over a stream. The programs have just "
    "been started here, and first wait 2.5 s for answers over UDP.",
]

_OTHER_LEGEND = [
    "- *NAT64*: the site has IPv6 alone and its router translates to IPv4, then applies the NAT, a "
    "port-restricted cone where nothing else is said. Portal and relay have IPv4 alone, too.",
    "- *one NAT*: client and gateway are in two networks of one router that does not join them. "
    "Without hairpinning, or with another NAT outside, nothing leads from one to the other.",
]


def _entry(cells: list[Cell]) -> str:
    paths = sorted({cell.path or "none" for cell in cells})
    text = "/".join(paths)
    if not all(cell.ok for cell in cells):
        return f"**{text}**"
    return f"{text} {statistics.median(cell.first_byte_ms for cell in cells):.0f}"


if __name__ == "__main__":
    sys.exit(main())
