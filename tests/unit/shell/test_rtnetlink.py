"""What the kernel could not read in one go is read again."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import closing
from ipaddress import IPv4Interface, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.shell.rtnetlink import Link, LinkAddress, RtNetlink, parse_address, parse_link

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


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


# RTM_NEWLINK: ifi_family, padding, ifi_type, ifi_index, ifi_flags, ifi_change
LINK = struct.pack("=BxHiII", 0, 1, 7, 0x11043, 0)
LINK += attribute(3, b"veth0\0") + attribute(10, struct.pack("=I", 5))
LINK += attribute(18, attribute(1, b"veth\0") + attribute(2, bytes(8)))
# RTM_NEWADDR: ifa_family, ifa_prefixlen, ifa_flags, ifa_scope, ifa_index
ADDRESS = struct.pack("=BBBBi", socket.AF_INET6, 64, 0x80, 0, 7)
ADDRESS += attribute(1, ip_interface("2001:db8::2").ip.packed)


def test_a_link_is_read() -> None:
    assert parse_link(LINK) == Link(7, 1, 0x11043, "veth", 5)
    assert parse_link(LINK[:16]) == Link(7, 1, 0x11043, "", None)


def test_an_address_is_read_with_all_its_flags() -> None:
    expected = LinkAddress(7, ip_interface("2001:db8::2/64"), 0x80)
    assert parse_address(ADDRESS) == expected
    flags = attribute(8, struct.pack("=I", 0x321))
    assert parse_address(ADDRESS + flags) == LinkAddress(7, expected.interface, 0x321)


def test_our_own_end_of_a_point_to_point_link_is_the_address() -> None:
    ends = attribute(1, bytes([10, 0, 0, 2])) + attribute(2, bytes([10, 0, 0, 1]))
    found = parse_address(struct.pack("=BBBBi", socket.AF_INET, 32, 0, 0, 3) + ends)
    assert found == LinkAddress(3, ip_interface("10.0.0.1/32"))


@pytest.mark.parametrize("message", [LINK, ADDRESS])
@pytest.mark.parametrize("parse", [parse_link, parse_address])
def test_no_truncation_breaks_a_parser(parse: Callable[[bytes], object], message: bytes) -> None:
    for length in range(len(message)):
        parse(message[:length])


@given(st.binary(max_size=200), st.sampled_from([b"", LINK[:16], ADDRESS[:8]]))
def test_no_bytes_break_a_parser(data: bytes, header: bytes) -> None:
    parse_link(header + data)
    parse_address(header + data)


def test_the_kernel_tells_of_loopback() -> None:
    with closing(RtNetlink()) as kernel:
        (loopback,) = [link for link in kernel.links() if link.flags & 0x8]
        assert (loopback.hardware, loopback.driver) == (772, "")
        for address in kernel.link_addresses():
            if address.link == loopback.index:
                assert address.interface.ip.is_loopback
