import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.udp import UdpSockets

FAMILIES = {4: (socket.AF_INET, "127.0.0.1"), 6: (socket.AF_INET6, "::1")}
Address = tuple[int, bytes, int]


class End:
    """A UDP socket on loopback and its address as the kernels write it."""

    def __init__(self, family: int, wildcard: bool = False) -> None:
        kind, host = FAMILIES[family]
        self.socket = socket.socket(kind, socket.SOCK_DGRAM)
        self.socket.bind(("" if wildcard else host, 0))
        self.socket.settimeout(5)
        self.port: int = self.socket.getsockname()[1]
        self.name = (host, self.port)
        self.address: Address = (family, ip_address(host).packed, self.port)


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest) -> int:
    if request.param == 6 and not socket.has_ipv6:
        pytest.skip("no IPv6")
    return int(request.param)


@pytest.fixture
def ends(family: int) -> Iterator[tuple[End, End, UdpSockets]]:
    ours, theirs = End(family, wildcard=True), End(family)
    fds = {f"fd{family}": ours.socket.fileno()}
    yield ours, theirs, UdpSockets(**fds)
    ours.socket.close()
    theirs.socket.close()


def datagrams(*packets: bytes, remote: Address, local: Address | None = None) -> PacketBatch:
    batch = PacketBatch()
    for packet in packets:
        slot = batch.append(packet)
        batch.set_remote(slot, *remote)
        if local is not None:
            batch.set_local(slot, *local)
    return batch


def test_receive_tells_both_addresses(ends: tuple[End, End, UdpSockets], family: int) -> None:
    ours, theirs, sockets = ends
    for i in range(5):
        theirs.socket.sendto(bytes([i]) * i, ours.name)
    batch = PacketBatch()
    assert sockets.receive(batch, family) == 5
    assert batch.packets() == [bytes([i]) * i for i in range(5)]
    for i in range(5):
        assert (batch.remote(i), batch.local(i)) == (theirs.address, ours.address)
    assert sockets.receive(batch, family) == 0
    assert sockets.receive(batch, 10 - family) == 0, "there is no socket of the other family"


def test_receive_takes_what_the_batch_has_room_for(
    ends: tuple[End, End, UdpSockets], family: int
) -> None:
    ours, theirs, sockets = ends
    for _ in range(5):
        theirs.socket.sendto(b"x", ours.name)
    batch = PacketBatch(capacity=3)
    batch.append(b"first")
    assert sockets.receive(batch, family) == 2
    assert sockets.receive(batch, family) == 0
    batch.clear()
    assert sockets.receive(batch, family) == 3


def test_longer_than_the_room_is_too_long(ends: tuple[End, End, UdpSockets], family: int) -> None:
    ours, theirs, sockets = ends
    theirs.socket.sendto(b"x" * 60000, ours.name)
    theirs.socket.sendto(b"x" * 1952, ours.name)
    batch = PacketBatch()
    assert sockets.receive(batch, family) == 2
    assert [batch.verdict(i) for i in range(2)] == [Verdict.TOO_LONG, Verdict.PASS]


def test_send_from_a_source_with_ecn(ends: tuple[End, End, UdpSockets], family: int) -> None:
    ours, theirs, sockets = ends
    back = datagrams(b"one", b"two", remote=theirs.address, local=ours.address)
    assert sockets.send(back) == 2
    assert [theirs.socket.recvfrom(100)[0] for _ in range(2)] == [b"one", b"two"]
    level, option = {
        4: (socket.IPPROTO_IP, socket.IP_TOS),
        6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    }[family]
    for ecn in (0, 1, 2, 3):
        theirs.socket.setsockopt(level, option, ecn)
        theirs.socket.sendto(b"x", ours.name)
        batch = PacketBatch()
        sockets.receive(batch, family)
        assert batch.ecn(0) == ecn
        batch = PacketBatch()
        batch.append(b"marked", ecn=ecn)
        batch.set_remote(0, *ours.address)
        sockets.send(batch)
        batch.clear()
        sockets.receive(batch, family)
        assert batch.ecn(0) == ecn


def test_only_what_passes_is_sent_and_a_failure_stands_alone(
    ends: tuple[End, End, UdpSockets], family: int
) -> None:
    ours, theirs, sockets = ends
    batch = datagrams(b"0", b"1", b"2", b"3", b"4", remote=theirs.address)
    batch.set_verdict(1, Verdict.REFUSED)
    nowhere = ip_address("255.255.255.255" if family == 4 else "ff02::1").packed
    batch.set_remote(2, family, nowhere, 0)
    batch.set_remote(3, 10 - family, bytes(16 if family == 4 else 4), 9)
    assert sockets.send(batch) == 2
    expected = [Verdict.PASS, Verdict.REFUSED, Verdict.SEND_FAILED, Verdict.SEND_FAILED]
    assert [batch.verdict(i) for i in range(5)] == [*expected, Verdict.PASS]
    assert [theirs.socket.recv(10) for _ in range(2)] == [b"0", b"4"]
    del ours


def test_a_refused_port_harms_nobody(ends: tuple[End, End, UdpSockets], family: int) -> None:
    ours, theirs, sockets = ends
    gone = End(family)
    gone.socket.close()
    for _ in range(3):
        assert sockets.send(datagrams(b"x", remote=gone.address)) == 1
        assert sockets.receive(PacketBatch(), family) == 0
    theirs.socket.sendto(b"still here", ours.name)
    batch = PacketBatch()
    assert sockets.receive(batch, family) == 1


def test_both_families_in_one_batch() -> None:
    four, six = End(4), End(6)
    sockets = UdpSockets(four.socket.fileno(), six.socket.fileno(), capacity=2)
    batch = PacketBatch()
    for i in range(10):
        batch.append(bytes([i]))
        batch.set_remote(i, *(six if i % 2 else four).address)
    assert sockets.send(batch) == 10
    for end, first in ((four, 0), (six, 1)):
        assert [end.socket.recv(10) for _ in range(5)] == [bytes([i]) for i in range(first, 10, 2)]
        end.socket.close()


def test_a_closed_descriptor_is_an_error() -> None:
    end = End(4)
    sockets = UdpSockets(end.socket.fileno())
    end.socket.close()
    with pytest.raises(OSError):
        sockets.receive(PacketBatch(), 4)
    with pytest.raises(OSError):
        sockets.send(datagrams(b"x", remote=end.address))
    with pytest.raises(OSError):
        UdpSockets(1 << 20)
