"""The relay with its tier in the kernel beside the same relay without.

    python -m benchmarks.relay_xdp [--rounds 6] [--seconds 0.2] [--json FILE] [PART…]

    frames     as the driver of a NIC gives them: no buffer of the kernel's is made of them yet.
               BPF_PROG_TEST_RUN makes them, and puts them into the relay's link
    sockets    of ordinary programs on the same machine, at the other end of a veth pair

Two namespaces, outside for load, clients and peers and inside for the relay, with a veth pair
wx ════ rx between them. What the program in the kernel does is charged to whoever sends. So the
figure is the CPU time of all that take part, load, relay and the softirq threads, for each
datagram that was forwarded, less what that load takes with nothing but the way to the relay:
*direct*. There frames are thrown away at rx, and datagrams received by a socket there.

All ways take turns within a round; the first round does not count. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.processes import cpu_seconds
from benchmarks.relay_load import (
    CHANNEL,
    SECRET,
    SOL_UDP,
    UDP_GRO,
    Flow,
    Lane,
    RelayProcess,
    placed,
)
from benchmarks.relay_net import Namespace, ip
from benchmarks.report import Samples, write
from firezone import stun
from firezone.explain.relay import RelayReport
from firezone.model import Endpoint
from firezone.shell.bpf import XdpLink, XdpMode, XdpProgram, bpf
from firezone.shell.status_socket import Request, ask
from firezone.stun import Method
from firezone.turn.channel_data import encode_channel_data
from firezone.xdp.assembler import (
    EXIT,
    R0,
    R1,
    R2,
    R3,
    R4,
    Instruction,
    Line,
    W,
    add,
    assemble,
    jump_if,
    label,
    load,
    move,
    store,
)
from firezone.xdp.program import LICENCE, Verdict

RELAY, HERE, NOBODY = "192.0.2.1", "192.0.2.2", "192.0.2.9"
PORT = 3478
SIZES = (120, 1200)
DIRECT, PLAIN, MERGING, KERNEL = "direct", "user space, one by one", "user space", "kernel"
WAYS = (DIRECT, PLAIN, MERGING, KERNEL)
DROP = 1
FRAMES_AT_ONCE = 1024
WINDOW = 256


class XdpNamespace(Namespace):
    """One that programs are attached in."""

    def attach(self, device: str, lines: list[Line]) -> XdpLink:
        def run() -> XdpLink:
            with contextlib.closing(XdpProgram(assemble(lines), LICENCE)) as program:
                return XdpLink(program, socket.if_nametoindex(device), XdpMode.NATIVE)

        return self.run(run)


class Relay(RelayProcess):
    """Ours, in a namespace."""

    name = "firezone"

    def __init__(self, inside: Namespace, outside: Namespace, way: str) -> None:
        self.address = (RELAY, PORT)
        self._outside = outside
        self._directory = tempfile.TemporaryDirectory()
        path = Path(self._directory.name)
        self._status = path / "status"
        (path / "secret").touch(0o600)
        (path / "secret").write_text(SECRET)
        settings = {
            "--public-ip4-addr": RELAY,
            "--health-check-addr": "",
            "--auth-secret-path": path / "secret",
            "--status-socket": self._status,
            "--user-quota": 0,
            "--user-peer-quota": 0,
        }
        options = [str(part) for pair in settings.items() for part in pair]
        options += {
            PLAIN: ["--no-gso", "--no-gro"],
            KERNEL: ["--xdp", "rx", "--xdp-mode", "driver"],
        }.get(way, [])
        command = [sys.executable, "-m", "firezone", "relay", *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = inside.run(lambda: subprocess.Popen(command, **quiet))  # type: ignore[call-overload]

    def make_socket(self) -> socket.socket:
        return self._outside.socket(HERE)

    def forwarded(self) -> tuple[int, int]:
        """Datagrams to peers, by user space and by the kernel."""
        report = ask(self._status, Request("status"), RelayReport)
        return report.to_peers.packets, 0 if report.xdp is None else report.xdp.to_peers.packets


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds of CPU time for each datagram that was forwarded; `in_kernel` is the part of
    them that the program there moved."""

    total: float
    loss: float
    in_kernel: float


class Bench:
    """Both namespaces, and the relay of one way."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.outside, self.inside = XdpNamespace(), XdpNamespace()
        self.relay: Relay | None = None
        self._opened = contextlib.ExitStack()
        self._opened.callback(self.outside.close)
        self._opened.callback(self.inside.close)
        link = f"link add wx type veth peer name rx netns {self.inside.id}"
        self.outside.run(ip, link, f"address add {HERE}/24 dev wx", "link set wx up")
        self.inside.run(ip, f"address add {RELAY}/24 dev rx", "link set rx up")
        self.macs = self.inside.run(_mac, "rx"), self.outside.run(_mac, "wx")
        hosts = (f"{host} lladdr {self.macs[1].hex(':')}" for host in (HERE, NOBODY))
        self.inside.run(ip, *(f"neighbour replace {host} dev rx nud permanent" for host in hosts))

    def start(self) -> None:
        if self.way != DIRECT:
            self.relay = Relay(self.inside, self.outside, self.way)
            self._opened.enter_context(self.relay)

    def attach(self, namespace: XdpNamespace, device: str, verdict: int) -> XdpLink:
        made = namespace.attach(device, [move(R0, verdict), EXIT])
        self._opened.callback(made.close)
        return made

    def spent(self) -> float:
        relay = [] if self.relay is None else [self.relay.pid]
        return sum(map(cpu_seconds, [os.getpid(), *_softirq_threads(), *relay]))

    def forwarded(self) -> tuple[int, int]:
        return (0, 0) if self.relay is None else self.relay.forwarded()

    def close(self) -> None:
        self._opened.close()


# Frames


class Stream(Flow):
    """A client whose datagrams are made by the kernel, to a peer that is not there."""

    def __init__(self, relay: Relay) -> None:
        self.relay, self.client, self.user = relay, relay.make_socket(), relay.user(0)
        assert self.allocate() is not None
        peer = (stun.XOR_PEER_ADDRESS, Endpoint.of(NOBODY, 9999))
        bound = self.ask(Method.CHANNEL_BIND, (stun.CHANNEL_NUMBER, CHANNEL), peer)
        assert bound.class_ is stun.Class.SUCCESS


def measure_frames(way: str, seconds: float) -> Iterator[tuple[str, Cost]]:
    with contextlib.closing(Bench(way)) as bench:
        port = 4000
        if way == DIRECT:
            bench.attach(bench.inside, "rx", DROP)
        else:
            if way == KERNEL:
                passing = bench.attach(bench.outside, "wx", Verdict.PASS)
            bench.start()
            assert bench.relay is not None
            port = Stream(bench.relay).client.getsockname()[1]
            if way == KERNEL:
                passing.close()
                bench.attach(bench.outside, "wx", DROP)
            else:
                bench.attach(bench.inside, "rx", Verdict.PASS)  # or nothing comes from a driver
        for size in SIZES:
            yield f"{size} B", _flood(bench, _frame(bench.macs, port, size), seconds)


def _flood(bench: Bench, frame: bytes, seconds: float) -> Cost:
    program = bench.outside.run(_sender, frame)
    with contextlib.closing(program):
        bench.outside.run(_send, program, frame)
        time.sleep(0.05)
        spent, before, sent = bench.spent(), bench.forwarded(), 0
        until = time.monotonic_ns() + int(seconds * 1e9)
        while time.monotonic_ns() < until:
            bench.outside.run(_send, program, frame)
            time.sleep(0.003)  # a window, and the relay's turn
            sent += FRAMES_AT_ONCE
        time.sleep(0.05)
        spent = bench.spent() - spent
        user, kernel = (b - a for a, b in zip(before, bench.forwarded(), strict=True))
    forwarded = sent if bench.relay is None else user + kernel
    return Cost(spent * 1e9 / forwarded, 1 - forwarded / sent, kernel / forwarded)


def _frame(macs: tuple[bytes, bytes], port: int, size: int) -> bytes:
    data = encode_channel_data(CHANNEL, bytes(size))
    addresses = socket.inet_aton(HERE) + socket.inet_aton(RELAY)
    udp = struct.pack(">HHH", port, PORT, 8 + len(data))
    checksum = _checksum(addresses + struct.pack(">HH", 17, 8 + len(data)) + udp + data)
    start = struct.pack(">BBHHHBB", 0x45, 0, 28 + len(data), 0, 0x4000, 64, 17)
    ip = start + struct.pack(">H", _checksum(start + addresses)) + addresses
    return b"".join(macs) + b"\x08\x00" + ip + udp + struct.pack(">H", checksum) + data


def _sender(frame: bytes) -> XdpProgram:
    """Writes the headers each time, for pages come back as the relay left them, and gives the frame
    to the other end of the link."""
    head = frame[:48]
    lines: list[Line] = [load(W, R2, R1, 0), load(W, R3, R1, 4), move(R4, R2), add(R4, len(head))]
    lines.append(jump_if(R4, ">", R3, "short"))
    for at in range(0, len(head), 4):
        word = int.from_bytes(head[at : at + 4], sys.byteorder, signed=True)
        lines.append(store(W, R2, at, word))
    lines += [move(R1, socket.if_nametoindex("wx")), move(R2, 0), Instruction(0x85, immediate=23)]
    lines += [EXIT, label("short"), move(R0, DROP), EXIT]
    return XdpProgram(assemble(lines), LICENCE)


def _send(program: XdpProgram, frame: bytes) -> None:
    given = ctypes.create_string_buffer(frame, len(frame))
    where = ctypes.addressof(given)
    live = 1 << 1
    numbers = (program.fd, 0, len(frame), 0, where, 0, FRAMES_AT_ONCE, 0, 0, 0, 0, 0, live, 0, 64)
    bpf(10, bytearray(struct.pack("=4I2Q4I2Q3I", *numbers)), given)


def _checksum(data: bytes) -> int:
    words = struct.unpack(f">{len(data) // 2}H", data)
    return -sum(words) % 0xFFFF or 0xFFFF


# Sockets


class Straight:
    """Stands for a flow: datagrams go to a socket behind the same veth pair."""

    def __init__(self, bench: Bench, merging: bool) -> None:
        self.peer, self.client = bench.outside.socket(HERE), bench.inside.socket(RELAY)
        self.relayed = Endpoint.of(*self.client.getsockname())
        for end in (self.client, self.peer):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            end.setsockopt(SOL_UDP, UDP_GRO, merging)

    def close(self) -> None:
        self.client.close()
        self.peer.close()


def measure_sockets(way: str, seconds: float) -> Iterator[tuple[str, Cost]]:
    with contextlib.closing(Bench(way)) as bench:
        if way == KERNEL:
            bench.attach(bench.outside, "wx", Verdict.PASS)  # or nothing comes from a driver
        bench.start()
        flags = (False, True)
        for merging, busy, size, flows in product(flags, flags, SIZES, (1, 32)):
            ends, relay = ("merging" if merging else "plain"), ("busy" if busy else "idle")
            case = f"{ends} | {relay} | {size} B | {flows}"
            yield case, _exchange(bench, merging, busy, size, flows, seconds)


def _exchange(
    bench: Bench, merging: bool, busy: bool, size: int, count: int, seconds: float
) -> Cost:
    burst, relay = max(WINDOW // count, 16), bench.relay
    flows: list[Any] = [
        Straight(bench, merging) if relay is None else Flow(relay) for _ in range(count)
    ]
    lanes = [Lane(flow, relay is not None, size, burst, merging) for flow in flows]
    for lane in lanes:
        lane.arriving = size
    with placed(busy):
        _run(lanes, burst, busy, 0.1)
        spent, before = bench.spent(), bench.forwarded()
        sent, delivered = _run(lanes, burst, busy, seconds)
        spent = bench.spent() - spent
        kernel = bench.forwarded()[1] - before[1]
    for flow in flows:
        flow.close()
    return Cost(spent * 1e9 / delivered, 1 - delivered / sent, kernel / delivered)


def _run(lanes: list[Lane], burst: int, busy: bool, seconds: float) -> tuple[int, int]:
    """Windows of datagrams: sent, and arrived. It sleeps while it waits, for its time counts."""
    sent = delivered = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for lane in lanes:
            lane.send()
        wanted, arrived, patience = burst * len(lanes), 0, time.monotonic() + 0.05
        while arrived < wanted and time.monotonic() < patience:
            time.sleep(0.001 if busy else 0.0002)
            arrived += sum(lane.receive() for lane in lanes)
        sent += wanted
        delivered += arrived
    return sent, delivered


# All


PARTS = {"frames": measure_frames, "sockets": measure_sockets}


def main() -> None:
    parser = argparse.ArgumentParser(description="the relay's tier in the kernel")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help="frames, sockets; both by default")
    arguments = parser.parse_args()
    results = {}
    for part in arguments.parts or PARTS:
        samples = results[part] = Samples()
        for number, way in product(range(arguments.rounds + 1), WAYS):
            for case, cost in PARTS[part](way, arguments.seconds):
                if number:
                    samples.add(case, way, cost)
        print("\n".join(_table(part, samples)), flush=True)
    if arguments.json is not None:
        settings = {"rounds": arguments.rounds, "seconds": arguments.seconds}
        write(arguments.json, settings, results)


def _table(part: str, samples: Samples) -> Iterator[str]:
    """Medians, and how often the kernel is cheaper than user space that merges."""
    yield f"| {part} | {' | '.join(WAYS)} | gain | by the kernel | loss |"
    cases = list(dict.fromkeys(case for case, _, _ in samples.of(Cost)))
    for case in cases:
        found = {way: samples.get(case, way, Cost) for way in WAYS}
        total = {way: statistics.median(c.total for c in costs) for way, costs in found.items()}
        more = {way: total[way] - total[DIRECT] for way in WAYS[1:]}
        share = statistics.median(c.in_kernel for c in found[KERNEL])
        loss = max(statistics.median(c.loss for c in costs) for costs in found.values())
        shown = " | ".join(f"{more[way]:.0f}" for way in WAYS[1:])
        gain = more[MERGING] / max(more[KERNEL], 1)
        yield f"| {case} | {total[DIRECT]:.0f} | {shown} | {gain:.1f} | {share:.0%} | {loss:.1%} |"


def _softirq_threads() -> list[int]:
    """The kernel's, one per CPU."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text().startswith("ksoftirqd/"):
                found.append(int(path.parent.name))
    return found


def _mac(device: str) -> bytes:
    shown = subprocess.check_output(["ip", "-brief", "link", "show", device], text=True)
    return bytes.fromhex(shown.split()[2].replace(":", ""))


if __name__ == "__main__":
    main()
