"""Prints the requirements that pyproject.toml names, one a line, for `pip install -r`.

Usage: requirements.py GROUP... where a group is `run` (the program's own), `build` or one of
[dependency-groups]. Older pips do not know groups, so this reads them.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], group: str) -> Iterator[str]:
    if group == "run":
        yield from project["project"]["dependencies"]
    elif group == "build":
        yield from project["build-system"]["requires"]
    else:
        for entry in project["dependency-groups"][group]:
            if isinstance(entry, str):
                yield entry
            else:
                yield from requirements(project, entry["include-group"])


if __name__ == "__main__":
    pyproject = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    for wanted in sys.argv[1:]:
        for requirement in requirements(pyproject, wanted):
            print(requirement)
