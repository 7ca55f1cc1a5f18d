"""Builds the C that benchmarks are written in, where Python would be what they measure."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def shared_library(source: str, directory: Path) -> ctypes.CDLL:
    """`source` is a file of this directory; what it is built into goes to another one."""
    built = directory / f"{Path(source).stem}.so"
    _compile(source, built, "-shared", "-fPIC")
    return ctypes.CDLL(str(built))


def program(source: str, directory: Path) -> Path:
    built = directory / Path(source).stem
    _compile(source, built)
    return built


def capsule(module: Any, name: str) -> tuple[Any, bytes]:
    """A C function that a kernel declares for other kernels, and its signature."""
    found = module.__pyx_capi__[name]
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return found, get_name(found)


def _compile(source: str, built: Path, *options: str) -> None:
    command = ["cc", "-O2", *options, f"-I{ROOT}/ext/c", "-o", str(built)]
    subprocess.run([*command, str(ROOT / "benchmarks" / source), "-ldl"], check=True)
