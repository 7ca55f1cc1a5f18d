"""The C of the relay's data path under sanitizers: what anybody may send, over real sockets."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kernels.native import HERE, SOURCES, check, compile_c

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
SANITIZERS = "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"


def test_indications_under_sanitizers(tmp_path: Path) -> None:
    program = tmp_path / "check"
    sources = [*sorted(SOURCES.glob("relay_*.c")), SOURCES / "crc32.c", SOURCES / "blake2s.c"]
    source = str(HERE / "test_relay_native.c")
    if not compile_c(program, *SANITIZERS, source, *map(str, sources)):
        pytest.skip("cannot be built here")
    check(program, "300")
