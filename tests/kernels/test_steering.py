"""Which worker gets what: the kernel, the filters and the slow twin agree."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone._ext.pipeline import WORKERS, worker_of
from firezone.noise.index import worker_of as worker_of_tunnel
from firezone.shell.sockets import UdpSocket
from tests.reference.steering import worker_of_datagram, worker_of_packet

starts = st.sampled_from([b"\x45", b"\x46", b"\x60", b"\x50", b""])
packets = st.builds(
    lambda start, rest, protocol, middle: bytes(
        (start + rest)[:6] + middle + (start + rest)[8:9] + protocol + (start + rest)[10:]
    ),
    starts,
    st.binary(max_size=60),
    st.sampled_from([b"\6", b"\x11", b"\1", b"\x3a"]),
    # IPv4: fragmentation. IPv6: the next header.
    st.sampled_from([b"\0\0", b"\x40\0", b"\x20\0", b"\0\5", b"\6\0", b"\x11\0", b"\x2c\0"]),
)


@given(st.one_of(packets, st.binary(max_size=60)), st.integers(1, WORKERS))
def test_flows_against_the_twin(packet: bytes, workers: int) -> None:
    assert worker_of(packet, workers) == worker_of_packet(packet, workers)


def test_flows_spread() -> None:
    """Neighbouring ports, neighbouring hosts: every worker gets its share."""
    for place in (22, 23, 16, 19):
        counts = [0] * 4
        for number in range(256):
            packet = bytearray(b"\x45" + bytes(8) + b"\x11" + bytes(18))
            packet[place] = number
            counts[worker_of(bytes(packet), 4)] += 1
        assert min(counts) > 32


def test_there_are_no_other_workers() -> None:
    for workers in (0, WORKERS + 1):
        with pytest.raises(ValueError):
            worker_of(b"", workers)


def data(index: int) -> bytes:
    return b"\4\0\0\0" + index.to_bytes(4, "little") + bytes(24)


def in_channel(message: bytes) -> bytes:
    return b"\x40\x01" + len(message).to_bytes(2, "big") + message


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("workers", [2, 3, WORKERS])
def test_the_sockets_filter(family: int, workers: int) -> None:
    chance = random.Random(1)
    indices = [chance.getrandbits(32) for _ in range(100)]
    datagrams = [
        *map(data, indices),
        *(in_channel(data(index)) for index in indices),
        *(bytes([kind, 0, 0, 0]) + data(0x0100)[4:] for kind in (0, 1, 2, 3, 5)),
        *(in_channel(bytes([kind]) + data(0x0100)[1:]) for kind in (0, 1, 2, 3)),
        *(data(0x0100)[:size] for size in range(1, 7)),
        *(in_channel(data(0x0100))[:size] for size in range(1, 11)),
    ]
    with group(family, workers) as made:
        for datagram in datagrams:
            assert made.who_gets(datagram) == worker_of_datagram(datagram, workers)
    for index in indices:
        expected = worker_of_tunnel(index >> 8, workers)
        assert worker_of_datagram(data(index), workers) == expected


def test_a_group_has_its_port_to_itself() -> None:
    with group(4, 2) as made:
        own = made.members[0].port
        assert {member.port for member in made.members} == {own}
        other = UdpSocket(4, own, "127.0.0.1", mark=0)
        assert other.port != own
        other.close()


class Group:
    def __init__(self, family: int, workers: int) -> None:
        address = "127.0.0.1" if family == 4 else "::1"
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        first = UdpSocket(4 if family == 4 else 6, 0, address, mark=0)
        self.members = first.group(workers)
        self.sender = socket.socket(kind, socket.SOCK_DGRAM)
        self.sender.connect((address, first.port))

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self.members, self.sender):
            each.close()

    def who_gets(self, datagram: bytes) -> int:
        """Loopback delivers within the call that sends."""
        self.sender.send(datagram)
        (number,) = self._with(datagram)
        return number

    def _with(self, datagram: bytes) -> Iterator[int]:
        for number, member in enumerate(self.members):
            received = member.receive()
            if received is not None:
                assert received[0] == datagram
                yield number


def group(family: int, workers: int) -> Group:
    try:
        return Group(family, workers)
    except OSError as error:
        pytest.skip(f"no IPv{family} here: {error}")
