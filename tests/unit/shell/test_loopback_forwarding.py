"""Kernel parameters that relays share: on while one of them lives, and given back by the last."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from firezone.shell import loopback_forwarding
from firezone.shell.loopback_forwarding import LoopbackForwarding, give_back

HOLD = """
import sys
from pathlib import Path
from firezone.shell import loopback_forwarding as it
it.PARAMETERS = tuple(map(Path, sys.argv[2:]))
held = it.LoopbackForwarding(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


class Kernel:
    """Two files in the place of the parameters; the second one is on already."""

    def __init__(self, directory: Path) -> None:
        self.run = directory / "run"
        self.paths = (directory / "four", directory / "six")
        self.set("0", "1")

    def set(self, *values: str) -> None:
        for path, value in zip(self.paths, values, strict=True):
            path.write_text(value + "\n")

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(path.read_text().strip() for path in self.paths)

    @contextmanager
    def other_process(self) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-c", HOLD, str(self.run), *map(str, self.paths)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            yield other
            other.kill()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel(tmp_path)
    monkeypatch.setattr(loopback_forwarding, "PARAMETERS", made.paths)
    return made


def test_on_until_closed(kernel: Kernel) -> None:
    with closing(LoopbackForwarding(kernel.run)):
        assert kernel.values == ("1", "1")
        assert give_back(kernel.run) == {}
        assert kernel.values == ("1", "1")
    assert kernel.values == ("0", "1")
    assert not list(kernel.run.iterdir())


def test_the_last_one_gives_it_back(kernel: Kernel) -> None:
    first, second = LoopbackForwarding(kernel.run), LoopbackForwarding(kernel.run)
    first.close()
    assert kernel.values == ("1", "1")
    third = LoopbackForwarding(kernel.run)
    second.close()
    assert kernel.values == ("1", "1")
    third.close()
    assert kernel.values == ("0", "1")
    assert not list(kernel.run.iterdir())


def test_nothing_to_give_back_where_nothing_was_changed(kernel: Kernel) -> None:
    assert give_back(kernel.run) == {}
    kernel.set("1", "1")
    with closing(LoopbackForwarding(kernel.run)):
        pass
    assert kernel.values == ("1", "1")
    assert not list(kernel.run.iterdir())


def test_a_crash_is_made_good_by_whoever_comes_next(kernel: Kernel) -> None:
    with kernel.other_process():
        assert give_back(kernel.run) == {}
        assert kernel.values == ("1", "1")
    assert kernel.values == ("1", "1")
    assert give_back(kernel.run) == {str(kernel.paths[0]): "0"}
    assert kernel.values == ("0", "1")
    assert give_back(kernel.run) == {}


def test_after_a_crash_the_next_one_knows_what_was_before(kernel: Kernel) -> None:
    with kernel.other_process():
        pass
    with closing(LoopbackForwarding(kernel.run)):
        assert kernel.values == ("1", "1")
    assert kernel.values == ("0", "1")


def test_another_process_that_lives_keeps_it_on(kernel: Kernel) -> None:
    with kernel.other_process() as other:
        LoopbackForwarding(kernel.run).close()
        assert kernel.values == ("1", "1")
        other.kill()
        other.wait()
        LoopbackForwarding(kernel.run).close()
        assert kernel.values == ("0", "1")


def test_a_parameter_that_cannot_be_written(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, and those before it are as they were."""
    kernel.set("0", "0")
    write = Path.write_text

    def refuse(path: Path, text: str) -> int:
        if path == kernel.paths[1]:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(OSError) as raised:
        LoopbackForwarding(kernel.run)
    assert raised.value.filename == str(kernel.paths[1])
    assert kernel.values == ("0", "0")


def test_what_cannot_be_given_back_stays_noted(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kernel.other_process():
        pass

    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", refuse)
        assert give_back(kernel.run) == {}
    assert give_back(kernel.run) == {str(kernel.paths[0]): "0"}


def test_without_a_directory_to_note_it_in(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.run.touch()  # as a file
    with closing(LoopbackForwarding(kernel.run)):
        assert kernel.values == ("1", "1")
    assert kernel.values == ("0", "1")
    assert "a crash would leave" in caplog.text
