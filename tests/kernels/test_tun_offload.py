"""The TUN kernel with virtio headers, over a socket pair and over a real device."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import packets
import pytest

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.tun import Tun
from firezone.shell import tun as shell
from firezone.shell.offload import ALL, NONE, OF_TUN, Offload
from tests.reference import ip as slow
from tests.reference import offload as twin

A, B = "10.0.0.1", "10.0.0.2"


@pytest.fixture
def host() -> Iterator[socket.socket]:
    """The kernel's end; `device.fileno()` would be the descriptor of the device."""
    host, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    host.settimeout(5)
    host.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    device.setblocking(False)
    host_devices[host] = device
    yield host
    host_devices.pop(host).close()
    host.close()


host_devices: dict[socket.socket, socket.socket] = {}


def tun_of(host: socket.socket, merges: bool = True, mtu: int = 1280) -> Tun:
    fd = host_devices[host].fileno()
    return Tun(fd, mtu, has_header=True, merge_tcp=merges, merge_udp=merges)


def tcp(size: int, sequence: int = 1) -> bytes:
    return packets.tcp(A, B, 1, 80, 0x10, sequence, bytes(i % 251 for i in range(size)))


def test_plain_and_super_packets(host: socket.socket) -> None:
    plain, large = packets.udp(A, B, 1, 2, b"plain"), twin.super_packet(tcp(3000), 1240)
    tun, batch = tun_of(host), PacketBatch()
    for data in (bytes(10) + plain, large, bytes(10) + plain):
        host.send(data)
    assert tun.read(batch) == 5
    assert batch.packets() == [plain, *twin.split(large), plain]
    assert tun.read(batch) == 0


def test_a_partial_checksum_is_finished(host: socket.socket) -> None:
    packet = packets.udp(A, B, 1, 2, b"data")
    vnet, partial = twin.decode(twin.super_packet(packet, 1))
    host.send(twin.Vnet(1, 0, 0, 0, vnet.start, vnet.offset).encode() + partial)
    batch = PacketBatch()
    assert tun_of(host).read(batch) == 1
    assert batch.packets() == [packet]


def test_what_a_batch_has_no_room_for_comes_next(host: socket.socket) -> None:
    large = twin.super_packet(tcp(10_000), 1000)
    tun, batch = tun_of(host), PacketBatch(3)
    host.send(large)
    host.send(bytes(10) + tcp(1))
    got: list[bytes] = []
    while tun.read(batch):
        got += batch.packets()
        batch.clear()
    assert got == [*twin.split(large), tcp(1)]


def test_what_is_of_no_use_has_a_verdict(host: socket.socket) -> None:
    tun, batch = tun_of(host), PacketBatch()
    host.send(bytes(10) + bytes(1281))
    host.send(bytes(10) + bytes(0xFFFF))
    host.send(twin.super_packet(tcp(3000), 1300))
    host.send(b"short")
    host.send(twin.Vnet(1, 9, 0, 9, 0, 0).encode() + tcp(100))
    host.send(bytes(10) + tcp(1))
    assert tun.read(batch) == 6
    long, malformed = Verdict.TOO_LONG, Verdict.MALFORMED
    verdicts = [batch.verdict(i) for i in range(6)]
    assert verdicts == [long, long, long, malformed, malformed, Verdict.PASS]
    assert batch.packets() == [tcp(1)]


def test_rows_are_written_as_one(host: socket.socket) -> None:
    tun, batch = tun_of(host), PacketBatch()
    sent = [tcp(1000, 1 + 1000 * i) for i in range(5)]
    for packet in sent:
        packet = bytearray(packet)
        packet[6] = 0x40
        slow.fill_checksums(packet, slow.parse(bytes(packet)))
        batch.append(packet)
    batch.append(packets.udp(A, B, 1, 2, b"x"))
    assert tun.write(batch) == 6
    assert len(twin.split(host.recv(70_000))) == 5
    assert host.recv(70_000) == bytes(10) + packets.udp(A, B, 1, 2, b"x")
    host.setblocking(False)
    with pytest.raises(BlockingIOError):
        host.recv(1)


def test_a_lost_device_is_an_error() -> None:
    fd = os.eventfd(0)
    os.close(fd)
    tun, batch = Tun(fd, has_header=True, merge_tcp=True), PacketBatch()
    with pytest.raises(OSError):
        tun.read(batch)
    batch.append(tcp(1))
    with pytest.raises(OSError):
        tun.write(batch)


def test_merging_needs_the_header() -> None:
    with pytest.raises(ValueError):
        Tun(0, merge_tcp=True)


def test_a_device_that_takes_no_super_packets(host: socket.socket) -> None:
    """A datagram socket with a small buffer is one: EMSGSIZE for what is long. No more is made
    of that, because the packets alone go through, and the error tells of nothing lasting."""
    device = host_devices[host]
    device.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    tun, batch = tun_of(host), PacketBatch()
    for i in range(20):
        packet = bytearray(tcp(1000, 1 + 1000 * i))
        packet[6] = 0x40
        slow.fill_checksums(packet, slow.parse(bytes(packet)))
        batch.append(packet)
    assert 0 < tun.write(batch) <= 20
    assert tun.refused == 0
    assert len(twin.split(host.recv(70_000))) == 1


@pytest.mark.netns
class TestRealDevice:
    def test_what_is_not_wanted_is_not_there(self) -> None:
        with opened(NONE) as device:
            assert not device.has_header and device.offloads == NONE
        for offload in OF_TUN:
            with opened(frozenset({offload})) as device:
                assert device.has_header and device.offloads <= {offload}

    def test_this_kernel_has_some(self) -> None:
        with opened(ALL) as device:
            assert device.offloads >= {Offload.TUN_TSO, Offload.TUN_COALESCE}

    def test_a_device_that_is_down_refuses_nothing_for_good(self) -> None:
        with opened(ALL) as device:
            tun = Tun(device.fd, has_header=True, merge_tcp=True, merge_udp=True)
            batch = PacketBatch()
            for i in range(3):
                batch.append(packets.udp(A, B, 1, 2, bytes([i]) * 10))
            assert tun.write(batch) == 0
            assert batch.verdict(2) == Verdict.WRITE_FAILED
            assert tun.refused == 0


class opened:
    def __init__(self, offloads: frozenset[Offload]) -> None:
        self._offloads = offloads

    def __enter__(self) -> shell.Tun:
        from firezone.errors import FirezoneError

        try:
            self._tun = shell.open_tun(f"fzo{os.getpid() % 10**8}", self._offloads)
        except FirezoneError as error:
            pytest.skip(str(error))
        return self._tun

    def __exit__(self, *_: object) -> None:
        self._tun.close()
