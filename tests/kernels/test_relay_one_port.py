"""The relay kernel with one port against its slow twin, on sockets of this host's loopback."""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.relay_ends import Address, address_of, both_families, received, send, udp_socket
from reference.relay import Channel, Control, OnePort, Sent

from firezone._ext.relay import Forwarder, Notice
from firezone._ext.ring import Ring

OFFLOADS = [(gso, gro) for gso in (True, False) for gro in (True, False)]
STUN = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)
PUBLIC = {4: b"\xc6\x33\x64\x01", 6: b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01"}
"""A documentation address, so nothing comes from there: own datagrams take the loopback."""


class Ends:
    """Listeners, and six sockets that are clients and peers of one another."""

    def __init__(self) -> None:
        self.listeners = both_families()
        self.others = [udp_socket(family) for family in (4, 4, 4, 6, 6, 6)]
        self.ring = Ring(2048)

    @property
    def port(self) -> int:
        port: int = self.listeners[4].getsockname()[1]
        return port

    def own(self, family: int) -> Address:
        return address_of(self.listeners[family])

    def forwarder(self, **options: bool) -> Forwarder:
        made = Forwarder(os.urandom(16), self.ring, **options)
        for family, listener in self.listeners.items():
            made.add(listener.fileno(), family, self.port, True, 0, PUBLIC[family])
        return made


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    for end in (*made.listeners.values(), *made.others):
        end.close()


def data(number: int, payload: bytes) -> bytes:
    return struct.pack(">HH", number, len(payload)) + payload


def wireguard(kind: int, index: int, size: int) -> bytes:
    return struct.pack("<BxxxI", kind, index) + bytes(size - 8)


numbers = st.sampled_from([0x4000, 0x4001])
which = st.integers(0, 5)
indices = st.integers(0, 2)
payloads = st.one_of(
    st.binary(max_size=40),
    st.builds(wireguard, st.just(4), indices, st.integers(31, 60)),
    st.builds(wireguard, st.just(4), indices, st.sampled_from([1000, 2000])),
    st.sampled_from([wireguard(1, 1, 148), wireguard(2, 1, 92), wireguard(3, 1, 64)]),
    st.sampled_from([wireguard(1, 1, 147), STUN, STUN[:-1], STUN + b"abcd"]),
)
datagrams = st.one_of(
    payloads,
    st.builds(data, numbers, payloads),
    st.builds(lambda n, p: data(n, p)[:-1], numbers, payloads),
    st.builds(lambda n, p: data(n, p) + b"pad", numbers, payloads),
)
bursts = st.builds(
    lambda index, size, count, last: [
        *([wireguard(4, index, size)] * count),
        wireguard(4, index, min(size, last)),
    ],
    indices,
    st.integers(32, 500),
    st.integers(1, 66),
    st.integers(8, 500),
)
orders = st.one_of(
    st.tuples(st.just("bind"), which, numbers, st.integers(-2, 5)),
    st.tuples(st.just("steer"), st.integers(-2, 5), st.integers(-2, 2), which, numbers),
    st.tuples(st.just("unsteer"), st.integers(-2, 5), st.integers(-2, 2)),
    st.tuples(st.just("permit"), which),
    st.tuples(st.just("forbid"), which),
    st.tuples(st.just("meet"), which),
    st.tuples(st.just("part"), which),
    st.tuples(st.just("send"), which, st.lists(datagrams, max_size=6)),
    st.tuples(st.just("send"), which, bursts),
    st.tuples(
        st.just("send"), which, bursts.map(lambda sent: [data(0x4000, each) for each in sent])
    ),
)


class Pair:
    """Kernel and twin, and what the twin says must arrive."""

    def __init__(self, ends: Ends, gso: bool, gro: bool) -> None:
        self.ends = ends
        self.twin = OnePort({family: ends.own(family) for family in (4, 6)})
        self.kernel = ends.forwarder(gso=gso, gro=gro)
        self.expected: dict[Address, list[bytes]] = defaultdict(list)
        self.controls: dict[Address, list[bytes]] = defaultdict(list)

    def address(self, which: int) -> Address:
        """One of the others, or below 0 our own."""
        return self.ends.own(4 if which == -1 else 6) if which < 0 else self.other(which)

    def other(self, which: int) -> Address:
        return address_of(self.ends.others[which])

    def bind(self, client: int, number: int, peer: int) -> None:
        """Once each: a channel of this relay keeps its peer."""
        who, to = self.other(client), self.address(peer)
        channel = Channel(who, self.ends.own(who[0]), number, 1 + client, to)
        taken = self.twin.back.get((channel.port, to))
        if (who, channel.local, number) in self.twin.forward or taken is not None:
            return
        self.twin.bind(channel)
        source = self.ends.own(to[0])[1]
        self.kernel.bind(*channel, 0, source)

    def steer(self, peer: int, index: int, client: int, number: int) -> None:
        who, to = self.other(client), self.address(peer)
        channel = self.twin.forward.get((who, self.ends.own(who[0]), number))
        if index == OnePort.ANY and channel is None:
            self.kernel.steer(to, index)
        elif channel is not None:
            self.kernel.steer(to, index, *channel[:3])
        else:
            with pytest.raises(ValueError, match="no channel"):
                self.kernel.steer(to, index, who, self.ends.own(who[0]), number)
            return
        self.twin.steers[to, index] = channel

    def unsteer(self, peer: int, index: int) -> None:
        key = (self.address(peer), index)
        assert self.kernel.unsteer(*key) is (key in self.twin.steers)
        self.twin.steers.pop(key, None)

    def permit(self, peer: int) -> None:
        address = (*self.other(peer)[:2], 0)
        self.kernel.steer(address, OnePort.ADDRESS)
        self.twin.steers[address, OnePort.ADDRESS] = None

    def forbid(self, peer: int) -> None:
        key = ((*self.other(peer)[:2], 0), OnePort.ADDRESS)
        assert self.kernel.unsteer(*key) is (key in self.twin.steers)
        self.twin.steers.pop(key, None)

    def meet(self, client: int) -> None:
        who = self.other(client)
        self.kernel.steer(who, OnePort.CLIENT)
        self.twin.steers[who, OnePort.CLIENT] = None

    def part(self, client: int) -> None:
        key = (self.other(client), OnePort.CLIENT)
        assert self.kernel.unsteer(*key) is (key in self.twin.steers)
        self.twin.steers.pop(key, None)

    def send(self, which: int, sent: list[bytes]) -> None:
        source = self.other(which)
        for datagram in sent:
            match self.twin.from_anyone(source, self.ends.own(source[0]), datagram):
                case Sent(_, destination, payload):
                    self.expected[destination].append(payload)
                case Control(_, remote, payload):
                    self.controls[remote].append(payload)
        send(self.ends.others[which], self.ends.own(source[0]), sent)
        while self.kernel.turn():
            pass

    def check(self) -> None:
        for which, end in enumerate(self.ends.others):
            found = received(end)
            assert all(source[2] == self.ends.port for source, _ in found)
            mine = self.expected.pop(self.other(which), [])
            assert sorted(payload for _, payload in found) == sorted(mine)
        assert not any(self.expected.values())
        controls: dict[Address, list[bytes]] = defaultdict(list)
        while (item := self.ends.ring.pop()) is not None:
            assert item[0] in (Notice.STUN, Notice.DATA)
            controls[item[5]].append(item[3])
        assert {k: sorted(v) for k, v in controls.items()} == {
            k: sorted(v) for k, v in self.controls.items()
        }
        assert self.kernel.drops() == {k: n for k, n in self.twin.drops.items() if n}

    def close(self) -> None:
        for peer, index in self.twin.steers:
            assert self.kernel.unsteer(peer, index)
        for client, local, number in self.twin.forward:
            assert self.kernel.unbind(client, local, number)
        assert len(self.kernel) == 0
        assert self.kernel.settle()


@pytest.mark.parametrize(("gso", "gro"), OFFLOADS)
@settings(max_examples=60, deadline=None)
@given(script=st.lists(orders, max_size=14))
def test_kernel_and_twin_agree(
    ends: Ends, gso: bool, gro: bool, script: list[tuple[str, ...]]
) -> None:
    pair = Pair(ends, gso, gro)
    for name, *arguments in script:
        getattr(pair, name)(*arguments)
    pair.check()
    pair.close()


# What the twin cannot tell


def test_data_between_two_clients_is_merged_both_times(ends: Ends) -> None:
    """It crosses our own sockets, once in each direction, by the loopback."""
    pair = Pair(ends, gso=True, gro=True)
    if not (pair.kernel.gso and pair.kernel.gro):
        pytest.skip("needs UDP_SEGMENT and UDP_GRO")
    pair.bind(0, 0x4000, -1)
    pair.bind(1, 0x4001, -1)
    pair.steer(-1, OnePort.ANY, 5, 0x4000)
    pair.steer(-1, 7, 1, 0x4001)
    pair.send(0, [data(0x4000, wireguard(4, 7, 1000))] * 20)
    pair.check()
    (up, _, up_calls), (down, _, down_calls) = pair.kernel.traffic()
    assert (up, down) == (20, 20)
    assert (up_calls, down_calls) == (1, 1)
    pair.close()


@pytest.mark.parametrize("inner", [data(0x4000, b"inner"), STUN, b"\x00\x03" + STUN[2:], b"\xff"])
def test_nothing_of_our_own_is_a_clients(ends: Ends, inner: bytes) -> None:
    """What two clients of ours tell each other is never looked at as a client's message."""
    pair = Pair(ends, gso=True, gro=True)
    prefix = (b"\x01\x01" + STUN[2:], b"\x01\x13" + STUN[2:], bytes(32))
    pair.kernel.answer_strangers(*prefix)
    own, client = ends.own(4), pair.other(0)
    pair.kernel.bind(client, own, 0x4000, 1, own, 0, own[1])
    pair.kernel.steer(own, OnePort.ANY)
    # Even if it had come to that, as it never may:
    pair.kernel.bind(own, own, 0x4000, 2, pair.other(1), 0, own[1])
    send(ends.others[0], own, [data(0x4000, inner)])
    while pair.kernel.turn():
        pass
    assert all(received(end) == [] for end in ends.others)
    assert pair.kernel.answered() == (0, 0)
    item = ends.ring.pop()
    if item is not None:  # as what a client said to a peer
        assert (item[0], item[3]) == (Notice.STUN, data(0x4000, inner))
    assert pair.kernel.traffic()[0][0] <= 1
    pair.kernel.unsteer(own, OnePort.ANY)
    pair.kernel.unbind(client, own, 0x4000)
    pair.kernel.unbind(own, own, 0x4000)


def test_nobody_speaks_to_a_client_in_our_name(ends: Ends) -> None:
    """A channel to another client's own address: what leaves comes from where our messages do."""
    pair = Pair(ends, gso=True, gro=True)
    pair.bind(0, 0x4000, 1)
    pair.meet(1)
    pair.send(0, [data(0x4000, each) for each in (data(0x4001, b"forged"), b"\x7f", b"", b"\x80")])
    assert pair.expected[pair.other(1)] == [b"", b"\x80"]
    assert pair.kernel.drops() == {"disguised": 2}
    pair.check()
    pair.part(1)
    pair.send(0, [data(0x4000, data(0x4001, b"for a mere peer"))])
    assert pair.expected[pair.other(1)] == [data(0x4001, b"for a mere peer")]
    pair.check()
    pair.close()


def test_misuse_is_refused(ends: Ends) -> None:
    pair = Pair(ends, gso=True, gro=True)
    client, peer, own = pair.other(0), pair.other(1), ends.own(4)
    with pytest.raises(ValueError, match="no channel"):
        pair.kernel.steer(peer, 1, client, own, 0x4000)
    pair.kernel.bind(client, own, 0x4000, 1, peer, 0, own[1])
    pair.kernel.steer(peer, 1, client, own, 0x4000)
    with pytest.raises(ValueError, match="steered"):
        pair.kernel.unbind(client, own, 0x4000)
    with pytest.raises(ValueError, match="steered"):
        pair.kernel.bind(client, own, 0x4000, 1, pair.other(2), 0, own[1])
    for index in (-5, 1 << 32):
        with pytest.raises(ValueError, match="32 bits"):
            pair.kernel.steer(peer, index)
    with pytest.raises(ValueError, match="family"):
        pair.kernel.bind(client, own, 0x4001, 1, pair.other(2), 0, PUBLIC[6])
    with pytest.raises(ValueError, match="no worker"):
        pair.kernel.bind(client, own, 0x4001, 1, pair.other(2), 1, own[1])
    assert pair.kernel.unsteer(peer, 1)
    assert not pair.kernel.unsteer(peer, 1)
    assert pair.kernel.unbind(client, own, 0x4000)
