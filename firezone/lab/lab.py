"""The lab: builds its network, runs programs in it, and leaves nothing behind."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from firezone.durations import SECOND
from firezone.lab import netns, registry, topology
from firezone.lab.errors import LabError
from firezone.lab.network import Network
from firezone.lab.programs import Line, Program, stop_all
from firezone.lab.topology import RESOURCE, Site

RESOURCE_PORTS = (80, 8080)


class Lab:
    """A private network in network namespaces, for as long as the `with` block lasts.

    Needs the rights of `userns.sufficient()`. `directory` receives configuration and logs, and is
    kept; without it they go to a temporary directory, which is removed.
    """

    def __init__(
        self,
        *,
        client: Site | None = None,
        gateway: Site | None = None,
        relays: int = 1,
        directory: Path | None = None,
    ) -> None:
        self.plan = topology.plan(client or Site(), gateway or Site(), relays)
        self.programs: dict[str, Program] = {}
        self._keep = directory is not None
        self._directory = directory
        self._claim: registry.Claim | None = None
        self._network: Network | None = None

    @property
    def name(self) -> str:
        """The prefix of all that is this lab's."""
        return self._built().prefix

    @property
    def directory(self) -> Path:
        """Where configuration and logs are."""
        if self._directory is None:
            raise LabError("the lab is not open")
        return self._directory

    def __enter__(self) -> Self:
        netns.require_tools()
        self._claim = registry.claim()
        try:
            if self._directory is None:
                self._directory = Path(tempfile.mkdtemp(prefix=f"{self._claim.name}-"))
            self._directory.mkdir(parents=True, exist_ok=True)
            self._network = Network(self._claim.name, self.plan)
            self._network.build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the programs and remove everything. Happens once, however often it is called."""
        stop_all(list(self.programs.values()))
        if self._network is not None:
            self._network.remove()
            self._network = None
        if self._directory is not None and not self._keep:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def namespace(self, host: str) -> str:
        """The network namespace of a host of `topology`."""
        return self._built().namespace(host)

    def exec(
        self, host: str, argv: Sequence[str], *, timeout: int = 30 * SECOND
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end. A failure is for the caller to look at."""
        return subprocess.run(
            [*netns.prefix_argv(self.namespace(host)), *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout / SECOND,
        )

    def start(
        self,
        name: str,
        host: str,
        argv: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> Program:
        """Start a program on a host; its log is `<directory>/<name>.log`."""
        program = Program(
            name,
            self.namespace(host),
            argv,
            log=self.directory / f"{name}.log",
            environment=environment or {},
        )
        self.programs[name] = program
        return program

    def start_resource(self) -> Program:
        """Start the web server of the resource segment, on all its addresses and ports."""
        ports = map(str, RESOURCE_PORTS)
        program = self.start(
            "resource", RESOURCE, [sys.executable, "-m", "firezone.lab.resource", *ports]
        )
        program.wait_for_event("ready")
        return program

    def wait_for_log(
        self, program: str, predicate: Callable[[Line], bool], timeout: int = 10 * SECOND
    ) -> Line:
        """The first log line of a program that fits. Raises WaitTimeout."""
        return self.programs[program].wait_for(predicate, timeout)

    def stop(self, program: str, number: signal.Signals = signal.SIGTERM) -> int:
        """End a program; returns its exit code."""
        return self.programs[program].stop(number)

    def block_direct(self, blocked: bool) -> None:
        """Drop, or let through again, all UDP between the client's and the gateway's site."""
        self._built().block_direct(blocked)

    def _built(self) -> Network:
        if self._network is None:
            raise LabError("the lab is not open")
        return self._network
