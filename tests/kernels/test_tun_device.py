"""What a real TUN device answers when it is down, and when it is gone."""

import errno
import fcntl
import os
import struct
import subprocess
import threading
from collections.abc import Iterator

import pytest

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.tun import Tun
from firezone.shell.dataplane import Dataplane

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000

pytestmark = pytest.mark.netns


@pytest.fixture
def device() -> Iterator[tuple[str, int]]:
    name = f"fzk{os.getpid() % 10**8}"
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        pytest.skip("no /dev/net/tun")
    try:
        request = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI)
        fcntl.ioctl(fd, TUNSETIFF, request)
    except PermissionError:
        os.close(fd)
        pytest.skip("needs CAP_NET_ADMIN")
    yield name, fd
    os.close(fd)


def delete(name: str) -> None:
    subprocess.run(["ip", "link", "del", name], check=True, timeout=10)


def test_a_device_that_is_down_is_no_failure(device: tuple[str, int]) -> None:
    _, fd = device
    tun, batch = Tun(fd), PacketBatch()
    assert tun.read(batch) == 0
    batch.append(b"\x45" + bytes(19))
    assert tun.write(batch) == 0
    assert batch.verdict(0) == Verdict.WRITE_FAILED


def test_a_deleted_device_is_one(device: tuple[str, int]) -> None:
    name, fd = device
    delete(name)
    with pytest.raises(OSError) as raised:
        Tun(fd).read(PacketBatch())
    assert raised.value.errno == errno.EBADFD


def test_the_thread_ends_when_its_device_is_deleted(device: tuple[str, int]) -> None:
    name, fd = device
    plane = Dataplane(tun_fd=fd, udp4_fd=None, udp6_fd=None, own_public_key=bytes(32), slots=4)
    plane.start()
    (up,) = [t for t in threading.enumerate() if t.name == "dataplane-up"]
    delete(name)
    up.join(5)
    assert not up.is_alive()
    assert plane.failure() == "the interface was deleted"
    plane.close()
