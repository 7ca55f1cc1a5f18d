"""A lab with two clients that reach one gateway over one relay that has one port, and only by
their allocations."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from firezone.durations import SECOND
from firezone.lab import Lab, Nat, Program, Site
from firezone.lab.fetch import Fetched
from firezone.lab.topology import CLIENT, RESOURCE_ALLOWED

SECOND_CLIENT = "relay2"
"""The host of the other client: one on the internet that is there anyway."""
LISTEN_PORT = 3478

_TURN_ALONE = f"""
table inet turn_alone {{
  chain output {{
    type filter hook output priority filter;
    oifname "lo" accept
    oifname "tun-firezone" accept
    meta l4proto != udp accept
    udp dport != {LISTEN_PORT} drop
    @th,64,8 1-4 @th,72,24 0 drop
    @th,64,16 0x0001 @th,80,16 > 60 drop
    @th,64,16 {{ 0x0101, 0x0111 }} drop
  }}
}}
"""
"""What a host sends to a peer of its own is lost: WireGuard, checks of ICE and their answers. What
is left are a TURN client's messages."""


@contextmanager
def two_clients(directory: Path, *turn_alone: str, family: int = 4) -> Iterator[Lab]:
    """All programs run; hosts `turn_alone` have no way to anybody but their allocations. The
    internet has one family."""
    with Lab(
        client=Site(Nat.SYMMETRIC),
        gateway=Site(Nat.SYMMETRIC),
        relays=2,
        portal_family=family,
        public_families=frozenset({family}),
        one_port=True,
        directory=directory,
    ) as lab:
        lab.start_resource()
        lab.start_portal()
        lab.start_relay()
        for host in turn_alone:
            load_rules(lab, host, _TURN_ALONE)
        lab.start_gateway()
        lab.start_client()
        start_second_client(lab)
        yield lab


def load_rules(lab: Lab, host: str, rules: str) -> None:
    """Rules of nftables for a host of the lab."""
    path = lab.directory / f"{host}.nft"
    path.write_text(rules)
    done = lab.exec(host, ["nft", "-f", str(path)])
    assert done.returncode == 0, done.stderr


def start_second_client(lab: Lab) -> Program:
    token = lab.directory / "second.token"
    lab.portal_file.write_token("client", token)
    environment = {
        "FIREZONE_API_URL": lab.portal_url(frozenset({4, 6})),
        "FIREZONE_TOKEN_PATH": str(token),
        "FIREZONE_ID": f"second-of-{lab.name}",
        "FIREZONE_NAME": "second",
        "FIREZONE_DNS_CONTROL": "disabled",
        "LOG_FORMAT": "json",
        "FIREZONE_LOG": lab.log_level,
    }
    argv = [sys.executable, "-m", "firezone", "client"]
    program = lab.start("second", SECOND_CLIENT, argv, environment)
    program.wait_for_event("tunnel_configured")
    return program


def download_both(lab: Lab, size: int, timeout: int = 60 * SECOND) -> list[Fetched]:
    """Both clients get as much at the same time."""
    url = f"http://{RESOURCE_ALLOWED.v4}/bytes/{size}"
    with ThreadPoolExecutor(2) as pool:
        started = [
            pool.submit(lab.fetch, url, host, timeout=timeout) for host in (CLIENT, SECOND_CLIENT)
        ]
        return [each.result() for each in started]


def status(lab: Lab, host: str, *options: str) -> dict[str, Any]:
    """What the program of a host says of itself."""
    argv = [sys.executable, "-m", "firezone", "status", "--json", *options]
    done = lab.exec(host, argv)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
