import os
import socket
from collections.abc import Iterator

import pytest

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.tun import Tun


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Tun]]:
    host, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    host.settimeout(5)
    device.setblocking(False)
    yield host, Tun(device.fileno())
    host.close()
    device.close()


def test_reads_until_nothing_waits_or_the_batch_is_full(pair: tuple[socket.socket, Tun]) -> None:
    host, tun = pair
    for i in range(5):
        host.send(bytes([i]) * 20)
    batch = PacketBatch(capacity=3)
    assert tun.read(batch) == 3
    assert tun.read(batch) == 0
    batch.clear()
    assert tun.read(batch) == 2
    assert batch.packets() == [bytes([i]) * 20 for i in (3, 4)]


def test_longer_than_the_mtu_is_too_long(pair: tuple[socket.socket, Tun]) -> None:
    host, tun = pair
    for size in (1280, 1281, 5000):
        host.send(bytes(size))
    batch = PacketBatch()
    assert tun.read(batch) == 3
    verdicts = [batch.verdict(i) for i in range(3)]
    assert verdicts == [Verdict.PASS, Verdict.TOO_LONG, Verdict.TOO_LONG]


def test_writes_what_passes(pair: tuple[socket.socket, Tun]) -> None:
    host, tun = pair
    batch = PacketBatch()
    for i in range(3):
        batch.append(bytes([i]))
    batch.set_verdict(1, Verdict.REFUSED)
    assert tun.write(batch) == 2
    assert [host.recv(10) for _ in range(2)] == [b"\0", b"\2"]


def test_a_full_queue_drops_after_a_moment(pair: tuple[socket.socket, Tun]) -> None:
    _, tun = pair
    batch = PacketBatch(capacity=1024)
    for _ in range(1024):
        batch.append(bytes(1000))
    written = tun.write(batch)
    assert 0 < written < 1024
    verdicts = [batch.verdict(i) for i in range(1024)]
    assert verdicts.count(Verdict.WRITE_FAILED) == 1024 - written


def test_a_lost_device_is_an_error() -> None:
    fd = os.eventfd(0)
    os.close(fd)
    tun = Tun(fd)
    with pytest.raises(OSError):
        tun.read(PacketBatch())
    batch = PacketBatch()
    batch.append(b"x")
    with pytest.raises(OSError):
        tun.write(batch)
    assert batch.verdict(0) == Verdict.WRITE_FAILED


def test_an_mtu_below_that_of_ipv6_is_refused() -> None:
    with pytest.raises(ValueError):
        Tun(0, 1279)
