"""Where the time of `firezone wg` goes under load: perf samples of both ends, as files to look at.

    python -m benchmarks.profile_tunnel [--load "TCP 1 stream"] [--seconds 5] [--output DIRECTORY]

    perf.data      for perf(1) itself
    perf.script    for https://profiler.firefox.com, which reads it in the browser
    flame.svg      a flame graph
    lines.txt      the hottest lines, .pyx and C

See docs/profiling.md.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks import throughput
from benchmarks.flamegraph import Frame, stacks, svg, tree
from benchmarks.symbols import resolve
from benchmarks.throughput import LOADS, Load
from benchmarks.tunnel_net import INSIDE, firezone, network

SHOWN_LINES = 40
FREQUENCY = 997
"""A prime, so as not to march in step with any timer."""
PERF_MAP = ("-X", "perf") if sys.version_info >= (3, 12) else ()
"""Makes Python tell perf the names of its functions."""


def main() -> int:
    loads = {load.name: load for load in LOADS}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--load", choices=loads, default=LOADS[0].name)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("build/profile"))
    options = parser.parse_args()
    if shutil.which("perf") is None:
        raise SystemExit("missing: perf; apt-get install linux-perf")
    options.output.mkdir(parents=True, exist_ok=True)
    record(loads[options.load], options.seconds, options.output / "perf.data")
    write(options.output)
    return 0


def record(load: Load, seconds: int, output: Path) -> None:
    """Sample both ends. There need be no hardware counters: the clock of the CPU's time will do."""
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-g", "-F", str(FREQUENCY)]
    with (
        network() as net,
        net.tunnel(firezone(*PERF_MAP)) as pids,
        throughput.background(net, load.iperf, INSIDE["b"]),
    ):
        ends = ["-o", str(output), "-p", ",".join(map(str, pids))]
        subprocess.run([*command, *ends, "--", "sleep", str(seconds)], check=True)
    script = subprocess.run(
        ["perf", "script", "-i", str(output)], capture_output=True, text=True, check=True
    )
    output.with_suffix(".script").write_text(script.stdout)
    for pid in pids:
        Path(f"/tmp/perf-{pid}.map").unlink(missing_ok=True)  # what Python calls its functions


def write(directory: Path) -> None:
    """Resolve the names in `perf.script`, and draw them."""
    script = directory / "perf.script"
    lines = list(resolve(script.read_text().splitlines()))
    script.write_text("\n".join(lines) + "\n")
    (directory / "flame.svg").write_text(svg(tree(stacks(lines))))
    hottest = list(_hottest(lines))
    (directory / "lines.txt").write_text("\n".join(hottest) + "\n")
    print(*hottest[:20], *sorted(map(str, directory.iterdir())), sep="\n")


def _hottest(lines: list[str]) -> Iterator[str]:
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    samples = 0
    for stack in stacks(lines):
        samples += 1
        own[_place(stack[-1])] += 1
        total.update({_place(frame) for frame in stack if frame.kind == "ours"})
    for title, counted in (
        ("by their own time", own),
        ("of ours, with all that they call", total),
    ):
        yield f"{title}:"
        for place, count in counted.most_common(SHOWN_LINES):
            yield f"{count / samples:6.1%}  {place}"


def _place(frame: Frame) -> str:
    return f"{frame.name}:{frame.line}" if frame.line else f"{frame.name} ({frame.kind})"


if __name__ == "__main__":
    sys.exit(main())
