"""Builds our C by itself, for programs that check it from outside of Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parent.parent / "ext" / "c"


def compile_c(output: Path, *arguments: str) -> bool:
    command = ["cc", "-g", f"-I{SOURCES}", "-o", str(output), *arguments]
    return subprocess.run(command, capture_output=True).returncode == 0


def check(*command: str | Path) -> None:
    """Run a program that ends with 0 if all is well, and with 3 if it cannot tell here."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("cannot be checked here")
    assert done.returncode == 0, done.stdout + done.stderr


def mnemonics(output: Path, source: Path) -> set[str]:
    """The instructions that a file compiles to, as objdump names them."""
    assert compile_c(output, "-O3", "-c", str(source))
    command = ["objdump", "-d", "--no-show-raw-insn", str(output)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split("\t")[1].split()[0] for line in lines if "\t" in line}
