"""How soon the first byte comes over a connection that nobody has asked for before.

    python -m benchmarks.set_up [--rounds 20] [--json FILE]

The lab has no latency of its own, so this is what our programs take. The client's process is
started anew for each round, so that it has no gateway, no path and no session. The time is that of
its first TCP connection to the resource, from opening the socket to the first byte of the answer:
authorization by the portal, candidates, handshake, and the request itself. Printed are the median
and what 90 % of the rounds do not exceed, over a direct path and over the relay alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.latency import percentile
from benchmarks.report import Samples, write
from firezone.lab import Lab
from firezone.lab.topology import RESOURCE_ALLOWED

URL = f"http://{RESOURCE_ALLOWED.v4}/"
PATHS = {"direct": False, "relayed": True}
"""Whether the direct path is blocked."""
SETTLING = 1.0
"""Seconds between a client that is ready and its first packet: its relay has an allocation then."""


@dataclass(frozen=True, slots=True)
class SetUp:
    """One new connection."""

    first_byte_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    samples = Samples()
    for name, is_blocked in PATHS.items():
        measure(name, is_blocked, options.rounds, samples)
    show(samples)
    if options.json is not None:
        write(options.json, {"rounds": options.rounds}, {"set-up": samples})
    return 0


def measure(name: str, is_blocked: bool, rounds: int, samples: Samples) -> None:
    with Lab() as lab:
        lab.start_resource()
        lab.start_portal()
        lab.start_relay()
        lab.start_gateway().wait_for_event("ready")
        lab.block_direct(is_blocked)
        for _ in range(rounds):
            samples.add(name, "firezone", connect(lab))


def connect(lab: Lab) -> SetUp:
    client = lab.start_client()
    client.wait_for_event("ready")
    time.sleep(SETTLING)
    fetched = lab.fetch(URL)
    if fetched.status != 200:
        raise SystemExit(f"no tunnel: {fetched.error}\n{client.tail()}")
    lab.stop("client")
    return SetUp(fetched.first_byte_ms)


def show(samples: Samples) -> None:
    print(f"\n{'path':10}{'p50':>12}{'p90':>12}{'worst':>12}")
    for name, _, rounds in samples.of(SetUp):
        taken = sorted(each.first_byte_ms for each in rounds)
        row = (percentile(taken, 0.5), percentile(taken, 0.9), taken[-1])
        print(f"{name:10}" + "".join(f"{ms:>9.1f} ms" for ms in row))


if __name__ == "__main__":
    sys.exit(main())
