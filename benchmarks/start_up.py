"""How long each program takes from its start until it serves, and the memory it then has.

    python -m benchmarks.start_up [--rounds 5]

The programs run in the lab and start in turn. Time is from the fork to the log line that tells that
it serves: the interpreter, our modules, the host's set-up and the way to the portal. The last line
is the first page that is fetched through the tunnel: from the SYN to its first byte, with flow,
path and handshake on the way. The table holds medians, and the worst round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.processes import resident_bytes
from firezone.lab import Lab, Program
from firezone.lab.topology import RESOURCE_ALLOWED

FIRST_PAGE = "client, first page"


@dataclass(frozen=True, slots=True)
class Start:
    """One start of one program."""

    ready_ms: float
    resident_bytes: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    results: dict[str, list[Start]] = {}
    for _ in range(options.rounds):
        with Lab() as lab:
            measure(lab, results)
    show(results)
    return 0


def measure(lab: Lab, results: dict[str, list[Start]]) -> None:
    """Start everything once."""
    lab.start_resource()
    starts: dict[str, Callable[[], Program]] = {
        "portal": lab.start_portal,
        "relay": lab.start_relay,
        "gateway": lab.start_gateway,
        "client": lab.start_client,
    }
    for name, start in starts.items():
        begin = time.monotonic()
        program = start()
        program.wait_for_event("ready")
        took = (time.monotonic() - begin) * 1000
        results.setdefault(name, []).append(Start(took, resident_bytes(program.pid)))
    fetched = lab.fetch(f"http://{RESOURCE_ALLOWED.v4}/")
    if fetched.status != 200:
        raise SystemExit(f"no tunnel: {fetched.error}\n{program.tail()}")
    first = Start(fetched.first_byte_ms, resident_bytes(program.pid))
    results.setdefault(FIRST_PAGE, []).append(first)


def show(results: dict[str, list[Start]]) -> None:
    print(f"\n{'program':20}{'ready after':>12}{'worst':>10}{'resident':>12}")
    for name, starts in results.items():
        times = [start.ready_ms for start in starts]
        resident = statistics.median(start.resident_bytes for start in starts)
        median, worst = f"{statistics.median(times):.0f} ms", f"{max(times):.0f} ms"
        print(f"{name:20}{median:>12}{worst:>10}{resident / 1e6:>9.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
