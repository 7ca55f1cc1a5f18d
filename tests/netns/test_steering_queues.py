"""The filter of a TUN device with several queues, in a network namespace of its own."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest

from firezone.errors import ConfigurationError
from firezone.shell import tun
from firezone.shell.offload import ALL, NONE, Offloads
from firezone.shell.steering import steer_queues
from firezone.shell.tun import Tun, open_tun
from tests.reference.steering import worker_of_packet

OWN, OTHER = ("10.97.0.1", "fd97::1"), ("10.97.0.2", "fd97::2")
VNET_HEADER = 10


@pytest.mark.parametrize("offloads", [NONE, ALL])
@pytest.mark.parametrize("workers", [2, 3, 5])
def test_every_packet_comes_to_the_worker_of_its_flow(
    fresh_netns: ThreadPoolExecutor, workers: int, offloads: Offloads
) -> None:
    found = fresh_netns.submit(queues_of_flows, workers, offloads).result()
    if found is None:
        pytest.skip("the kernel takes no filter: needs CAP_BPF")
    assert len(found) == 2 * 40 + 2 + 2 * 2
    for packet, queue in found:
        assert queue == worker_of_packet(packet, workers), packet.hex()
    assert {queue for _, queue in found} == set(range(workers))


def test_nobody_joins_a_device_of_several_queues(fresh_netns: ThreadPoolExecutor) -> None:
    fresh_netns.submit(open_again).result()


def open_again() -> None:
    first = open_tun("shared0", queues=2)
    for queues in (1, 2):
        with pytest.raises(ConfigurationError, match="in use"):
            open_tun("shared0", ALL, queues)
    first.close()
    open_tun("shared0", queues=3).close()
    assert not tun._is_there("shared0")


def queues_of_flows(workers: int, offloads: Offloads) -> list[tuple[bytes, int]] | None:
    """Packets with the number of the queue that each came to. None where nothing steers them."""
    device = open_tun("steered0", offloads, workers)
    if not steer_queues(device.fd, workers):
        device.close()
        return None
    for argv in (
        f"address add {OWN[0]}/24 dev steered0",
        f"address add {OWN[1]}/64 dev steered0 nodad",
        "link set steered0 up",
    ):
        subprocess.run(["ip", *argv.split()], check=True)
    for own, other in zip(OWN, OTHER, strict=True):
        family = socket.AF_INET6 if ":" in own else socket.AF_INET
        for _ in range(20):
            with socket.socket(family, socket.SOCK_DGRAM) as s:
                for _ in range(2):
                    s.sendto(b"data", (other, 4000))
        protocol = socket.IPPROTO_ICMPV6 if ":" in own else socket.IPPROTO_ICMP
        with socket.socket(family, socket.SOCK_RAW, protocol) as s:
            kind = 128 if ":" in own else 8
            s.sendto(struct.pack("!BBHHH", kind, 0, 0, 1, 1), (other, 0))
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.sendto(bytes(1800), (other, 4000))  # two fragments
    found = list(read_all(device))
    device.close()
    return found


def read_all(device: Tun) -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []
    skip = VNET_HEADER if device.has_header else 0
    for queue, fd in enumerate(device.fds):
        while True:
            try:
                packet = os.read(fd, 2048)[skip:]
            except BlockingIOError:
                break
            if is_ours(packet):
                found.append((packet, queue))
    return found


def is_ours(packet: bytes) -> bool:
    """Not what the kernel itself sends when an interface comes up."""
    destination = packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]
    return str(ip_address(destination)) in OTHER
