"""What the kernel could not read in one go is read again."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Interface, ip_interface

import pytest

from firezone.shell.rtnetlink import RtNetlink

DONE, NEW_ADDRESS = 3, 20
MULTI, INTERRUPTED = 0x2, 0x10
HOME, CABLE = ip_interface("192.168.1.2/24"), ip_interface("192.168.7.2/24")


class Kernel:
    """Answers each request with the next of these dumps."""

    def __init__(self, *dumps: tuple[int, list[IPv4Interface]]) -> None:
        self.dumps = list(dumps)
        self.requests = 0
        self._sequence = 0

    def send(self, request: bytes) -> None:
        self.requests += 1
        self._sequence = struct.unpack_from("=IHHII", request)[3]

    def recv(self, _size: int) -> bytes:
        flags, addresses = self.dumps.pop(0)
        answers = [self._message(NEW_ADDRESS, flags, _address(a)) for a in addresses]
        return b"".join(answers) + self._message(DONE, flags, bytes(4))

    def close(self) -> None:
        pass

    def _message(self, kind: int, flags: int, body: bytes) -> bytes:
        return struct.pack("=IHHII", 16 + len(body), kind, flags, self._sequence, 0) + body


def _address(address: IPv4Interface) -> bytes:
    length = address.network.prefixlen
    header = struct.pack("=BBBBi", socket.AF_INET, length, 0, 0, 1)
    return header + struct.pack("=HH", 8, 2) + address.ip.packed


def netlink(kernel: Kernel) -> RtNetlink:
    speaker = RtNetlink()
    speaker._socket.close()
    speaker._socket = kernel  # type: ignore[assignment]
    return speaker


def test_an_interrupted_dump_is_repeated():
    kernel = Kernel((MULTI | INTERRUPTED, [HOME]), (MULTI, [HOME, CABLE]))
    assert netlink(kernel).addresses(1) == {HOME, CABLE}
    assert kernel.requests == 2


def test_addresses_that_never_hold_still_are_no_answer():
    kernel = Kernel(*[(MULTI | INTERRUPTED, [HOME])] * 100)
    with pytest.raises(BlockingIOError):
        netlink(kernel).owners()
    assert kernel.requests < 10


def test_routes_that_never_hold_still_count_as_last_read():
    kernel = Kernel(*[(MULTI | INTERRUPTED, [])] * 100)
    assert netlink(kernel).routes(1, 254) == set()
    assert kernel.requests < 10
