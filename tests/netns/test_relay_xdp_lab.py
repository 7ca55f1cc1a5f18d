"""Client and gateway behind NATs that leave them nothing but the relay, which has its tier in the
kernel: WireGuard's packets through a whole network."""

from __future__ import annotations

import ctypes
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import msgspec
import pytest
from netns.xdp_kit import let_pass, need_bpf

from firezone.explain.relay import RelayReport
from firezone.lab import Lab, Nat, Site, netns
from firezone.lab.topology import INTERNET, RESOURCE_ALLOWED
from firezone.shell.bpf import XdpLink, XdpMode

BYTES = 2_000_000


@pytest.mark.timeout(120)
@pytest.mark.parametrize("nat", [Nat.CONE, Nat.SYMMETRIC])
def test_the_kernel_carries_a_tunnel(nat: Nat) -> None:
    """Through one allocation, or through one of each."""
    need_bpf()
    sites = Site(nat), Site(Nat.SYMMETRIC)
    with Lab(client=sites[0], gateway=sites[1]) as lab, other_end(lab.namespace(INTERNET)):
        lab.start_resource()
        lab.start_portal()
        lab.start_relay(environment={"EBPF_OFFLOADING": "eth0", "EBPF_ATTACH_MODE": "driver"})
        lab.start_gateway()
        lab.start_client()
        for address in RESOURCE_ALLOWED.addresses():
            host = f"[{address}]" if address.version == 6 else str(address)
            assert lab.fetch(f"http://{host}/bytes/{BYTES}").body_bytes == BYTES
        asked = [sys.executable, "-m", "firezone", "status", "--relay", "--json"]
        report = msgspec.json.decode(lab.exec("relay1", asked).stdout, type=RelayReport)
        xdp = report.xdp
        assert xdp is not None and xdp.mode == "native" and xdp.channels >= 1
        moved = xdp.to_peers.bytes + xdp.to_clients.bytes
        user_space = report.to_peers.bytes + report.to_clients.bytes
        assert moved > 2 * BYTES > 50 * user_space, report


@contextmanager
def other_end(namespace: str) -> Iterator[None]:
    """Of the relay's veth: it has to take what the driver sends."""

    def attach() -> XdpLink:
        with (netns.DIRECTORY / namespace).open() as where:
            if ctypes.CDLL(None, use_errno=True).setns(where.fileno(), 0x40000000) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        with closing(let_pass()) as program:
            return XdpLink(program, socket.if_nametoindex("relay1"), XdpMode.NATIVE)

    with ThreadPoolExecutor(1) as thread:
        link = thread.submit(attach).result(10)
    with closing(link):
        yield
