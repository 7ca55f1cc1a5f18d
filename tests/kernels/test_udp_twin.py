"""The UDP kernel beside its slow twin, over loopback, with and without offloads."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.udp import UdpSockets
from tests.reference import udp as slow
from tests.reference.batch import UNSET, Address, Slot
from tests.reference.udp import Datagram

KINDS = {4: socket.AF_INET, 6: socket.AF_INET6}
HOME = {4: ip_address("127.0.0.1").packed, 6: ip_address("::1").packed}
SECOND_HOME = ip_address("127.0.0.2").packed
FOREIGN = {4: ip_address("192.0.2.77").packed, 6: ip_address("2001:db8::77").packed}
OWN = {*HOME.values(), SECOND_HOME}
ROOM = 1952
ARENA = 8 * 70_000
PATIENCE = 5
IP_PKTINFO = 8  # Linux; `socket` of Python 3.11 does not have it

pytestmark = pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")


class End:
    """A socket that takes what comes for any address of its family."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.socket = socket.socket(KINDS[family], socket.SOCK_DGRAM)
        if family == 6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind(("", 0))
        self.port: int = self.socket.getsockname()[1]
        self.address: Address = (family, HOME[family], self.port)

    def waits(self) -> bool:
        return bool(select.select([self.socket], [], [], PATIENCE)[0])

    def ask_for_ends(self) -> None:
        if self.family == 4:
            self.socket.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        else:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)

    def receive(self) -> Datagram:
        """Without the kernel under test."""
        assert self.waits()
        payload, control, _, name = self.socket.recvmsg(70_000, 200)
        source = (self.family, ip_address(name[0]).packed, name[1])
        destination, ecn = b"", 0
        for level, kind, data in control:
            if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
                destination = data[8:12]
            elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                destination = data[:16]
            elif (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS):
                ecn = data[0] & 3
            elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_TCLASS):
                ecn = struct.unpack("=i", data)[0] & 3
        return Datagram(source, (self.family, destination, self.port), ecn, payload)


@contextmanager
def ends(*families: int) -> Iterator[list[End]]:
    with ExitStack() as stack:
        made = [End(family) for family in families]
        for end in made:
            stack.callback(end.socket.close)
        yield made


# What leaves.

sizes = st.sampled_from([0, 1, 99, 100, 100, 100, 1200, 1200, 1952])
runs = st.tuples(
    st.sampled_from([0, 0, 0, 1, 2, 2, 3, 4]),  # where to: the third end has IPv6; unset; port 0
    st.sampled_from(["none", "none", "home", "second", "foreign"]),
    st.integers(0, 3),
    sizes,
    st.sampled_from([Verdict.PASS] * 5 + [Verdict.REFUSED, Verdict.SLOW]),
    st.integers(1, 4),
)


@given(st.lists(runs, max_size=8), st.booleans(), st.integers(1, 5), st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_leaves(runs: list[tuple], gso: bool, capacity: int, has_both: bool) -> None:
    """Looked at by plain sockets, for which the host takes merged messages apart."""
    with ends(4, 4, 6, 4, 6) as (*there, own4, own6):
        here = [own4, own6] if has_both else [own4]
        fds = {f"fd{end.family}": end.socket.fileno() for end in here}
        kernel = UdpSockets(**fds, capacity=capacity, gso=gso)
        twin = slow.UdpSockets({end.family: end.address for end in here}, OWN)
        for end in there:
            end.ask_for_ends()
        batch, slots = loaded(runs, there)
        expected = twin.send(slots)
        assert kernel.send(batch) == len(expected)
        assert [batch.verdict(i) for i in range(len(batch))] == [s.verdict for s in slots]
        for end in there:
            wanted = [datagram for datagram in expected if datagram.destination == end.address]
            assert [end.receive() for _ in wanted] == wanted
        assert not select.select([end.socket for end in there], [], [], 0)[0]
        assert kernel.refused == 0


def loaded(runs: list[tuple], there: list[End]) -> tuple[PacketBatch, list[Slot]]:
    batch, slots = PacketBatch(64), list[Slot]()
    for where, source, ecn, size, verdict, times in runs:
        remote = [*(end.address for end in there), UNSET, (4, HOME[4], 0)][where]
        local = local_of(source, remote[0] or 4)
        for _ in range(times):
            slot = Slot(bytes([len(slots)]) * size, 0, 0, ecn, verdict, 0, local, remote)
            fill(batch, batch.append(slot.packet, ecn=ecn), slot)
            slots.append(slot)
    return batch, slots


def fill(batch: PacketBatch, index: int, slot: Slot) -> None:
    batch.set_verdict(index, slot.verdict)
    if slot.local != UNSET:
        batch.set_local(index, *slot.local)
    if slot.remote != UNSET:
        batch.set_remote(index, *slot.remote)


def local_of(name: str, family: int) -> Address:
    second = SECOND_HOME if family == 4 else HOME[6]
    found = {"home": HOME[family], "second": second, "foreign": FOREIGN[family]}
    return (family, found[name], 9) if name in found else UNSET


@pytest.mark.parametrize("gso", [False, True])
@pytest.mark.parametrize("family", [4, 6])
def test_the_longest(family: int, gso: bool) -> None:
    with ends(family, family) as (end, own):
        twin = slow.UdpSockets({family: own.address}, OWN)
        kernel = UdpSockets(**{f"fd{family}": own.socket.fileno()}, gso=gso)
        batch, slots = PacketBatch(4, stride=0x20000), list[Slot]()
        for size in (slow.LONGEST[family], 10, slow.LONGEST[family] + 1, 70_000):
            slots.append(Slot(bytes(size), 0, 0, 0, remote=end.address))
            fill(batch, batch.append(bytes(size)), slots[-1])
        sent = twin.send(slots)
        assert kernel.send(batch) == len(sent) == 2
        assert [batch.verdict(i) for i in range(4)] == [slot.verdict for slot in slots]
        assert [len(end.socket.recv(70_000)) for _ in sent] == [len(d.payload) for d in sent]


# What arrives.

arrivals = st.tuples(
    st.integers(0, 1),  # who sends
    st.booleans(),  # to the second address
    st.integers(0, 3),
    sizes | st.sampled_from([ROOM + 1, 9000]),
)


@given(
    st.sampled_from([4, 6]),
    st.lists(arrivals, max_size=16),
    st.integers(1, 20),
    st.integers(1, 5),
)
@settings(max_examples=200, deadline=None)
def test_what_arrives(
    family: int, arrivals: list[tuple[int, bool, int, int]], room: int, capacity: int
) -> None:
    """From plain sockets, into batches with little room."""
    with ends(family, family, family) as (own, *peers):
        kernel = UdpSockets(**{f"fd{family}": own.socket.fileno()}, capacity=capacity)
        expected = []
        for number, (peer, second, ecn, size) in enumerate(arrivals):
            home = SECOND_HOME if second and family == 4 else HOME[family]
            payload = bytes([number]) * size
            send_plainly(peers[peer], (family, home, own.port), ecn, payload)
            # The host answers from the address that was asked for only if told so.
            source = (family, HOME[family], peers[peer].port)
            datagram = Datagram(source, (family, home, own.port), ecn, payload)
            expected.append(slow.receive(datagram, ROOM))
        got = all_of(kernel, own, PacketBatch(room), len(expected))
        for peer in peers:
            assert of_peer(got, peer) == of_peer(expected, peer)


def send_plainly(end: End, to: Address, ecn: int, payload: bytes) -> None:
    level, kind = {
        4: (socket.IPPROTO_IP, socket.IP_TOS),
        6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    }[end.family]
    end.socket.setsockopt(level, kind, ecn)
    end.socket.sendto(payload, (str(ip_address(to[1])), to[2]))


def all_of(kernel: UdpSockets, own: End, batch: PacketBatch, count: int) -> list[Slot]:
    got: list[Slot] = []
    while len(got) < count:
        batch.clear()
        if kernel.receive(batch, own.family) == 0:
            assert own.waits()
        got += [columns(batch, slot) for slot in range(len(batch))]
    batch.clear()
    assert kernel.receive(batch, own.family) == 0
    return got


def columns(batch: PacketBatch, slot: int) -> Slot:
    assert batch.peer(slot) == batch.mark(slot) == 0 and batch.flow(slot) is None
    ends = {"local": batch.local(slot), "remote": batch.remote(slot)}
    return Slot(batch.packet(slot), 0, 0, batch.ecn(slot), batch.verdict(slot), 0, **ends)


def of_peer(slots: list[Slot], peer: End) -> list[Slot]:
    return [slot for slot in slots if slot.remote[2] == peer.port]


# Both ways at once, as two of our programs meet.

meetings = st.lists(
    st.tuples(
        st.sampled_from([0, 2]),
        st.sampled_from(["none", "home", "second"]),
        st.integers(0, 3),
        sizes,
        st.just(Verdict.PASS),
        st.integers(1, 12),
    ),
    max_size=5,
)


@given(meetings, st.booleans(), st.booleans(), st.integers(1, 70))
@settings(max_examples=200, deadline=None)
def test_what_one_sends_the_other_gets(
    runs: list[tuple], gso: bool, gro: bool, capacity: int
) -> None:
    with ends(4, 4, 6, 4, 6) as (*there, own4, own6):
        here = [own4, own6]
        twin = slow.UdpSockets({end.family: end.address for end in here}, OWN)
        sender = UdpSockets(own4.socket.fileno(), own6.socket.fileno(), gso=gso)
        receiver = UdpSockets(there[0].socket.fileno(), there[2].socket.fileno(), gro=gro)
        batch, slots = loaded(runs, there)
        expected = twin.send(slots)
        assert sender.send(batch) == len(expected)
        into = PacketBatch(capacity, arena_size=ARENA)
        for end in (there[0], there[2]):
            wanted = [slow.receive(d, ROOM) for d in expected if d.destination == end.address]
            assert all_of(receiver, end, into, len(wanted)) == wanted
