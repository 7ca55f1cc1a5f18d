"""A flame graph of stacks that perf has sampled.

    perf script -i perf.data | python -m benchmarks.flamegraph > flame.svg

The width of a box is its share of the samples, what called it is below. Colours: red our kernels,
orange the system's kernel, green Python, grey all else. The tooltip names the hottest lines.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape

from benchmarks.symbols import FRAME, OURS, resolve

WIDTH, HEIGHT, LETTER, THINNEST = 1400, 17, 6.6, 0.4
COLOURS = {"ours": "#e4572e", "system": "#f3a712", "python": "#76b041", "other": "#b8b8b8"}
Stack = tuple["Frame", ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """A function on a stack; `line` is empty where it is not known."""

    name: str
    kind: str
    line: str = ""


@dataclass(slots=True)
class Box:
    """A function called in one place of the tree, with how many samples."""

    kind: str
    samples: int = 0
    lines: Counter[str] = field(default_factory=Counter)
    inner: dict[str, Box] = field(default_factory=dict)


def stacks(lines: Iterable[str]) -> Iterator[Stack]:
    """The stacks in the output of `perf script`, outermost first, under the program's name."""
    frames: list[Frame] = []
    program = ""
    for line in (*lines, ""):
        if not line.strip():
            if frames:
                yield (Frame(program, "other"), *reversed(frames))
            frames = []
        elif not line[0].isspace():
            program = line.split()[0]
        elif (match := FRAME.match(line)) and match["name"] != "[unknown]":
            frames.append(_frame(match["name"], match["object"]))


def tree(sampled: Iterable[Stack]) -> Box:
    root = Box("other")
    for stack in sampled:
        root.samples += 1
        box = root
        for frame in stack:
            box = box.inner.setdefault(frame.name, Box(frame.kind))
            box.samples += 1
            box.lines[frame.line] += 1
    return root


def svg(root: Box) -> str:
    depth = _depth(root)
    height = HEIGHT * depth + 30
    boxes = "\n".join(_draw(root, 0.0, height - 10, WIDTH / max(root.samples, 1), root.samples))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="monospace" font-size="11">\n'
        "<style>g:hover>rect{stroke:#000}</style>\n"
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n'
        f'<text x="6" y="14">{root.samples} samples</text>\n{boxes}\n</svg>\n'
    )


def _frame(name: str, from_object: str) -> Frame:
    function, _, place = name.partition("@")
    file, _, line = place.partition(":")
    if name.startswith("py::"):
        return Frame(name.removeprefix("py::"), "python")
    kind = "system" if "kernel" in from_object or from_object.endswith(".ko") else "other"
    return Frame(f"{function} {file}".strip(), "ours" if OURS in from_object else kind, line)


def _draw(box: Box, x: float, y: float, scale: float, total: int) -> Iterator[str]:
    for name, inner in sorted(box.inner.items()):
        width = inner.samples * scale
        if width >= THINNEST:
            yield _rectangle(name, inner, x, y - HEIGHT, width, total)
            yield from _draw(inner, x, y - HEIGHT, scale, total)
        x += width


def _rectangle(name: str, box: Box, x: float, y: float, width: float, total: int) -> str:
    room = int(width / LETTER) - 1
    text = name if len(name) <= room else name[: room - 1] + "…" if room > 3 else ""
    lines = [f"line {line}: {n / total:.1%}" for line, n in box.lines.most_common(8) if line]
    title = "\n".join([f"{name}: {box.samples / total:.1%}", *lines])
    return (
        f'<g><title>{escape(title)}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" '
        f'height="{HEIGHT - 1}" rx="1.5" fill="{COLOURS[box.kind]}"/>'
        f'<text x="{x + 3:.1f}" y="{y + 12}" pointer-events="none">{escape(text)}</text></g>'
    )


def _depth(box: Box) -> int:
    return 1 + max(map(_depth, box.inner.values()), default=0)


if __name__ == "__main__":
    print(svg(tree(stacks(resolve(sys.stdin.read().splitlines())))))
