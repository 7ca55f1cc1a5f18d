"""A network of two ends, and every user-space WireGuard that is installed to join them.

    "a" 192.0.2.1 ─── veth ─── 192.0.2.2 "b"
        10.99.0.1 ── tunnel ── 10.99.0.2

Found by name: `firezone` and the same without a cipher, `null tunnel`; `wireguard-go` (Debian's);
`wireguard-go-new` where WIREGUARD_GO_NEW names a newer build; `boringtun-cli` on the path.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from firezone.lab import netns, registry
from firezone.noise import StaticKeypair

ROOT = Path(__file__).parent.parent
MTU = 1420
PORT = 51820
ENDS = ("a", "b")
UNDERLAY = {"a": "192.0.2.1", "b": "192.0.2.2"}
INSIDE = {"a": "10.99.0.1", "b": "10.99.0.2"}
PATIENCE_SECONDS = 60.0
NULL_TUNNEL = "null tunnel"


@dataclass(frozen=True, slots=True)
class Implementation:
    """How to run one. `kind` is firezone, wireguard-go or boringtun."""

    name: str
    kind: str
    command: tuple[str, ...]

    @property
    def version(self) -> str:
        if self.kind == "firezone":
            done = subprocess.run(
                [*self.command, "--version"], capture_output=True, text=True, cwd=ROOT
            )
            return ", ".join(done.stdout.split("\n")).strip(", ")
        done = subprocess.run([*self.command, "--version"], capture_output=True, text=True)
        return (done.stdout or done.stderr).split("\n")[0]


def firezone(*python_options: str) -> Implementation:
    return Implementation(
        "firezone", "firezone", (sys.executable, *python_options, "-m", "firezone")
    )


def with_workers(count: int) -> Implementation:
    """Ours with so many workers at both ends."""
    command = ("env", f"FIREZONE_WORKERS={count}", *firezone().command)
    name = "firezone" if count == 1 else f"firezone, {count} workers"
    return Implementation(name, "firezone", command)


def installed(only: str | None = None) -> list[Implementation]:
    """All of them, or those whose names `only` joins by commas."""
    null = (sys.executable, "-m", "benchmarks.null_tunnel")
    found = [firezone(), Implementation(NULL_TUNNEL, "firezone", null)]
    newer = os.environ.get("WIREGUARD_GO_NEW", "wireguard-go-new")
    boringtun = shutil.which("boringtun-cli")
    for name, kind, program in (
        ("wireguard-go", "wireguard-go", shutil.which("wireguard-go")),
        ("wireguard-go-new", "wireguard-go", shutil.which(newer)),
        ("boringtun-cli", "boringtun", boringtun),
    ):
        if program:
            found.append(Implementation(name, kind, (program,)))
    return [i for i in found if not only or i.name in only.split(",")]


@dataclass(frozen=True, slots=True)
class Peer:
    """One of an end's peers besides the other end."""

    public: bytes
    allowed: str


def idle_peers(count: int) -> list[Peer]:
    """Peers that nobody will ever hear of."""
    return [Peer(os.urandom(32), address_of(number)) for number in range(count)]


def address_of(number: int) -> str:
    return f"10.{100 + (number >> 16)}.{number >> 8 & 255}.{number & 255}/32"


class Net:
    """Two namespaces and the keys of their ends."""

    def __init__(self, prefix: str, directory: Path) -> None:
        self.directory = directory
        self.namespaces = {end: f"{prefix}{end}" for end in ENDS}
        self._interfaces = {end: f"{prefix}w{end}"[:15] for end in ENDS}
        self._private = {end: os.urandom(32) for end in ENDS}
        self.keys = {end: StaticKeypair.from_private(self._private[end]) for end in ENDS}

    def build(self) -> None:
        a, b = (self.namespaces[end] for end in ENDS)
        netns.ip_batch([f"netns add {a}", f"netns add {b}"])
        netns.ip_batch([f"link add eth0 netns {a} type veth peer name eth0 netns {b}"])
        for end in ENDS:
            netns.ip_batch(
                [
                    "link set lo up",
                    f"address add {UNDERLAY[end]}/24 dev eth0",
                    "link set eth0 up",
                ],
                self.namespaces[end],
            )

    def remove(self) -> None:
        netns.remove(self.namespaces.values())

    def add_addresses(self, end: str, network: str) -> None:
        """Let an end own a whole network of IPv4 addresses beside its own. May be repeated."""
        other = ENDS[1 - ENDS.index(end)]
        netns.ip_batch([f"route replace local {network} dev lo"], self.namespaces[end])
        route = f"route replace {network} via {UNDERLAY[end]}"
        netns.ip_batch([route], self.namespaces[other])

    @contextmanager
    def tunnel(
        self, implementation: Implementation, peers: Sequence[Peer] = ()
    ) -> Iterator[list[int]]:
        """Run it at both ends, each with these peers, too; gives the two process ids."""
        with (
            self.running(implementation, "a", peers) as a,
            self.running(implementation, "b", peers) as b,
        ):
            self._wait_for_traffic()
            yield [a, b]

    @contextmanager
    def running(
        self, implementation: Implementation, end: str, peers: Sequence[Peer] = (), cpus: str = ""
    ) -> Iterator[int]:
        """Run it at one end; `cpus` is a list for taskset(1). Gives the process id."""
        process = self._start(implementation, end, peers, cpus)
        try:
            self._configure(implementation, end, peers)
            yield process.pid
        finally:
            process.terminate()
            process.wait(20)

    def inside(self, end: str) -> list[str]:
        """What to put before a command to run it at that end."""
        return netns.prefix_argv(self.namespaces[end])

    # Starting.

    def _start(
        self, implementation: Implementation, end: str, peers: Sequence[Peer], cpus: str
    ) -> subprocess.Popen[bytes]:
        name = self._interfaces[end]
        match implementation.kind:
            case "firezone":
                path = self.directory / f"{name}.conf"
                path.write_text(self._file(end, peers, quick=True))
                path.chmod(0o600)
                command = [*implementation.command, "wg", "up", str(path)]
            case "wireguard-go":
                command = [*implementation.command, "-f", name]
            case _:
                # Its default is four threads, which two cores only make worse.
                command = [*implementation.command, "-f", "--disable-drop-privileges", name]
        pinned = ["taskset", "-c", cpus] if cpus else []
        with (self.directory / f"{end}.log").open("w") as log:
            return subprocess.Popen(
                [*self.inside(end), *pinned, *command],
                env=os.environ | {"WG_PROCESS_FOREGROUND": "1", "WG_THREADS": "2"},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def _configure(self, implementation: Implementation, end: str, peers: Sequence[Peer]) -> None:
        name, namespace = self._interfaces[end], self.namespaces[end]
        self._wait_for_interface(end)
        if implementation.kind == "firezone":
            return
        path = self.directory / f"{name}.setconf"
        path.write_text(self._file(end, peers, quick=False))
        netns.run(namespace, ["wg", "setconf", name, str(path)])
        netns.ip_batch(
            [
                f"link set {name} mtu {MTU} up",
                f"address add {INSIDE[end]}/24 dev {name}",
            ],
            namespace,
        )

    def _file(self, end: str, peers: Sequence[Peer], *, quick: bool) -> str:
        other = ENDS[1 - ENDS.index(end)]
        interface = [f"PrivateKey = {_text(self._private[end])}", f"ListenPort = {PORT}"]
        if quick:
            interface += [f"Address = {INSIDE[end]}/24", f"MTU = {MTU}", "Table = off"]
        lines = ["[Interface]", *interface]
        lines += _section(Peer(self.keys[other].public, f"{INSIDE[other]}/32"))
        lines += [f"Endpoint = {UNDERLAY[other]}:{PORT}"]
        for peer in peers:
            lines += _section(peer)
        return "\n".join(lines) + "\n"

    def _wait_for_interface(self, end: str) -> None:
        command = [*self.inside(end), "wg", "show", self._interfaces[end], "public-key"]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if subprocess.run(command, capture_output=True).returncode == 0:
                return
            time.sleep(0.05)
        self._give_up(f"the interface {self._interfaces[end]} does not come up")

    def _wait_for_traffic(self) -> None:
        probe = "import socket,sys; socket.create_connection((sys.argv[1], 9), 0.3)"
        command = [*self.inside("a"), sys.executable, "-c", probe, INSIDE["b"]]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            done = subprocess.run(command, capture_output=True, text=True)
            if "refused" in done.stderr:  # an answer from the other end
                return
            time.sleep(0.1)
        self._give_up("no traffic through the tunnel")

    def _give_up(self, problem: str) -> None:
        logs = [(self.directory / f"{end}.log") for end in ENDS]
        shown = "\n".join(log.read_text()[-2000:] for log in logs if log.exists())
        raise SystemExit(f"{problem}\n{shown}")


@contextmanager
def network() -> Iterator[Net]:
    netns.require_tools()
    claim = registry.claim()
    try:
        with tempfile.TemporaryDirectory() as directory:
            net = Net(claim.name, Path(directory))
            try:
                net.build()
                yield net
            finally:
                net.remove()
    finally:
        claim.release()


def _section(peer: Peer) -> list[str]:
    return ["[Peer]", f"PublicKey = {_text(peer.public)}", f"AllowedIPs = {peer.allowed}"]


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()
