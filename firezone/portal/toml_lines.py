"""Finds the lines of a TOML file that its keys stand on, for messages about what they say.

`tomllib` tells no positions of what it parsed. This scan reads table headers and the keys that
open a line, which is how people write such files; for a key it misses, the line of the nearest
enclosing table is named.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(
    r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*="
)
_PART = re.compile(r"\"([^\"]*)\"|'([^']*)'|([\w-]+)")


class Lines:
    """Where the keys of one TOML text stand."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        self._scan(text)

    def of(self, path: Path) -> int:
        """The line of a key, or of the closest table around it; 1 if there is none."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def _scan(self, text: str) -> None:
        table: Path = ()
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.match(line):
                table = self._table(_parts(header[2]), header[1] == "[[")
                self._lines.setdefault(table, number)
            elif key := _KEY.match(line):
                self._lines.setdefault(table + _parts(key[1]), number)

    def _table(self, names: Path, is_array: bool) -> Path:
        """The full path of a header: `[[a.b]]` is the next element, `a` its latest one so far."""
        path: Path = ()
        for name in names[:-1]:
            path = self._latest((*path, name))
        path = (*path, names[-1])
        if is_array:
            self._counts[path] = self._counts.get(path, -1) + 1
        return self._latest(path)

    def _latest(self, path: Path) -> Path:
        return (*path, self._counts[path]) if path in self._counts else path


def _parts(dotted: str) -> Path:
    return tuple(a or b or c for a, b, c in _PART.findall(dotted)) or (dotted,)
