"""What a handshake leaves in memory of its ephemeral private keys: nothing.

A process makes handshakes and tells its keys in disguise; another one searches its memory for them.
Nothing that it frees is used again, so that every copy which nobody has wiped is there to be found.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from firezone._ext import x25519

MASK = 0x5A

PROGRAM = f"""
import os, sys
from firezone._ext import x25519
from firezone.noise import StaticKeypair, handshake

x25519.use_backend(sys.argv[1])
told = []

def entropy(size):
    drawn = os.urandom(size)
    told.append(bytes(byte ^ {MASK} for byte in drawn).hex())
    return drawn

def pause(what):
    print(what, *told, flush=True)
    told.clear()
    sys.stdin.readline()

us, them = StaticKeypair.generate(entropy), StaticKeypair.generate(entropy)
pause("statics")
secret = us.dh(them.public)
sent, initiation = handshake.create_initiation(us, them.public, secret, 1, bytes(12), entropy)
pause("initiator")
opened = handshake.open_decoded(them, initiation)
received = handshake.consume_initiation(opened, us.public, secret)
response, keys = handshake.create_response(received, us.public, bytes(32), 2, entropy)
pause("responder")
handshake.consume_response(sent, us, bytes(32), response)
sent.wipe()
pause("wiped")
us.wipe()
del them
pause("gone")
"""


class Watched:
    """The process, and the private keys that it has told of, by when."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self._running = running
        self.keys: dict[str, list[bytes]] = {}

    def go_on(self) -> None:
        """To the next pause."""
        assert self._running.stdin is not None and self._running.stdout is not None
        if self.keys:
            self._running.stdin.write("\n")
            self._running.stdin.flush()
        when, *told = self._running.stdout.readline().split()
        self.keys[when] = [bytes(b ^ MASK for b in bytes.fromhex(each)) for each in told]

    def copies(self, key: bytes) -> int:
        """In memory that can be written. The ends of a key may be clamped in a copy."""
        found = 0
        pid = self._running.pid
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                span, rights, *_ = line.split()
                if rights.startswith("rw") and "[vvar" not in line:
                    start, end = (int(each, 16) for each in span.split("-"))
                    memory.seek(start)
                    found += memory.read(end - start).count(key[1:31])
        return found


@pytest.fixture(scope="module")
def without_free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that keeps what is freed."""
    built = tmp_path_factory.mktemp("library") / "keep.so"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(built)]
    subprocess.run(command, input="void free(void *memory) {}", text=True, check=True)
    return built


@contextmanager
def watched(backend: str, without_free: Path) -> Iterator[Watched]:
    command = [sys.executable, "-c", PROGRAM, backend]
    environment = {**os.environ, "PYTHONMALLOC": "malloc", "LD_PRELOAD": str(without_free)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as running:
        yield Watched(running)
        running.kill()


@pytest.mark.parametrize("backend", x25519.backends())
def test_one_copy_while_it_is_wanted_and_none_afterwards(backend: str, without_free: Path) -> None:
    with watched(backend, without_free) as process:
        process.go_on()
        statics = process.keys["statics"]
        assert [process.copies(key) for key in statics] == [1, 1]
        process.go_on()
        (initiator,) = process.keys["initiator"]
        assert process.copies(initiator) == 1
        process.go_on()
        (responder,) = process.keys["responder"]
        assert process.copies(responder) == 0
        process.go_on()
        assert process.copies(initiator) == 0
        process.go_on()
        assert [process.copies(key) for key in statics] == [0, 0]
