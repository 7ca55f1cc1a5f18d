"""Figures with where and from what they were taken, as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from firezone._ext.aead import backend_name

ROOT = Path(__file__).parent.parent
Result = TypeVar("Result")


class Samples:
    """All results of one part, by case and by who was measured, in the order they came."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[str, list[Any]]] = {}

    def add(self, case: str, name: str, result: object) -> None:
        self._samples.setdefault(case, {}).setdefault(name, []).append(result)

    def get(self, case: str, name: str, kind: type[Result]) -> list[Result]:
        """Empty if that was not measured."""
        found = self._samples.get(case, {}).get(name, [])
        assert all(isinstance(result, kind) for result in found)
        return found

    def of(self, kind: type[Result]) -> Iterator[tuple[str, str, list[Result]]]:
        for case, by_name in self._samples.items():
            for name in by_name:
                yield case, name, self.get(case, name, kind)

    def plain(self) -> dict[str, Any]:
        return {
            case: {name: [_plain(result) for result in rounds] for name, rounds in by_name.items()}
            for case, by_name in self._samples.items()
        }


def parser_of_parts(doc: str, *, seconds: float, measured: str) -> argparse.ArgumentParser:
    """For a benchmark that has several parts and measures several programs against each other."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="only these")
    parser.add_argument(
        "--seconds", type=type(seconds), default=seconds, help="how long each figure is taken"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help=f"names of {measured}, joined by commas")
    parser.add_argument("--json", type=Path, help="write every sample there")
    return parser


def parse_parts(parser: argparse.ArgumentParser, parts: Collection[str]) -> argparse.Namespace:
    """Its options; ends the program for a part that is none of these."""
    options = parser.parse_args()
    unknown = set(options.parts) - set(parts)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    return options


def write(path: Path, settings: dict[str, Any], results: dict[str, Samples]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {part: samples.plain() for part, samples in results.items()}
    page = {"machine": machine(), "source": source(), "settings": settings, "results": parts}
    path.write_text(json.dumps(page, indent=1, ensure_ascii=False) + "\n")


def machine() -> dict[str, Any]:
    """What a reader needs to judge the figures. The load average is that of the end."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "virtual": "hypervisor" in _cpuinfo("flags").split(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cipher": backend_name(),
        "load_average": round(os.getloadavg()[1], 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def source() -> dict[str, Any]:
    """The commit, and whether anything was changed since."""
    return {"commit": _git("rev-parse", "HEAD"), "changed": bool(_git("status", "--porcelain"))}


def _plain(result: Any) -> dict[str, Any]:
    """Its fields and what it derives from them."""
    derived = {
        name: getattr(result, name)
        for name, value in vars(type(result)).items()
        if isinstance(value, property)
    }
    return {**asdict(result), **derived}


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.machine()


def _cpuinfo(wanted: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == wanted:
            return value.strip()
    return ""


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    return done.stdout.strip()
