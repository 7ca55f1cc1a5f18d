"""The relay kernel against its slow twin, on sockets of this host's loopback."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.relay_ends import Address, Ends, address_of, received, send, udp_socket
from reference.relay import Channel, Control, Sent, endpoint
from reference.relay import Forwarder as Twin

from firezone import stun
from firezone._ext.relay import Forwarder, Notice
from firezone._ext.ring import Ring
from firezone.stun import Class, Message, Method

OFFLOADS = [(gso, gro) for gso in (True, False) for gro in (True, False)]
UDPLITE = 136
STUN = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    with Ends() as made:
        yield made


def data(number: int, payload: bytes) -> bytes:
    return struct.pack(">HH", number, len(payload)) + payload


# Against the twin

numbers = st.sampled_from([0x4000, 0x4001, 0x7FFF])
third = st.integers(0, 2)
payloads = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda size, byte: bytes([byte]) * size, st.integers(0, 3000), st.integers(0, 255)),
)
datagrams = st.one_of(
    st.builds(data, numbers, payloads),
    st.builds(lambda n, p, pad: data(n, p) + bytes(pad), numbers, payloads, st.integers(0, 3)),
    st.builds(lambda n, p: data(n, p)[:-1], numbers, payloads),
    st.binary(max_size=8),
    st.builds(lambda rest: STUN + rest, st.binary(max_size=8)),
)


@st.composite
def bursts(draw: st.DrawFn) -> list[bytes]:
    """Datagrams of one size and a shorter one, as merging senders emit them."""
    number, size, count = draw(numbers), draw(st.integers(1, 800)), draw(st.integers(1, 70))
    last = draw(st.integers(0, size))
    made = [data(number, bytes([i % 256]) * size) for i in range(count)]
    return [*made, data(number, bytes(last))]


@st.composite
def peer_bursts(draw: st.DrawFn) -> list[bytes]:
    return [datagram[4:] for datagram in draw(bursts())]


fifth, amounts = st.integers(0, 4), st.integers(1, 70)


def same(peer: int, size: int, count: int) -> list[tuple[int, bytes]]:
    return [(peer, bytes([i % 256]) * size) for i in range(count)]


orders = st.one_of(
    st.tuples(st.just("bind"), third, numbers, st.integers(0, 1), third),
    st.tuples(st.just("unbind"), third, numbers),
    st.tuples(st.just("permit"), third, third, st.integers(0, 1), st.booleans()),
    st.tuples(st.just("forbid"), third, st.integers(0, 1)),
    st.tuples(st.just("send"), third, st.lists(st.tuples(fifth, payloads), max_size=6)),
    st.tuples(st.just("send"), third, st.builds(same, fifth, st.integers(1, 800), amounts)),
    st.tuples(st.just("client"), third, st.lists(datagrams, max_size=6)),
    st.tuples(st.just("client"), third, bursts()),
    st.tuples(st.just("peer"), third, st.integers(0, 1), st.lists(payloads, max_size=6)),
    st.tuples(st.just("peer"), third, st.integers(0, 1), peer_bursts()),
)


def send_indication(peer: Address, payload: bytes) -> bytes:
    message = Message.indication(Method.SEND, os.urandom)
    message = message.with_(stun.XOR_PEER_ADDRESS, endpoint(peer))
    return message.with_(stun.DATA, payload).encode()


def known(payload: bytes) -> tuple[object, bytes]:
    """What it belongs to, besides its addresses, and a Data without its transaction id."""
    if payload[:2] != b"\x00\x17":
        return payload[:2], payload
    message = stun.decode(payload)
    assert (message.class_, message.method) == (Class.INDICATION, Method.DATA)
    assert message.encode() == payload
    bare = Message(message.class_, message.method, bytes(12), message.attributes)
    return message.get(stun.XOR_PEER_ADDRESS), bare.encode()


def without(merged: list[bytes], first: list[bytes], second: list[bytes]) -> list[bytes]:
    """The second of two lists that were merged, if these were."""
    taken = {0}  # how many of the first may be among those seen
    for count, payload in enumerate(merged):
        more = {i + 1 for i in taken if first[i : i + 1] == [payload]}
        taken = more | {i for i in taken if second[count - i : count - i + 1] == [payload]}
    assert len(first) in taken and len(merged) == len(first) + len(second)
    return second


class Pair:
    """Kernel and twin, and what the twin says must arrive."""

    def __init__(self, ends: Ends, gso: bool, gro: bool) -> None:
        self.ends = ends
        self.twin = Twin({address_of(end)[::2] for pair in ends.relays for end in pair.values()})
        self.kernel = ends.forwarder(gso=gso, gro=gro)
        self.expected: dict[tuple[object, ...], list[bytes]] = defaultdict(list)
        self.by_send: dict[tuple[object, ...], list[bytes]] = defaultdict(list)
        """Of that what peers get by Send, whose order is its own."""
        self.controls: dict[object, list[bytes]] = defaultdict(list)

    def bind(self, client: int, number: int, relay: int, peer: int) -> None:
        who, port = self.ends.clients[client], self.ends.relay_port(relay)
        channel = Channel(
            *(address_of(who), self.ends.local(who), number),
            *(port, address_of(self.ends.peers[peer])),
        )
        taken = self.twin.back.get((port, channel.peer))
        if taken is not None and taken[:3] != channel[:3]:
            with pytest.raises(ValueError, match="another channel"):
                self.kernel.bind(*channel)
            return
        self.twin.bind(channel)
        self.kernel.bind(*channel)

    def unbind(self, client: int, number: int) -> None:
        who = self.ends.clients[client]
        known = self.twin.unbind(address_of(who), self.ends.local(who), number)
        assert self.kernel.unbind(address_of(who), self.ends.local(who), number) is known

    def permit(self, client: int, peer: int, relay: int, any_port: bool) -> None:
        who, whom = self.ends.clients[client], address_of(self.ends.peers[peer])
        where = (address_of(who), self.ends.local(who), self.ends.relay_port(relay))
        if self.twin.permit(*where, whom, any_port):
            self.kernel.permit(*where, *whom[:2], any_port)
            return
        with pytest.raises(ValueError, match="another"):
            self.kernel.permit(*where, *whom[:2], any_port)

    def forbid(self, peer: int, relay: int) -> None:
        family, address, _ = whom = address_of(self.ends.peers[peer])
        known = self.twin.forbid(whom, self.ends.relay_port(relay))
        assert self.kernel.forbid(family, address, self.ends.relay_port(relay)) is known

    def from_client(self, client: int, sent: list[bytes]) -> None:
        who = self.ends.clients[client]
        for datagram in sent:
            match self.twin.from_client(address_of(who), self.ends.local(who), datagram):
                case Sent(port, destination, payload):
                    self.arrive(port, destination, payload, datagram[0] < 0x40)
                case Control(local, remote, payload):
                    self.controls[local, remote].append(payload)
        send(who, self.ends.local(who), sent)

    def arrive(self, port: int, destination: Address, payload: bytes, by_send: bool) -> None:
        """At a peer, or at an allocation, for it may be one's peer, too."""
        for relay in (0, 1):
            opened = self.ends.relays[relay][destination[0]]
            if address_of(opened) == destination:
                source = (destination[0], destination[1], port)
                self.handle_peer(self.ends.relay_port(relay), source, payload)
                return
        expected = self.by_send if by_send else self.expected
        expected[destination, port].append(payload)

    def from_peer(self, peer: int, relay: int, sent: list[bytes]) -> None:
        who, port = self.ends.peers[peer], self.ends.relay_port(relay)
        opened = self.ends.relays[relay][address_of(who)[0]]
        for datagram in sent:
            self.handle_peer(port, address_of(who), datagram)
        send(who, address_of(opened), sent)

    def handle_peer(self, port: int, peer: Address, datagram: bytes) -> None:
        found = self.twin.from_peer(port, peer, datagram)
        if found is not None:
            what, payload = known(found.payload)
            self.expected[found.destination, found.port, what].append(payload)

    def send(self, client: int, sent: list[tuple[int, bytes]]) -> None:
        """Send indications to peers, and to allocations."""
        relays = [relay[4] for relay in self.ends.relays]
        whom = [address_of(end) for end in (*self.ends.peers, *relays)]
        self.from_client(client, [send_indication(whom[to], data) for to, data in sent])

    def check(self) -> None:
        """Everything arrived, in order within each channel and without one, and nothing else."""
        self.ends.turn(self.kernel)
        arrived: dict[tuple[object, ...], list[bytes]] = defaultdict(list)
        for client in self.ends.clients:
            for source, payload in received(client):
                what, bare = known(payload)
                arrived[address_of(client), source[2], what].append(bare)
        for peer in self.ends.peers:
            for source, payload in received(peer):
                arrived[address_of(peer), source[2]].append(payload)
        for key, sent in self.by_send.items():
            arrived[key] = without(arrived.pop(key), sent, self.expected.get(key, []))
        assert {k: v for k, v in arrived.items() if v} == self.expected
        self.expected.clear()
        self.by_send.clear()
        controls: dict[object, list[bytes]] = defaultdict(list)
        for ring in self.ends.rings:
            while (item := ring.pop()) is not None:
                kind, _, _, payload, local, remote = item
                assert kind == Notice.STUN
                controls[local, remote].append(payload)
        assert controls == self.controls and self.kernel.settle()
        self.controls.clear()
        assert self.kernel.drops() == +self.twin.drops
        assert len(self.kernel) == len(self.twin.forward)


@pytest.mark.parametrize(
    ("gso", "gro", "workers"), [*((*offload, 1) for offload in OFFLOADS), (True, True, 2)]
)
@settings(max_examples=60, deadline=None)
@given(turns=st.lists(st.lists(orders, max_size=8), max_size=5))
def test_agrees_with_the_twin(
    gso: bool, gro: bool, workers: int, turns: list[list[tuple[object, ...]]]
) -> None:
    with Ends(workers) as ends:
        carry_out(Pair(ends, gso, gro), turns)


def carry_out(pair: Pair, turns: list[list[tuple[object, ...]]]) -> None:
    """Orders of one turn come first, then its datagrams all at once."""
    for turn in turns:
        for order in turn:
            match order:
                case ("bind", int(client), int(number), int(relay), int(peer)):
                    pair.bind(client, number, relay, peer)
                case ("unbind", int(client), int(number)):
                    pair.unbind(client, number)
                case ("permit", int(client), int(peer), int(relay), bool(any_port)):
                    pair.permit(client, peer, relay, any_port)
                case ("forbid", int(peer), int(relay)):
                    pair.forbid(peer, relay)
        for order in turn:
            match order:
                case ("client", int(client), list(sent)):
                    pair.from_client(client, sent)
                case ("send", int(client), list(sent)):
                    pair.send(client, sent)
                case ("peer", int(peer), int(relay), list(sent)):
                    pair.from_peer(peer, relay, sent)
        pair.check()


# Merging


class One:
    """One client, one channel, one peer."""

    def __init__(self, ends: Ends, **options: bool) -> None:
        self.ends, self.kernel = ends, ends.forwarder(**options)
        self.client, self.peer = ends.clients[0], ends.peers[0]
        self.relay = ends.relays[0][4]
        self.listener = ends.local(self.client)
        self.bind(self.peer)
        for end in (*ends.clients, *ends.peers):
            received(end)  # what other tests have left

    def bind(self, peer: socket.socket) -> None:
        port = self.ends.relay_port(0)
        client = address_of(self.client)
        self.kernel.bind(client, self.listener, 0x4000, port, address_of(peer))

    def to_peer(self, *sent: bytes) -> list[bytes]:
        send(self.client, self.listener, [data(0x4000, payload) for payload in sent])
        self.ends.turn(self.kernel)
        return [payload for _, payload in received(self.peer)]

    def to_client(self, *sent: bytes) -> list[bytes]:
        send(self.peer, address_of(self.relay), list(sent))
        self.ends.turn(self.kernel)
        return [payload for _, payload in received(self.client)]


@pytest.mark.parametrize(("gso", "gro"), OFFLOADS)
def test_equal_sizes_leave_together(ends: Ends, gso: bool, gro: bool) -> None:
    one = One(ends, gso=gso, gro=gro)
    sent = [os.urandom(1000)] * 50 + [b"the shorter last one"]
    assert one.to_peer(*sent) == sent
    assert one.to_client(*sent) == [data(0x4000, payload) for payload in sent]
    calls = 1 if gso else 51
    assert one.kernel.traffic() == ((51, 50_020, calls), (51, 50_020, calls))


def test_runs_end_at_64_datagrams_and_64_kibibytes(ends: Ends) -> None:
    one = One(ends)
    for count, size, calls in [(64, 100, 1), (65, 100, 2), (59, 1089, 1), (60, 1089, 2)]:
        before = one.kernel.traffic()[1][2]
        for _ in range(count):
            send(one.peer, address_of(one.relay), [bytes(size)])
        ends.turn(one.kernel)
        assert len(received(one.client)) == count
        assert one.kernel.traffic()[1][2] - before == calls, (count, size)


def test_interleaved_channels_leave_together(ends: Ends) -> None:
    one = One(ends)
    other = ends.clients[1]
    port, peer = ends.relay_port(1), address_of(ends.peers[1])
    one.kernel.bind(address_of(other), ends.local(other), 0x4000, port, peer)
    for i in range(20):
        for client in (one.client, other):
            send(client, one.listener, [data(0x4000, bytes([i]) * 100)])
    ends.turn(one.kernel)
    for sink in ends.peers[:2]:
        assert [payload[0] for _, payload in received(sink)] == list(range(20))
    assert one.kernel.traffic()[0] == (40, 4000, 2)


def test_largest_and_smallest(ends: Ends) -> None:
    one = One(ends)
    for payload in (b"", b"1", bytes(65_503), bytes(65_500)):
        assert one.to_peer(payload) == [payload]
        assert one.to_client(payload) == [data(0x4000, payload)]
    assert one.to_client(bytes(65_504)) == []  # with its header it fits no datagram
    assert one.kernel.drops() == {"send_to_client_EMSGSIZE": 1}


@pytest.mark.parametrize("family", [4, 6])
def test_ecn_is_carried_over(ends: Ends, family: int) -> None:
    """The tunnel inside feels the congestion of both legs (RFC 8656 section 14)."""
    one = One(ends)
    client, peer = ends.clients[0 if family == 4 else 2], ends.peers[0 if family == 4 else 2]
    where = (address_of(client), ends.local(client), 0x4002, ends.relay_port(1), address_of(peer))
    one.kernel.bind(*where)
    v4 = family == 4
    level, option = (socket.IPPROTO_IP, socket.IP_TOS) if v4 else (41, socket.IPV6_TCLASS)
    ask = 13 if v4 else socket.IPV6_RECVTCLASS
    relay = address_of(ends.relays[1][family])
    ways = [(client, ends.local(client), peer), (peer, relay, client)]
    for source, to, sink in ways:
        sink.setsockopt(level, ask, 1)
        for ecn in (0, 1, 2, 3):
            source.setsockopt(level, option, ecn)
            send(source, to, [data(0x4002, b"payload")])
            ends.turn(one.kernel)
            _, control, _, _ = sink.recvmsg(2048, 64)
            assert int.from_bytes(control[0][2], "little") == ecn
        source.setsockopt(level, option, 0)
        sink.setsockopt(level, ask, 0)


def test_device_that_refuses_is_not_asked_again(ends: Ends) -> None:
    """UDP-Lite stands in for it: the kernel answers EIO there, too."""
    one = One(ends)
    try:
        lite, peer = udp_socket(4, protocol=UDPLITE), udp_socket(4, protocol=UDPLITE)
    except OSError:
        pytest.skip("no UDP-Lite")
    with closing(lite), closing(peer):
        port = address_of(lite)[2]
        one.kernel.add(lite.fileno(), 4, port)
        client = address_of(one.client)
        one.kernel.bind(client, one.listener, 0x4005, port, address_of(peer))
        sent = [bytes([i]) * 500 for i in range(40)]
        for _ in range(2):
            send(one.client, one.listener, [data(0x4005, payload) for payload in sent])
            ends.turn(one.kernel)
            assert [payload for _, payload in received(peer)] == sent
        kind, family, error, *_ = ends.ring.pop() or (0, 0, 0)
        assert (kind, family, error) == (Notice.GSO_REFUSED, 4, errno.EIO)
        assert ends.ring.pop() is None and one.kernel.drops() == {}
        assert one.to_peer(*sent) == sent  # other sockets go on
        assert one.kernel.traffic()[0] == (120, 60_000, 81)
        one.kernel.unbind(client, one.listener, 0x4005)
        one.kernel.remove(4, port)
        assert one.kernel.settle()


# The tables


def test_another_peer_replaces_the_former(ends: Ends) -> None:
    one = One(ends)
    one.bind(ends.peers[1])
    assert one.to_peer(b"moved") == [] and len(one.kernel) == 1
    assert received(ends.peers[1])[0][1] == b"moved"
    assert one.to_client(b"no longer") == []
    assert one.kernel.drops() == {"unbound_peer": 1}


def test_unbinding_reflects_at_once(ends: Ends) -> None:
    one = One(ends)
    assert one.to_peer(b"bound") == [b"bound"]
    assert one.kernel.unbind(address_of(one.client), one.listener, 0x4000)
    assert one.to_peer(b"unbound") == [] == one.to_client(b"unbound")
    assert one.kernel.drops() == {"unbound_channel": 1, "unbound_peer": 1}
    one.bind(one.peer)
    assert one.to_peer(b"again") == [b"again"]


def test_tables_grow_and_shrink(ends: Ends) -> None:
    one = One(ends)
    client, port = address_of(one.client), ends.relay_port(1)
    peers = [(4, struct.pack(">I", 0x0A000000 + i), 4000 + i % 7) for i in range(15_000)]
    for number, peer in enumerate(peers, 0x4001):
        one.kernel.bind(client, one.listener, number, port, peer)
    assert len(one.kernel) == 15_001 and one.kernel.settle()
    for number in range(0x4001, 0x4001 + len(peers)):
        assert one.kernel.unbind(client, one.listener, number)
        if number % 1000 == 0:
            assert one.to_peer(b"still there") == [b"still there"]
    assert len(one.kernel) == 1 and one.kernel.settle()


def test_misuse_is_refused(ends: Ends) -> None:
    one = One(ends)
    client, peer, port = address_of(one.client), address_of(one.peer), ends.relay_port(0)
    with pytest.raises(ValueError, match="channels"):
        one.kernel.remove(4, port)
    with pytest.raises(ValueError, match="no socket"):
        one.kernel.bind(client, one.listener, 0x4001, 1, peer)
    with pytest.raises(ValueError, match="no socket"):
        one.kernel.bind(client, one.listener, 0x4001, one.listener[2], peer)
    with pytest.raises(ValueError, match="0x4000"):
        one.kernel.bind(client, one.listener, 0x3FFF, port, ends.local(ends.clients[2]))
    with pytest.raises(ValueError, match="family"):
        one.kernel.bind(client, ends.local(ends.clients[2]), 0x4001, port, peer)
    with pytest.raises(ValueError, match="port or number"):
        one.kernel.bind(client, one.listener, 0x4001, port, (4, bytes(4), 0))
    with pytest.raises(ValueError, match="no socket"):
        one.kernel.permit(client, one.listener, one.listener[2], 4, bytes(4))
    with pytest.raises(ValueError, match="no socket"):
        one.kernel.permit(client, (*one.listener[:2], 9), port, 4, bytes(4))
    with pytest.raises(ValueError, match="family"):
        one.kernel.permit(client, one.listener, port, 6, bytes(4))
    with pytest.raises(ValueError, match="family"):
        one.kernel.permit(client, ends.local(ends.clients[2]), port, 4, bytes(4))
    one.kernel.permit(client, one.listener, port, 4, bytes(4))
    with pytest.raises(ValueError, match="permits"):
        one.kernel.remove(4, port)
    assert one.kernel.forbid(4, bytes(4), port)
    for short in range(3):
        three = [
            end[: 2 if i == short else 3] for i, end in enumerate((client, one.listener, peer))
        ]
        with pytest.raises(ValueError, match="unpack"):
            one.kernel.bind(three[0], three[1], 0x4001, port, three[2])
    with pytest.raises(ValueError, match="there is a socket"):
        one.kernel.add(one.relay.fileno(), 4, port)
    with pytest.raises(ValueError, match="16 bytes"):
        Forwarder(b"short", ends.ring)
    with pytest.raises(OSError, match="socket of the relay"):
        one.kernel.add(0x7FFFFFFF, 4, 9)


# The loop


class Running:
    """The loop in a thread."""

    def __init__(self, kernel: Forwarder) -> None:
        self.kernel = kernel
        self.thread = threading.Thread(target=kernel.run)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.kernel.stop()
        self.thread.join(5)
        assert not self.thread.is_alive()


def wait_for(sink: socket.socket, wanted: int) -> int:
    deadline, count = time.monotonic() + 5, 0
    while count < wanted and time.monotonic() < deadline:
        count += len(received(sink))
    return count


def test_loop_runs_and_stops_and_runs_again(ends: Ends) -> None:
    one = One(ends)
    for _ in range(3):
        with Running(one.kernel):
            send(one.client, one.listener, [data(0x4000, b"payload")] * 10)
            assert wait_for(one.peer, 10) == 10
            with pytest.raises(ValueError, match="runs already"):
                one.kernel.turn()


def test_sockets_and_channels_change_under_the_loop(ends: Ends) -> None:
    """What is removed is used no more once `settle` returns: its descriptor may be another's."""
    one = One(ends)
    client = address_of(one.client)
    stop = threading.Event()

    def flood() -> None:
        with closing(udp_socket(4)) as stranger:
            while not stop.is_set():
                send(one.client, one.listener, [data(0x4000, bytes(300))] * 30)
                send(one.client, one.listener, [data(0x4100, bytes(300))] * 30)
                send(stranger, one.listener, [data(0x4000, bytes(300))] * 30)

    flooding = threading.Thread(target=flood)
    with Running(one.kernel):
        flooding.start()
        try:
            for _ in range(300):
                with closing(udp_socket(4)) as relay:
                    port = address_of(relay)[2]
                    one.kernel.add(relay.fileno(), 4, port)
                    for number in range(0x4100, 0x4120):
                        peer = (4, bytes([127, 0, 0, 1]), 1 + number)
                        one.kernel.bind(client, one.listener, number, port, peer)
                    for number in range(0x4100, 0x4120):
                        one.kernel.unbind(client, one.listener, number)
                    one.kernel.remove(4, port)
                    assert one.kernel.settle(5_000_000_000)
        finally:
            stop.set()
            flooding.join()
    assert one.kernel.traffic()[0][0] > 0


def test_floods_stay_within_the_ring(ends: Ends) -> None:
    ring = Ring(64)
    kernel = Forwarder(os.urandom(16), ring)
    with closing(udp_socket(4)) as listener:
        kernel.add(listener.fileno(), 4, address_of(listener)[2], listens=True)
        for _ in range(20):
            send(ends.clients[0], address_of(listener), [STUN] * 50)
            send(ends.clients[0], address_of(listener), [os.urandom(40)[:20]] * 50)
            while kernel.turn():
                pass
        assert len(ring) == 64 - 16  # the rest is kept for what must not be lost
        assert kernel.drops()["control_overflow"] == 1000 - 48


def test_indications_leave_half_of_the_ring(ends: Ends) -> None:
    """One client's Send must not keep another's Refresh out."""
    ring = Ring(64)
    kernel = Forwarder(os.urandom(16), ring)
    with closing(udp_socket(4)) as listener:
        kernel.add(listener.fileno(), 4, address_of(listener)[2], listens=True)
        send(ends.clients[0], address_of(listener), [b"\x00\x16" + STUN[2:]] * 50)
        while kernel.turn():
            pass
        assert len(ring) == 32
        for kind in (b"\x00\x01", b"\x00\x03", b"\x01\x11", b"\x00\x09"):
            send(ends.clients[0], address_of(listener), [kind + STUN[2:]])
        while kernel.turn():
            pass
        assert len(ring) == 36


def test_broken_allocation_is_told_and_the_others_go_on(ends: Ends) -> None:
    one = One(ends)
    broken = udp_socket(4)
    port = address_of(broken)[2]
    one.kernel.add(broken.fileno(), 4, port)
    send(one.peer, address_of(broken), [b"waiting"])
    copy = os.dup(broken.fileno())  # so that the event loop goes on naming it
    with closing(broken), open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), broken.fileno())
        ends.turn(one.kernel)
        kind, family, argument, *_ = ends.ring.pop() or (0, 0, 0)
        assert (kind, family, argument) == (Notice.SOCKET_FAILED, 4, port)
        assert one.to_peer(b"payload") == [b"payload"]
        one.kernel.remove(4, port)
        assert one.kernel.settle()
    os.close(copy)
