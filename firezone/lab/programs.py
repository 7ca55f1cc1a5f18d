"""Runs programs in the lab's namespaces and follows their logs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from typing import Any

import msgspec

from firezone.durations import MILLISECOND, SECOND
from firezone.lab import netns
from firezone.lab.errors import WaitTimeout

Line = dict[str, Any]
"""One log line: what a JSON line says, or `{"message": text}` for any other."""


class Program:
    """A program that runs in a namespace. What it writes goes to the file `log`; it sees the files
    of the directory `etc` in the place of those in /etc."""

    def __init__(
        self,
        name: str,
        namespace: str,
        argv: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        etc: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._lines: list[Line] = []
        with log.open("ab") as output:
            self._read_to = output.tell()  # past what an earlier run of this program wrote
            self._process = subprocess.Popen(
                [*netns.prefix_argv(namespace, etc), *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_base_environment() | dict(environment),
                start_new_session=True,  # Ctrl-C is for us: we end the programs in good order
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.poll()

    def lines(self) -> list[Line]:
        """All complete log lines so far."""
        with self.log.open("rb") as file:
            file.seek(self._read_to)
            new = file.read()
        complete = new[: new.rfind(b"\n") + 1]
        self._read_to += len(complete)
        self._lines += map(_decode, complete.splitlines())
        return self._lines

    def tail(self, count: int = 15) -> str:
        """The end of the log, for people."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def wait_for(
        self, predicate: Callable[[Line], bool], timeout: int = 10 * SECOND, skip: int = 0
    ) -> Line:
        """The first log line after the first `skip` that fits.

        Raises WaitTimeout after `timeout`, or as soon as the program has ended without one.
        """
        deadline = time.monotonic_ns() + timeout
        while True:
            ended = self.exit_code is not None
            for line in self.lines()[skip:]:
                if predicate(line):
                    return line
            if ended:
                raise WaitTimeout(f"{self.name} ended with code {self.exit_code}")
            if time.monotonic_ns() > deadline:
                raise WaitTimeout(f"{self.name} took longer than {timeout / SECOND:g} s")
            time.sleep(5 * MILLISECOND / SECOND)

    def wait_for_event(self, event: str, timeout: int = 10 * SECOND, skip: int = 0) -> Line:
        """The first log line with `"event": event`. Raises WaitTimeout like `wait_for`."""
        try:
            return self.wait_for(lambda line: line.get("event") == event, timeout, skip)
        except WaitTimeout as error:
            raise WaitTimeout(f"no {event!r}: {error}") from None

    def signal(self, number: Signals) -> None:
        self._process.send_signal(number)

    def stop(self, number: Signals = SIGTERM, timeout: int = 5 * SECOND) -> int:
        """Send a signal and wait for the end; kill it if it takes longer. Returns the exit code."""
        self._process.send_signal(number)
        try:
            return self._process.wait(timeout / SECOND)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def stop_all(programs: Sequence[Program], timeout: int = 3 * SECOND) -> None:
    """End all programs at once; kill those that take longer.

    By SIGINT, because a relay takes SIGTERM as the wish to serve its peers to the end.
    """
    running = [program for program in programs if program.exit_code is None]
    for program in running:
        program.signal(SIGINT)
    deadline = time.monotonic_ns() + timeout
    while any(p.exit_code is None for p in running) and time.monotonic_ns() < deadline:
        time.sleep(5 * MILLISECOND / SECOND)
    for program in running:
        if program.exit_code is None:
            program.stop(SIGKILL)


def _base_environment() -> dict[str, str]:
    """Ours without what would configure the programs behind the lab's back."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FIREZONE_", "RUST_LOG"))}
    source = str(Path(__file__).resolve().parents[2])
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, (source, kept.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
    }


def _decode(raw: bytes) -> Line:
    try:
        line = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        line = None
    return line if isinstance(line, dict) else {"message": raw.decode(errors="replace")}
