"""The C of STUN's MACs under sanitizers, and what it leaves on the stack."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kernels.native import HERE, SOURCES, check, compile_c

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
SANITIZERS = "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"


def built(directory: Path, *flags: str) -> Path:
    program = directory / "check"
    sources = [HERE / "test_stun_native.c", SOURCES / "stun_mac.c", SOURCES / "crc32.c"]
    if not compile_c(program, "-pthread", *flags, *map(str, sources)):
        pytest.skip(f"cannot be built here: {' '.join(flags)}")
    return program


@pytest.mark.parametrize("what", ["vectors", "sizes"])
def test_macs_under_sanitizers(tmp_path: Path, what: str) -> None:
    check(built(tmp_path, *SANITIZERS), what)


def test_keys_do_not_stay_on_the_stack(tmp_path: Path) -> None:
    check(built(tmp_path, "-O3"), "stack")
