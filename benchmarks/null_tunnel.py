"""`firezone` without a cipher: the cost of everything else. Protects nothing, for benchmarks only.

    python -m benchmarks.null_tunnel wg up FILE

The transport data of the tunnel is copied instead of sealed, and ends in 16 bytes that are always
the same; handshakes are real. The program itself knows nothing of it: no flag, no variable and no
module of the package leads here. This launcher gives other functions to the session kernel when
that is loaded and looks up the cipher's.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from pathlib import Path

from benchmarks.compiled import capsule, shared_library
from firezone._ext import aead


def install() -> None:
    """Take the cipher out of this process, for good. Must come before all that uses it."""
    if "firezone._ext.session" in sys.modules:
        raise RuntimeError("the session kernel already has its cipher")
    with tempfile.TemporaryDirectory() as directory:
        library = shared_library("null_aead.c", Path(directory))
    for what in ("seal", "open"):
        _replace(f"aead_{what}_batch", getattr(library, f"null_{what}"))


def main() -> None:
    install()
    from firezone.cli import main as firezone

    print("null tunnel: this process protects nothing", file=sys.stderr)
    sys.argv[0] = "null_tunnel"
    firezone()


def _replace(name: str, function: object) -> None:
    set_pointer = ctypes.pythonapi.PyCapsule_SetPointer
    set_pointer.argtypes = [ctypes.py_object, ctypes.c_void_p]
    found, _ = capsule(aead, name)
    set_pointer(found, ctypes.cast(function, ctypes.c_void_p))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
