"""Typed access to a parsed TOML file that can name the line of everything it finds wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from firezone.errors import ConfigurationError
from firezone.portal.toml_lines import Lines, Path

_SYNTAX = re.compile(r"\(at line (\d+), column \d+\)$")


class Table:
    """One table. Each getter takes a key off; `finish` refuses what was left over."""

    def __init__(self, data: dict[str, Any], path: Path, file: str, lines: Lines) -> None:
        self.path = path
        self._data = dict(data)
        self._file = file
        self._lines = lines

    @classmethod
    def parse(cls, text: str, file: str) -> Table:
        """A whole file. Raises ConfigurationError on bad syntax."""
        try:
            return cls(tomllib.loads(text), (), file, Lines(text))
        except tomllib.TOMLDecodeError as error:
            found = _SYNTAX.search(str(error))
            line = found[1] if found else str(text.count("\n") + 1)
            problem = _SYNTAX.sub("", str(error)).strip()
            raise ConfigurationError(
                "syntax", f"{file}:{line}", problem, "correct the TOML there"
            ) from None
        except RecursionError:
            raise ConfigurationError(
                "syntax", file, "is nested too deeply", "write it as the starter file"
            ) from None

    def text(self, key: str) -> str:
        value = self._take(key, str, "text in quotes")
        if value is None:
            raise self.error((), f"{key!r} is missing", f"add {key} = …")
        return str(value)

    def optional_text(self, key: str) -> str | None:
        value = self._take(key, str, "text in quotes")
        return None if value is None else str(value)

    def flag(self, key: str) -> bool:
        return bool(self._take(key, bool, "true or false"))

    def texts(self, key: str) -> list[str]:
        values = self._take(key, list, "a list of texts") or []
        if not all(isinstance(value, str) for value in values):
            raise self.error((key,), "is no list of texts", 'write it as ["…", "…"]')
        return list(values)

    def moment(self, key: str) -> int | None:
        """Unix seconds; a date and time without an offset is taken for UTC."""
        value = self._take(key, datetime, "a date and time as 2027-01-31T00:00:00Z")
        if not isinstance(value, datetime):
            return None
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())

    def table(self, key: str) -> Table:
        """A sub-table; empty if there is none."""
        return self._child(self._take(key, dict, "a table") or {}, key)

    def named(self, key: str) -> Iterator[tuple[str, Table]]:
        """The tables `[key.name]`."""
        outer = self.table(key)
        for name in list(outer._data):
            yield name, outer.table(name)

    def array(self, key: str) -> Iterator[Table]:
        """The tables `[[key]]`."""
        values = self._take(key, list, f"a list of tables, [[{key}]]") or []
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                raise self.error((key,), "is no list of tables", f"write each as [[{key}]]")
            yield self._child(value, key, index)

    def finish(self) -> None:
        """A key that nobody asked for is a mistake: a misspelt rule would not be in force."""
        for key in self._data:
            raise self.error((key,), "is no setting here", "correct the spelling or remove it")

    def error(self, below: Path, problem: str, remedy: str) -> ConfigurationError:
        """What is wrong with the value at `below`, with file and line."""
        path = (*self.path, *below)
        name = ".".join(str(part) for part in path) or "portal file"
        return ConfigurationError(name, f"{self._file}:{self._lines.of(path)}", problem, remedy)

    def _child(self, data: dict[str, Any], *below: str | int) -> Table:
        return Table(data, (*self.path, *below), self._file, self._lines)

    def _take(self, key: str, kind: type, wanted: str) -> Any:
        value = self._data.pop(key, None)
        if value is not None and not isinstance(value, kind):
            raise self.error((key,), f"is not {wanted}", f"write {wanted}")
        return value
