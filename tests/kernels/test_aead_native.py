"""The C of our cipher backends under the tools for C: sanitizers, Valgrind, single steps, objdump.

Constant time, and how far it is shown: Valgrind (which, as of 3.19, knows no AVX-512) runs AVX2 and
with it the driver and the scalar code, which all backends share, with keys and texts marked as
undefined, and would report any branch or address that depends on them. For the AVX-512 kernels it
is shown that the path through the code is the same whatever the secrets are, instruction by
instruction, and that they have no instruction that gathers, scatters or divides. That no other
address depends on a secret is by reading alone: vectors are loaded from the pointers of the items.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from firezone._ext import aead
from tests.kernels.native import HERE, SOURCES, check, compile_c, mnemonics
from tests.reference.aead import PRIME, tag

OURS = [name for name in aead.backends() if name != "libsodium"]

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="our backends are for x86-64"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]
Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    directory = tmp_path_factory.mktemp("native")

    def build(name: str, *flags: str) -> Path:
        program = directory / name
        if not program.exists():
            sources = [HERE / "test_aead_native.c", *sorted(SOURCES.glob("aead_*.c"))]
            if not compile_c(program, "-pthread", *flags, *map(str, sources)):
                pytest.skip(f"cannot be built here: {' '.join(flags)}")
        return program

    return build


@pytest.mark.parametrize("backend", OURS)
def test_random_batches_between_guard_pages(build: Build, backend: str) -> None:
    check(build("optimised", "-O3"), backend, "random", "300")


@pytest.mark.parametrize("backend", OURS)
def test_random_batches_under_sanitizers(build: Build, backend: str) -> None:
    flags = "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    check(build("sanitized", *flags), backend, "random", "60")


@pytest.mark.parametrize("backend", OURS)
def test_secrets_do_not_stay_on_the_stack(build: Build, backend: str) -> None:
    check(build("optimised", "-O3"), backend, "stack")


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs Valgrind")
@pytest.mark.parametrize("backend", OURS)
def test_no_branch_or_address_depends_on_secrets(build: Build, backend: str) -> None:
    program = build("marked", "-O2", "-DAEAD_CONSTANT_TIME_CHECK")
    check("valgrind", "-q", "--error-exitcode=9", program, backend, "secrets")


@pytest.mark.slow
@pytest.mark.parametrize("backend", [name for name in OURS if name.startswith("avx512")])
def test_path_through_the_code_does_not_depend_on_secrets(build: Build, backend: str) -> None:
    check(build("optimised", "-O3"), backend, "trace")


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
@pytest.mark.parametrize("source", ["aead_avx512.c", "aead_avx2.c"])
def test_no_instruction_with_secret_addresses_or_time(tmp_path: Path, source: str) -> None:
    used = mnemonics(tmp_path / "backend.o", SOURCES / source)
    assert len(used) > 50
    named = "gather", "scatter", "compress", "expand", "div"
    assert not [mnemonic for mnemonic in used if any(word in mnemonic for word in named)]


# Poly1305 by itself.

Tags = Callable[[bytes, bytes, int], list[bytes]]


@pytest.fixture(scope="module", params=["avx512", "avx2"])
def tags(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tags:
    """All the tags that a backend's ways to compute it find."""
    if request.param not in OURS:
        pytest.skip("not for this CPU")
    library = tmp_path_factory.mktemp("poly1305") / f"{request.param}.so"
    defines = f'-DBACKEND="aead_{request.param}.c"', f"-D{request.param.upper()}"
    source = str(HERE / "test_aead_poly1305.c")
    assert compile_c(library, "-O3", "-shared", "-fPIC", *defines, source)
    loaded = ctypes.CDLL(str(library))

    def tags(key: bytes, text: bytes, lane: int) -> list[bytes]:
        found = []
        for way in range(loaded.ways()):
            out = ctypes.create_string_buffer(16)
            loaded.tag(way, key, text, len(text), lane, out)
            found.append(out.raw)
        return found

    return tags


extremes = st.sampled_from([bytes(16), b"\xff" * 16, b"\x01" + bytes(15), b"\xfc" * 16])
halves = st.binary(min_size=16, max_size=16) | extremes
texts = st.builds(
    lambda filler, size, change: bytes(filler * size)[:size] if filler else change[:size],
    st.sampled_from([b"", b"\xff", b"\0", b"\xfb" + b"\xff" * 15]),
    st.integers(0, 1500),
    st.binary(max_size=1500),
)


@settings(deadline=None)
@given(halves, halves, texts, st.integers(0, 7))
@example(b"\x01" + bytes(15), b"\xff" * 16, b"\xff" * 1424, 0)
def test_poly1305_every_way(tags: Tags, r: bytes, s: bytes, text: bytes, lane: int) -> None:
    assert set(tags(r + s, text, lane)) == {tag(r + s, text)}


@pytest.mark.parametrize("over", range(-6, 6))
@pytest.mark.parametrize("lane", [0, 3, 7])
def test_poly1305_reduces_sums_around_the_prime(tags: Tags, over: int, lane: int) -> None:
    # With r = 1 the sum is that of the blocks: two of text and that of the lengths.
    first = PRIME + over - 3 * (1 << 128) - (32 << 64)
    text = min(first, (1 << 128) - 1).to_bytes(16, "little")
    text += max(0, first - (1 << 128) + 1).to_bytes(16, "little")
    key = b"\x01" + bytes(31)
    assert set(tags(key, text, lane)) == {tag(key, text)}
