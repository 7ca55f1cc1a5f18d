"""A lab with everything started in it, and how the tests look at what flows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pulse

from firezone.durations import SECOND
from firezone.lab import Lab, Program, Site
from firezone.lab.topology import CLIENT, RESOURCE, RESOURCE_ALLOWED

ECHO_PORT = 5201
WEB, WEB6 = f"http://{RESOURCE_ALLOWED.v4}/", f"http://[{RESOURCE_ALLOWED.v6}]/"
PROHIBITED = {4: (3, 13), 6: (1, 1)}
"""ICMP type and code of `communication administratively prohibited`, RFC 1812 and RFC 4443."""


@contextmanager
def first_light(client: Site | None = None, gateway: Site | None = None) -> Iterator[Lab]:
    """All programs run and are ready; nothing has flowed yet."""
    with Lab(client=client, gateway=gateway) as lab:
        lab.start_resource()
        script(lab, "echo", RESOURCE, "echo", str(ECHO_PORT)).wait_for_event("ready")
        lab.start_portal()
        lab.start_relay()
        lab.start_gateway()
        lab.start_client()
        yield lab


@contextmanager
def flowing(
    lab: Lab, address: IPv4Address | IPv6Address = RESOURCE_ALLOWED.v4
) -> Iterator[Program]:
    """A program of the client that exchanges datagrams with the resource all the time."""
    program = script(lab, "pulse", CLIENT, "send", str(address), str(ECHO_PORT))
    try:
        program.wait_for_event("flowing")
        yield program
    finally:
        program.stop()


def script(lab: Lab, name: str, host: str, *arguments: str) -> Program:
    return lab.start(name, host, [sys.executable, "-I", pulse.__file__, *arguments])


def restart_client(lab: Lab) -> Program:
    lab.stop("client")
    return lab.start_client()


def fetches(lab: Lab, url: str = WEB, timeout: int = 10 * SECOND) -> bool:
    return lab.fetch(url, timeout=timeout).status == 200


def uninterrupted(flow: Program) -> bool:
    """Whether the datagrams went on. What a busy host's scheduler takes away is no interruption."""
    return all(gap["ms"] < 1000 for gap in events(flow, "gap"))


def gap_ms(flow: Program, timeout: int = 10 * SECOND) -> int:
    """How long the first interruption took, once it has ended."""
    return int(flow.wait_for_event("gap", timeout)["ms"])


def events(program: Program, name: str) -> list[dict[str, Any]]:
    return [line for line in program.lines() if line.get("event") == name]


def refusal(flow: Program) -> tuple[int, int]:
    """ICMP type and code of the first refusal."""
    line = flow.wait_for_event("refused", 5 * SECOND)
    return line["type"], line["code"]


def host_state(lab: Lab, host: str) -> str:
    """All that our programs may change in a host."""
    show = (
        "ip -o addr; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all;"
        "nft list ruleset; ls /run/firezone | grep -e -$(stat -Lc %i /proc/self/ns/net)[.];"
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"
    )
    shown = lab.exec(host, ["sh", "-c", show]).stdout
    return "".join(line for line in shown.splitlines(True) if "eth" not in line)


def resident_kilobytes(program: Program) -> int:
    status = Path(f"/proc/{program.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])
