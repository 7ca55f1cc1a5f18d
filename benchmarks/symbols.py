"""Names in the output of `perf script`: what Cython was written as, and what was inlined where.

perf knows the symbols that are left after optimization. For the kernels' addresses addr2line(1)
also knows the inlined functions and the lines, of the .pyx too, which the build has noted down. A
frame becomes `seal_slot@session.pyx:92`, followed by the functions that it was inlined into.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

FRAME = re.compile(
    r"^\s+(?P<address>[0-9a-f]+) (?P<name>.+?)(?P<offset>\+0x[0-9a-f]+)? \((?P<object>.*)\)$"
)
OURS = "/firezone/_ext/"
_MANGLED = re.compile(r"^__pyx_(?:pw?|pf|f|fuse_\d+)_(?P<rest>(?:pw_|f_)?\d.*)$")


def resolve(lines: Iterable[str]) -> Iterator[str]:
    """The same output of perf with one line a function, inlined ones included."""
    lines = list(lines)
    names = _look_up(_addresses(lines))
    for line, address in zip(lines, _addresses(lines), strict=True):
        match = FRAME.match(line)
        if match is None or address is None:
            yield line
            continue
        for name in names.get(address, [cython_name(match["name"])]):
            yield f"\t{match['address']:>16} {name} ({match['object']})"


def cython_name(symbol: str) -> str:
    """`__pyx_f_8firezone_4_ext_2ip_ip_parse` is `ip_parse`: the last of a row of names."""
    match = _MANGLED.match(symbol)
    if match is None:
        return symbol
    rest = match["rest"]
    while counted := re.match(r"(\d+)(.*)", rest):
        length, following = int(counted[1]), counted[2]
        if not following[length:].startswith("_"):
            break
        rest = following[length + 1 :]
    return rest.lstrip("0123456789") or symbol


_Address = tuple[str, int]


def _addresses(lines: Iterable[str]) -> Iterator[_Address | None]:
    """Where each line is in a kernel of ours, unless it was resolved before. What called is before
    the address to return to.
    """
    innermost = True
    for line in lines:
        match = FRAME.match(line)
        if match is not None and OURS in match["object"] and "@" not in match["name"]:
            yield match["object"], int(match["address"], 16) - (not innermost)
        else:
            yield None
        innermost = match is None


def _look_up(addresses: Iterable[_Address | None]) -> dict[_Address, list[str]]:
    by_object: defaultdict[str, set[int]] = defaultdict(set)
    for wanted in addresses:
        if wanted is not None:
            by_object[wanted[0]].add(wanted[1])
    return {
        (name, address): frames
        for name, found in by_object.items()
        for address, frames in _addr2line(name, sorted(found)).items()
    }


def _addr2line(name: str, addresses: list[int]) -> dict[int, list[str]]:
    done = subprocess.run(
        ["addr2line", "-afi", "-e", name],
        input="\n".join(map(hex, addresses)) + "\n",
        capture_output=True,
        text=True,
    )
    frames: dict[int, list[str]] = {}
    lines = iter(done.stdout.splitlines())
    current: list[str] = []
    for line in lines:
        if line.startswith("0x"):
            current = frames.setdefault(int(line, 16), [])
            continue
        place = re.sub(r" \(discriminator \d+\)$", "", next(lines, "??:0"))
        if not place.partition(":")[0].endswith("intrin.h"):
            current.append(f"{cython_name(line)}@{Path(place).name}")
    return frames
