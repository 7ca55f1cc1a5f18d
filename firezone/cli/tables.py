"""Tables, durations and sizes for people, in a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap

WIDTH = 100

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], indent: int = 2) -> Iterator[str]:
    """Columns as wide as their content, cut off at `WIDTH`; nothing without a row."""
    listed = list(rows)
    filled = [heads, *listed] if listed else []
    widths = [max((len(row[i]) for row in filled), default=0) for i in range(len(heads))]
    for row in filled:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield cut(f"{'':{indent}}{line}".rstrip())


def fields(pairs: Iterable[tuple[str, str]], indent: int = 2) -> Iterator[str]:
    """Names and values, one to a line."""
    listed = list(pairs)
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        yield cut(f"{'':{indent}}{name:<{width}}  {value}".rstrip())


def section(title: str, lines: Iterable[str]) -> Iterator[str]:
    """A heading and what stands below it; nothing if that is empty."""
    listed = list(lines)
    if listed:
        yield ""
        yield title
        yield from listed


def bullets(texts: Iterable[str]) -> Iterator[str]:
    """Sentences, each with a dash, over as many lines as they take."""
    for text in texts:
        yield from wrap(text, WIDTH, initial_indent="  - ", subsequent_indent="    ")


def cut(line: str, width: int = WIDTH) -> str:
    return line if len(line) <= width else f"{line[: width - 3]}..."


def duration(seconds: float | None) -> str:
    """As `350 ms`, `12 s`, `3 min 5 s`; `never` for None."""
    if seconds is None:
        return "never"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    whole = int(seconds)
    for size, unit in _UNITS:
        if whole >= size:
            rest = duration(whole % size) if whole % size and unit != "d" else ""
            return f"{whole // size} {unit} {rest}".rstrip()
    return f"{whole} s"


def ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{duration(seconds)} ago"


def size(count: int) -> str:
    """Bytes, as `1.2 MB`."""
    number, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def short_ids(ids: Iterable[str], least: int = 8) -> dict[str, str]:
    """The shortest beginnings that still tell these ids apart."""
    known = list(dict.fromkeys(ids))
    length = least
    while len({i[:length] for i in known}) < len(known):
        length += 1
    return {i: i[:length] for i in known}
