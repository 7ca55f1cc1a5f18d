"""Imports point down only, and only the shell talks to the system."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "firezone"

LEVELS = [
    {"_ext"},
    {"errors", "durations"},
    {"model", "aead", "nat64"},
    {"commands", "addresses"},
    {"stun"},
    {"noise", "ice", "turn", "xdp"},
    {"node", "dns", "policy", "nat", "phoenix", "dataplane"},
    {"roles"},
    {"client", "gateway", "relay", "wireguard", "explain", "netcheck"},
    {"shell", "sim"},
    {"lab", "portal", "wg"},
    {"cli"},
    {"__main__"},
]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}

SHELL = {"shell", "portal", "lab", "cli", "__main__"}
SYSTEM = {"asyncio", "os", "random", "secrets", "select", "socket", "ssl", "subprocess", "time"}
SYSTEM |= {"threading"}

KERNELS_OF_THE_SHELL = {f"firezone._ext.{name}" for name in ("relay", "tun", "udp")}

MODULES = sorted(ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@functools.cache
def imports(path: Path) -> frozenset[str]:
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{name.name}" for name in names if module == "firezone")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    part = part_of(path)
    for name in imports(path):
        first, _, rest = name.partition(".")
        if first == "firezone" and rest:
            below = rest.partition(".")[0]
            assert below == part or LEVEL[below] < LEVEL[part], f"{part} imports {name}"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if part_of(p) not in SHELL], ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_core_does_no_io(path):
    system = {name.partition(".")[0] for name in imports(path)} & SYSTEM
    assert not system


def test_only_the_shell_uses_the_kernels_of_sockets_and_tun():
    for path in MODULES:
        if part_of(path) != "shell":
            assert not KERNELS_OF_THE_SHELL & imports(path), path
