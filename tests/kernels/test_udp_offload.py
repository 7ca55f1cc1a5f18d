"""UDP_SEGMENT and UDP_GRO over loopback."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.udp import UdpSockets

HOSTS = {4: (socket.AF_INET, "127.0.0.1"), 6: (socket.AF_INET6, "::1")}
ARENA = 8 * 70_000


class Pair:
    """Two sockets of one family, each with its kernel."""

    def __init__(self, family: int, **offloads: bool) -> None:
        self.family = family
        kind, host = HOSTS[family]
        self.sockets = [socket.socket(kind, socket.SOCK_DGRAM) for _ in range(2)]
        self.addresses = []
        for each in self.sockets:
            each.bind((host, 0))
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            self.addresses.append((family, ip_address(host).packed, each.getsockname()[1]))
        fds = [{f"fd{family}": each.fileno()} for each in self.sockets]
        self.sender = UdpSockets(**fds[0], **offloads)  # type: ignore[arg-type]
        self.receiver = UdpSockets(**fds[1], **offloads)  # type: ignore[arg-type]

    def send(self, *datagrams: bytes, ecn: int = 0) -> PacketBatch:
        batch = PacketBatch(max(1, len(datagrams)))
        for datagram in datagrams:
            batch.set_remote(batch.append(datagram, ecn=ecn), *self.addresses[1])
        assert self.sender.send(batch) == len(datagrams)
        return batch

    def receive(self, capacity: int = 512) -> list[bytes]:
        batch = PacketBatch(capacity, arena_size=ARENA)
        got: list[bytes] = []
        while self.receiver.receive(batch, self.family):
            got += batch.packets()
            for slot in range(len(batch)):
                assert batch.remote(slot) == self.addresses[0]
                assert batch.local(slot) == self.addresses[1]
            batch.clear()
        return got

    def close(self) -> None:
        for each in self.sockets:
            each.close()


@pytest.fixture(params=[4, 6])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    if request.param == 6 and not socket.has_ipv6:
        pytest.skip("no IPv6")
    made = Pair(request.param, gso=True, gro=True)
    if not (made.sender.gso and made.receiver.gro):
        pytest.skip("a kernel without UDP_SEGMENT or UDP_GRO")
    yield made
    made.close()


def test_a_row_comes_as_it_left(pair: Pair) -> None:
    sent = [bytes([i]) * 1200 for i in range(100)]
    pair.send(*sent)
    assert pair.receive() == sent


@given(st.lists(st.sampled_from([0, 1, 50, 100, 100, 100, 1400]), max_size=120))
@settings(deadline=None)
def test_all_sizes_in_any_order(sizes: list[int]) -> None:
    for family in HOSTS:
        pair = Pair(family, gso=True, gro=True)
        sent = [bytes([i]) * size for i, size in enumerate(sizes)]
        pair.send(*sent)
        assert pair.receive() == sent
        assert pair.sender.refused == 0
        pair.close()


def test_a_batch_that_is_full_goes_on(pair: Pair) -> None:
    sent = [bytes([i]) * 100 for i in range(100)]
    pair.send(*sent)
    assert pair.receive(capacity=7) == sent


def test_segments_are_counted_out(pair: Pair) -> None:
    """64 to a message, and no more than 64 KiB."""
    for size in (1, 1400, 9000, 30_000):
        sent = [bytes([i]) * size for i in range(70)]
        batch = PacketBatch(70, stride=32_768)
        for datagram in sent:
            batch.set_remote(batch.append(datagram), *pair.addresses[1])
        assert pair.sender.send(batch) == 70
        assert pair.receive() == sent


def test_ecn_is_that_of_each(pair: Pair) -> None:
    batch = PacketBatch()
    for ecn in (0, 0, 1, 1, 2, 3, 3):
        batch.set_remote(batch.append(b"x", ecn=ecn), *pair.addresses[1])
    assert pair.sender.send(batch) == 7
    got = PacketBatch(arena_size=ARENA)
    assert pair.receiver.receive(got, pair.family) == 7
    assert [got.ecn(i) for i in range(7)] == [0, 0, 1, 1, 2, 3, 3]


def test_a_plain_receiver_gets_them_one_by_one() -> None:
    for family in HOSTS:
        pair = Pair(family, gso=True, gro=False)
        sent = [bytes([i]) * 500 for i in range(20)]
        pair.send(*sent)
        assert [pair.sockets[1].recv(9000) for _ in sent] == sent
        pair.close()


def test_a_plain_sender_reaches_a_merging_receiver() -> None:
    for family in HOSTS:
        pair = Pair(family, gso=False, gro=True)
        sent = [bytes([i]) * 500 for i in range(20)]
        pair.send(*sent)
        assert pair.receive() == sent
        pair.close()


def test_different_ends_are_different_messages(pair: Pair) -> None:
    batch = PacketBatch()
    for i in range(10):
        batch.set_remote(batch.append(bytes([i]) * 100), *pair.addresses[i % 2])
    assert pair.sender.send(batch) == 10
    assert pair.receive() == [bytes([i]) * 100 for i in range(1, 10, 2)]
    back = [pair.sockets[0].recv(1000) for _ in range(5)]
    assert back == [bytes([i]) * 100 for i in range(0, 10, 2)]


def test_what_cannot_be_merged_is_sent_alone_and_it_stays_so() -> None:
    """Without checksums the kernel does not segment (EINVAL or EIO)."""
    so_no_check = 11
    pair = Pair(4, gso=True, gro=True)
    pair.sockets[0].setsockopt(socket.SOL_SOCKET, so_no_check, 1)
    sent = [bytes([i]) * 100 for i in range(10)]
    pair.send(*sent, b"", b"other")
    assert pair.receive() == [*sent, b"", b"other"]
    assert pair.sender.refused in (errno.EINVAL, errno.EIO)
    assert not pair.sender.gso
    pair.send(*sent)
    assert pair.receive() == sent
    pair.close()


def test_a_path_with_a_small_mtu_is_no_reason_to_stop() -> None:
    """Loopback's MTU is 65,536, so a segment over that of the path cannot be had here; a datagram
    over the socket's own limit fails alone."""
    pair = Pair(4, gso=True, gro=True)
    batch = PacketBatch(3, stride=0x20000)
    for size in (100, 70_000, 100):
        batch.set_remote(batch.append(bytes(size)), *pair.addresses[1])
    assert pair.sender.send(batch) == 2
    assert [batch.verdict(i) for i in range(3)] == [0, Verdict.SEND_FAILED, 0]
    assert pair.sender.gso
    pair.close()


def test_merged_datagrams_need_room() -> None:
    pair = Pair(4, gro=True)
    with pytest.raises(ValueError):
        pair.receiver.receive(PacketBatch(4), 4)
    batch = PacketBatch(arena_size=ARENA)
    batch.append(b"x")
    with pytest.raises(ValueError):
        pair.receiver.receive(batch, 4)
    pair.close()


def test_offloads_are_switched_off_again() -> None:
    pair = Pair(4, gro=True)
    fd = pair.sockets[1].fileno()
    assert UdpSockets(fd, gro=True).gro
    assert not UdpSockets(fd).gro
    udp_gro = 104
    assert pair.sockets[1].getsockopt(socket.IPPROTO_UDP, udp_gro) == 0
    pair.close()
