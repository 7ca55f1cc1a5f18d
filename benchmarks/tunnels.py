"""`firezone wg` beside every other user-space WireGuard that is installed, in one run.

    python -m benchmarks.tunnels [--seconds 3] [--rounds 5] [--only NAME,...] [--json FILE]

Two namespaces joined by a veth pair; both ends of the tunnel run the same implementation, and both
ends and iperf3 share this machine's cores. So the figure to read is Gbit/s per CPU second of the
tunnel processes. Implementations take turns within a round; the table holds medians of the rounds.

Found by name: `firezone`; `wireguard-go` (Debian's); `wireguard-go-new` where WIREGUARD_GO_NEW or
/opt/peers/wireguard names a newer build; `boringtun-cli` on the path or in /opt/peers/bin.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.end_to_end import cpu_seconds
from firezone.lab import netns, registry
from firezone.noise import StaticKeypair

MTU = 1420
PORT = 51820
ENDS = ("a", "b")
UNDERLAY = {"a": "192.0.2.1", "b": "192.0.2.2"}
INSIDE = {"a": "10.99.0.1", "b": "10.99.0.2"}


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load; `size` is a UDP payload."""

    name: str
    iperf: tuple[str, ...]
    udp: bool = False


LOADS = (
    Load("TCP 1 stream", ()),
    Load("TCP 8 streams", ("-P", "8")),
    Load("TCP 1 stream, reverse", ("-R",)),
    Load("UDP 64 B", ("-u", "-b", "0", "-l", "64"), udp=True),
    Load("UDP 1280 B", ("-u", "-b", "0", "-l", "1280"), udp=True),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What arrived, and the CPU time of both tunnel processes."""

    seconds: float
    gigabits: float
    packets: int
    lost_percent: float
    cpu: float

    @property
    def gigabits_per_cpu_second(self) -> float:
        return self.gigabits / self.cpu if self.cpu else 0.0

    @property
    def kilopackets_per_cpu_second(self) -> float:
        return self.packets / self.cpu / 1000 if self.cpu else 0.0


@dataclass(frozen=True, slots=True)
class Implementation:
    """How to run one. `kind` is firezone, wireguard-go or boringtun."""

    name: str
    kind: str
    program: str


def installed() -> list[Implementation]:
    found = [Implementation("firezone", "firezone", sys.executable)]
    newer = os.environ.get("WIREGUARD_GO_NEW", "/opt/peers/wireguard")
    boringtun = shutil.which("boringtun-cli", path=f"{os.environ['PATH']}:/opt/peers/bin")
    for name, kind, program in (
        ("wireguard-go", "wireguard-go", shutil.which("wireguard-go")),
        ("wireguard-go-new", "wireguard-go", shutil.which(newer)),
        ("boringtun-cli", "boringtun", boringtun),
    ):
        if program:
            found.append(Implementation(name, kind, program))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="names of implementations, joined by commas")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chosen = [i for i in installed() if not options.only or i.name in options.only.split(",")]
    results: dict[str, dict[str, list[Result]]] = {}
    with network() as net:
        for _ in range(options.rounds):
            for implementation in chosen:
                with net.tunnel(implementation) as pids:
                    for load in LOADS:
                        result = net.measure(load, pids, options.seconds)
                        results.setdefault(load.name, {}).setdefault(
                            implementation.name, []
                        ).append(result)
    show(results)
    if options.json:
        plain = {
            load: {name: [asdict(r) for r in rounds] for name, rounds in by_name.items()}
            for load, by_name in results.items()
        }
        options.json.write_text(json.dumps(plain, indent=1))
    return 0


class Net:
    """Two namespaces and the keys of their ends."""

    def __init__(self, prefix: str, directory: Path) -> None:
        self._directory = directory
        self._namespaces = {end: f"{prefix}{end}" for end in ENDS}
        self._interfaces = {end: f"{prefix}w{end}"[:15] for end in ENDS}
        private = {end: os.urandom(32) for end in ENDS}
        self._private = {end: base64.b64encode(key).decode() for end, key in private.items()}
        self._public = {
            end: base64.b64encode(StaticKeypair.from_private(key).public).decode()
            for end, key in private.items()
        }

    def build(self) -> None:
        a, b = (self._namespaces[end] for end in ENDS)
        netns.ip_batch([f"netns add {a}", f"netns add {b}"])
        netns.ip_batch([f"link add eth0 netns {a} type veth peer name eth0 netns {b}"])
        for end in ENDS:
            netns.ip_batch(
                [
                    "link set lo up",
                    f"address add {UNDERLAY[end]}/24 dev eth0",
                    "link set eth0 up",
                ],
                self._namespaces[end],
            )

    def remove(self) -> None:
        netns.remove(self._namespaces.values())

    @contextmanager
    def tunnel(self, implementation: Implementation) -> Iterator[list[int]]:
        """Run it at both ends; gives the two process ids."""
        processes = [self._start(implementation, end) for end in ENDS]
        try:
            for end in ENDS:
                self._configure(implementation, end)
            self._wait_for_handshake()
            yield [process.pid for process in processes]
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(10)

    def measure(self, load: Load, pids: list[int], seconds: int) -> Result:
        server = subprocess.Popen(
            [*self._inside("b"), "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL
        )
        time.sleep(0.2)
        before = sum(map(cpu_seconds, pids))
        command = ["iperf3", "-J", "-t", str(seconds), "-c", INSIDE["b"], *load.iperf]
        done = subprocess.run(
            [*self._inside("a"), *command], capture_output=True, text=True, timeout=seconds + 30
        )
        cpu = sum(map(cpu_seconds, pids)) - before
        server.wait(10)
        report = json.loads(done.stdout)
        if "error" in report:
            raise SystemExit(f"iperf3: {report['error']}")
        total = report["end"]["sum" if load.udp else "sum_received"]
        lost = total.get("lost_percent") or 0.0
        arrived = 1 - lost / 100
        return Result(
            seconds=total["seconds"],
            gigabits=total["bytes"] * 8 / 1e9 * arrived,
            packets=round((total.get("packets") or 0) * arrived),
            lost_percent=lost,
            cpu=cpu,
        )

    def _start(self, implementation: Implementation, end: str) -> subprocess.Popen[bytes]:
        name = self._interfaces[end]
        match implementation.kind:
            case "firezone":
                path = self._directory / f"{name}.conf"
                path.write_text(self._file(end, quick=True))
                path.chmod(0o600)
                command = [implementation.program, "-m", "firezone", "wg", "up", str(path)]
            case "wireguard-go":
                command = [implementation.program, "-f", name]
            case _:
                # Its default is four threads, which two cores only make worse.
                command = [implementation.program, "-f", "--disable-drop-privileges", name]
        environment = os.environ | {"WG_PROCESS_FOREGROUND": "1", "WG_THREADS": "2"}
        return subprocess.Popen(
            [*self._inside(end), *command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _configure(self, implementation: Implementation, end: str) -> None:
        name, namespace = self._interfaces[end], self._namespaces[end]
        self._wait_for_interface(end)
        if implementation.kind == "firezone":
            return
        path = self._directory / f"{name}.setconf"
        path.write_text(self._file(end, quick=False))
        netns.run(namespace, ["wg", "setconf", name, str(path)])
        netns.ip_batch(
            [
                f"link set {name} mtu {MTU} up",
                f"address add {INSIDE[end]}/24 dev {name}",
            ],
            namespace,
        )

    def _file(self, end: str, *, quick: bool) -> str:
        other = ENDS[1 - ENDS.index(end)]
        interface = [f"PrivateKey = {self._private[end]}", f"ListenPort = {PORT}"]
        if quick:
            interface += [f"Address = {INSIDE[end]}/24", f"MTU = {MTU}"]
        peer = [
            f"PublicKey = {self._public[other]}",
            f"AllowedIPs = {INSIDE[other]}/32",
            f"Endpoint = {UNDERLAY[other]}:{PORT}",
        ]
        return "\n".join(["[Interface]", *interface, "[Peer]", *peer]) + "\n"

    def _wait_for_interface(self, end: str) -> None:
        for _ in range(100):
            shown = subprocess.run(
                [*self._inside(end), "wg", "show", self._interfaces[end]], capture_output=True
            )
            if shown.returncode == 0:
                return
            time.sleep(0.05)
        raise SystemExit(f"the interface {self._interfaces[end]} does not come up")

    def _wait_for_handshake(self) -> None:
        probe = "import socket,sys; socket.create_connection((sys.argv[1], 9), 0.3)"
        for _ in range(50):
            done = subprocess.run(
                [*self._inside("a"), sys.executable, "-c", probe, INSIDE["b"]],
                capture_output=True,
                text=True,
            )
            if "refused" in done.stderr:  # an answer from the other end
                return
            time.sleep(0.1)
        raise SystemExit("no traffic through the tunnel")

    def _inside(self, end: str) -> list[str]:
        return netns.prefix_argv(self._namespaces[end])


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


def show(results: dict[str, dict[str, list[Result]]]) -> None:
    print(f"\n{'load':24}{'implementation':20}{'Gbit/s':>8}{'lost':>7}", end="")
    print(f"{'Gbit/CPU s':>12}{'kpkt/CPU s':>12}{'firezone is':>13}")
    for load, by_name in results.items():
        ours = per_cpu_second(load, by_name.get("firezone", []))
        for name, rounds in by_name.items():
            theirs = per_cpu_second(load, rounds)
            ratio = f"{ours / theirs:12.2f}x" if theirs and ours and name != "firezone" else ""
            print(
                f"{load:24}{name:20}"
                f"{median(r.gigabits / r.seconds for r in rounds):8.2f}"
                f"{median(r.lost_percent for r in rounds):6.1f}%"
                f"{median(r.gigabits_per_cpu_second for r in rounds):12.2f}"
                f"{median(r.kilopackets_per_cpu_second for r in rounds):12.0f}{ratio}"
            )


def per_cpu_second(load: str, rounds: list[Result]) -> float:
    if not rounds:
        return 0.0
    if load.startswith("UDP"):
        return median(r.kilopackets_per_cpu_second for r in rounds)
    return median(r.gigabits_per_cpu_second for r in rounds)


def median(values: Iterator[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    sys.exit(main())
