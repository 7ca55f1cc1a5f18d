"""Builds the kernels: ext/<name>.pyx becomes firezone/_ext/<name>.so."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("FIREZONE_BUILD") == "debug"
# Installs the package alone, for a tree whose kernels are built in place.
SKIP = os.environ.get("FIREZONE_BUILD") == "none"

# Kernel -> C sources of ours that are linked into it.
KERNELS: dict[str, list[str]] = {
    "batch": [],
    "blake2s": ["ext/c/blake2s.c"],
    "x25519": ["ext/c/x25519.c"],
    "ip": [],
    "aead": ["ext/c/aead_cpu.c", "ext/c/aead_avx512.c", "ext/c/aead_avx2.c"],
    "session": [],
    "ring": [],
    "demux": ["ext/c/blake2s.c"],
    "flows": [],
    "paths": [],
    "udp": [],
    "segments": ["ext/c/checksum.c"],
    "coalesce": ["ext/c/checksum.c"],
    "tun": [],
    "lanes": [],
    "pipeline": [],
    "loops": [],
    "stun": ["ext/c/stun_mac.c", "ext/c/crc32.c", "ext/c/blake2s.c"],
    "relay": [
        "ext/c/relay_table.c",
        "ext/c/relay_answers.c",
        "ext/c/relay_forward.c",
        "ext/c/relay_one_port.c",
        "ext/c/relay_send.c",
        "ext/c/relay_indications.c",
        "ext/c/crc32.c",
        "ext/c/blake2s.c",
    ],
}

DIRECTIVES = {
    "language_level": "3",
    "freethreading_compatible": True,
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "cdivision": not DEBUG,
    "linetrace": DEBUG,
}


def stale() -> bool:
    """True if a face (.pxd, .h) is newer than a generated body: cythonize does not look there."""
    faces = [*Path("firezone/_ext").glob("*.pxd"), *Path("ext/c").glob("*.h"), Path("setup.py")]
    newest = max(face.stat().st_mtime for face in faces)
    return any(c.stat().st_mtime < newest for c in Path("ext").glob("*.c"))


def kernel(name: str, sources: list[str]) -> Extension:
    flags = ["-O0", "-g"] if DEBUG else ["-O3", "-g", "-fno-omit-frame-pointer"]
    return Extension(
        f"firezone._ext.{name}",
        [f"ext/{name}.pyx", *sources],
        include_dirs=["ext/c"],
        extra_compile_args=[*flags, "-Wall", "-Wno-unused-function"],
        define_macros=[("CYTHON_TRACE_NOGIL", "1")] if DEBUG else [],
    )


setup(
    ext_modules=cythonize(
        [kernel(name, sources) for name, sources in KERNELS.items() if not SKIP],
        include_path=["."],
        compiler_directives=DIRECTIVES,
        annotate=DEBUG,
        emit_linenums=True,
        force=stale(),
    )
)
