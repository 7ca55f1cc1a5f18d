"""The C of our X25519 under the tools for C: sanitizers, Valgrind, single steps, objdump.

Constant time, and how far it is shown: Valgrind runs all of the code but two vector instructions
that it does not know, which plain C stands for there, with scalars and points marked as undefined;
it would report any branch or address that depends on them. Of the code as it is used it is shown
that the path through it is the same whatever the numbers are, instruction by instruction, and that
it has no instruction that gathers, scatters or divides.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernels.native import HERE, SOURCES, check, compile_c, mnemonics

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="our ladder is for x86-64"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]
PORTABLE = "-DX25519_PORTABLE"
SHORT = "-DX25519_BITS=9"
"""Of the ladder, all of whose steps are one loop."""
Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    directory = tmp_path_factory.mktemp("native")

    def build(name: str, *flags: str) -> Path:
        program = directory / name
        sources = [str(HERE / "test_x25519_native.c"), str(SOURCES / "x25519.c")]
        if not program.exists() and not compile_c(program, "-pthread", *flags, *sources):
            pytest.skip(f"cannot be built here: {' '.join(flags)}")
        return program

    return build


def test_vector_under_sanitizers(build: Build) -> None:
    # Without optimization: what is inlined and unrolled takes long to compile with checks.
    flags = "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    check(build("sanitized", *flags), "vector")


def test_secrets_do_not_stay_on_the_stack(build: Build) -> None:
    check(build("optimised", "-O3"), "stack")


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs Valgrind")
def test_no_branch_or_address_depends_on_secrets(build: Build) -> None:
    program = build("marked", "-O1", PORTABLE, SHORT, "-DCONSTANT_TIME_CHECK")
    check("valgrind", "-q", "--error-exitcode=9", program, "secrets")


@pytest.mark.slow
def test_path_through_the_code_does_not_depend_on_secrets(build: Build) -> None:
    check(build("short", "-O3", SHORT), "trace")


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_no_instruction_with_secret_addresses_or_time(tmp_path: Path) -> None:
    used = mnemonics(tmp_path / "x25519.o", SOURCES / "x25519.c")
    assert "vpmadd52luq" in used
    named = "gather", "scatter", "compress", "expand", "div"
    assert not [mnemonic for mnemonic in used if any(word in mnemonic for word in named)]
