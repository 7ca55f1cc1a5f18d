"""A small network for the XDP program, in the namespace of the calling thread."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from firezone.model import Endpoint, IPAddress
from firezone.shell.bpf import HASH, NO_PREALLOC, PERCPU_ARRAY, Map, TestRun, XdpProgram
from firezone.xdp import (
    Count,
    Route,
    Settings,
    Verdict,
    Way,
    assemble,
    counts,
    relay_program,
    routes,
)
from firezone.xdp.assembler import EXIT, R0, move
from firezone.xdp.program import COUNTS, LICENCE, ROUTES

OUR_MAC, NEXT_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
LISTEN_PORT, PORTS = 3478, range(49152, 65536)
US: dict[int, IPAddress] = {4: IPv4Address("192.0.2.1"), 6: IPv6Address("2001:db8::1")}
NEAR: dict[int, IPAddress] = {4: IPv4Address("192.0.2.2"), 6: IPv6Address("2001:db8::2")}
"""On our link."""
FAR: dict[int, IPAddress] = {4: IPv4Address("198.51.100.7"), 6: IPv6Address("2001:db8:f::7")}
"""Behind a router there."""
SILENT: dict[int, IPAddress] = {4: IPv4Address("192.0.2.3"), 6: IPv6Address("2001:db8::3")}
"""On our link, and nobody knows where."""
NOWHERE: dict[int, IPAddress] = {4: IPv4Address("203.0.113.9"), 6: IPv6Address("2001:db8:9::9")}
ASIDE: dict[int, IPAddress] = {4: IPv4Address("192.0.3.2"), 6: IPv6Address("2001:db8:3::2")}
"""On another link."""
MTU = 1500


def ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def build() -> int:
    """A link to a neighbour, one aside; the index of the first."""
    ip(
        f"link add x0 address {OUR_MAC.hex(':')} type veth peer name x1",
        "link add y0 type veth peer name y1",
        *(f"link set {name} up" for name in ("x0", "x1", "y0", "y1")),
        f"address add {US[4]}/24 dev x0",
        f"address add {US[6]}/64 dev x0 nodad",
        "address add 192.0.3.1/24 dev y0",
        "address add 2001:db8:3::1/64 dev y0 nodad",
        *(f"neighbour add {NEAR[v]} lladdr {NEXT_MAC.hex(':')} dev x0" for v in (4, 6)),
        *(f"neighbour add {ASIDE[v]} lladdr {NEXT_MAC.hex(':')} dev y0" for v in (4, 6)),
        f"route add 198.51.100.0/24 via {NEAR[4]}",
        f"route add 2001:db8:f::/64 via {NEAR[6]}",
    )
    for version in (4, 6):
        Path(f"/proc/sys/net/ipv{version}/conf/lo/forwarding").write_text("1")
    return socket.if_nametoindex("x0")


def next_hop(address: IPAddress, length: int) -> tuple[bytes, bytes] | Count:
    """What the kernel answers for this network."""
    address = ip_address(address)
    if address in NOWHERE.values() or address in US.values():
        return Count.NOT_FORWARDED
    if length > MTU:
        return Count.TOO_LARGE
    if address in SILENT.values():
        return Count.NO_NEIGHBOUR
    return Count.OTHER_INTERFACE if address in ASIDE.values() else (NEXT_MAC, OUR_MAC)


class Loaded:
    """The program in the kernel, without an interface."""

    def __init__(self, interface: int, native: bool = True) -> None:
        self.routes = Map(
            HASH,
            key_size=routes.KEY_SIZE,
            value_size=routes.VALUE_SIZE,
            entries=1024,
            flags=NO_PREALLOC,
        )
        self.counts = Map(PERCPU_ARRAY, key_size=4, value_size=counts.SIZE, entries=len(Count))
        lines = relay_program(Settings(interface, LISTEN_PORT, PORTS, native))
        code = assemble(lines, {ROUTES: self.routes.fd, COUNTS: self.counts.fd})
        self.program = XdpProgram(code, LICENCE)

    def bind(self, ways: Mapping[Way, Way]) -> None:
        for arrival, departure in ways.items():
            self.routes.update(arrival.key(), Route(arrival, departure).value())

    def run(self, frame: bytes) -> tuple[Verdict, bytes, Count | None]:
        """The verdict, the frame, and what was counted for it."""
        before = self.count()
        result: TestRun = self.program.test_run(frame)
        changed = [c for c, now in self.count().items() if now != before[c]]
        assert len(changed) < 2
        return Verdict(result.verdict), result.packet, changed[0] if changed else None

    def count(self) -> dict[Count, tuple[int, int]]:
        return {c: counts.total(self.counts.lookup(c.to_bytes(4, "little")) or b"") for c in Count}

    def close(self) -> None:
        for each in (self.program, self.routes, self.counts):
            each.close()


def channel(client: Endpoint, peer: Endpoint, number: int, port: int) -> dict[Way, Way]:
    """Both routes of a channel."""
    forward = Way(Endpoint(US[client.family], LISTEN_PORT), client, number)
    back = Way(Endpoint(US[peer.family], port), peer)
    return {forward: back, back: forward}


def let_pass() -> XdpProgram:
    """A program that passes everything."""
    return XdpProgram(assemble([move(R0, Verdict.PASS), EXIT]), LICENCE)


def need_bpf() -> None:
    """Skip where the kernel takes no programs from us, as in a user namespace."""
    try:
        let_pass().close()
    except OSError as error:
        pytest.skip(f"bpf(2): {error.strerror}")
