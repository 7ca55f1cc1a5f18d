"""Send and Data in the relay's kernel, against the relay in Python, which is their slow twin."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.relay_ends import Address, Ends, address_of, received, send, udp_socket
from kernels.stun_parts import attributes
from reference.relay import endpoint

from firezone import stun
from firezone._ext.relay import Forwarder, Notice
from firezone._ext.stun import fingerprint as fingerprint_of
from firezone.durations import SECOND
from firezone.model import Endpoint, Transmit
from firezone.stun import Class, Message, Method
from firezone.turn.relay import Relay
from firezone.turn.relay_auth import password_of
from firezone.turn.relay_commands import OpenSocket, Permit, RelayCommand, SendToPeer
from firezone.turn.relay_peers import PeerPolicy

SECRET, USERNAME = "0f" * 32, "4000000000:salt"
UDPLITE, IPV6_MTU = 136, 24
PUBLIC = {"ours": IPv4Address("127.0.0.1"), "not ours": IPv4Address("198.51.100.1")}


class World:
    """One relay in Python and one kernel on the same sockets, and two clients of both.

    The clients are the first and the third one; what the relay permits, the kernel is told.
    """

    def __init__(self, ends: Ends, public: str = "not ours", **options: bool) -> None:
        self.ends, self.kernel = ends, ends.forwarder(**options)
        ports = sorted(ends.relay_port(index) for index in (0, 1))
        self.relay = Relay(
            public_ipv4=PUBLIC[public],
            public_ipv6=IPv6Address("2001:db8::1"),
            listen_port=ends.listen_port,
            ports=range(ports[0], ports[1] + 1, ports[1] - ports[0]),
            auth_secret=SECRET,
            peers=PeerPolicy(allow_loopback=public != "ours"),
            entropy=os.urandom,
            unix_now=1_790_000_000 * SECOND,
            now=0,
        )
        self.clients = [ends.clients[0], ends.clients[2]]
        self.ports = [self.allocate(client) for client in self.clients]

    def ask(self, data: bytes, client: socket.socket) -> list[RelayCommand]:
        """Of the relay in Python. Its sockets are open, and its permissions the kernel's, too."""
        local, source = endpoint(self.ends.local(client)), endpoint(address_of(client))
        self.relay.handle_client_datagram(local, source, data, 0)
        return self.carried_out()

    def carried_out(self) -> list[RelayCommand]:
        done = []
        while (command := self.relay.poll_command()) is not None:
            match command:
                case OpenSocket(port, family):
                    self.relay.handle_socket_opened(port, family, True, 0)
                case Permit((client, local), port, address, any_port) if local is not None:
                    ways = (packed(client), packed(local), port)
                    self.kernel.permit(*ways, address.version, address.packed, any_port)
                case _:
                    done.append(command)
        return done

    def request(self, client: socket.socket, method: Method, *values: Any) -> Message:
        transport = (stun.REQUESTED_TRANSPORT, 17)
        refused = self.answer(client, encoded(Message.request(method, os.urandom), transport))
        nonce = refused.get(stun.NONCE) or ""
        message = Message.request(method, os.urandom)
        key = stun.long_term_key(USERNAME, "firezone", password_of(USERNAME, SECRET) or "")
        names = ((stun.USERNAME, USERNAME), (stun.REALM, "firezone"), (stun.NONCE, nonce))
        return self.answer(client, encoded(message, *values, *names, key=key))

    def answer(self, client: socket.socket, data: bytes) -> Message:
        (answer,) = (c for c in self.ask(data, client) if isinstance(c, Transmit))
        return stun.decode(bytes(answer.payload))

    def allocate(self, client: socket.socket) -> int:
        values = [(stun.REQUESTED_TRANSPORT, 17), (stun.ADDITIONAL_ADDRESS_FAMILY, 6)]
        relayed = self.request(client, Method.ALLOCATE, *values).get(stun.XOR_RELAYED_ADDRESS)
        assert relayed is not None
        return relayed.port

    def permit(self, client: int, *peers: Address) -> None:
        values = [(stun.XOR_PEER_ADDRESS, endpoint(peer)) for peer in peers]
        granted = self.request(self.clients[client], Method.CREATE_PERMISSION, *values)
        assert granted.class_ is Class.SUCCESS

    def opened(self, client: int, family: int) -> socket.socket:
        """The socket of that client's allocation."""
        index = [self.ends.relay_port(i) for i in (0, 1)].index(self.ports[client])
        return self.ends.relays[index][family]

    def indicate(self, client: int, *sent: bytes) -> list[bytes]:
        """Send them all to the kernel; what it handed over."""
        send(self.clients[client], self.ends.local(self.clients[client]), [*sent])
        self.ends.turn(self.kernel)
        found = [item for ring in self.ends.rings for item in iter(ring.pop, None)]
        assert all(item[0] == Notice.STUN for item in found)
        return [item[3] for item in found]

    def sent(self) -> int:
        """Datagrams that the kernel sent, or tried to send, to peers."""
        failed = (v for k, v in self.kernel.drops().items() if k.startswith("send_to_peer"))
        return self.kernel.traffic()[0][0] + sum(failed)


def packed(end: Endpoint) -> Address:
    return (end.family, end.address.packed, end.port)


def encoded(message: Message, *values: Any, key: bytes | None = None, **options: Any) -> bytes:
    for attribute, value in values:
        message = message.with_(attribute, value)
    return message.encode(key, **options)


def a_send(peer: Address, payload: bytes, *values: Any, **options: Any) -> bytes:
    both = [(stun.XOR_PEER_ADDRESS, endpoint(peer)), *values, (stun.DATA, payload)]
    return encoded(Message.indication(Method.SEND, os.urandom), *both, **options)


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    with Ends() as made:
        yield made


@pytest.fixture(autouse=True)
def _fresh(ends: Ends) -> None:
    for end in ends.everyone():
        received(end)
    for ring in ends.rings:
        while ring.pop() is not None:
            pass


# Send


@st.composite
def indications(draw: st.DrawFn, peers: list[Address]) -> bytes:
    """Mostly what a client sends; with more of it, less of it, in another order, or a wrong bit."""
    transaction = draw(st.binary(min_size=12, max_size=12))
    header = b"\x21\x12\xa4\x42" + transaction
    peer, payload = draw(st.sampled_from(peers)), draw(st.binary(max_size=40))
    bare = Message(Class.INDICATION, Method.SEND, transaction)
    parts = [
        bare.with_(stun.XOR_PEER_ADDRESS, endpoint(peer)).encode()[20:],
        bare.with_(stun.DATA, payload).encode()[20:],
    ]
    parts = draw(st.permutations(parts + draw(st.lists(attributes(), max_size=2))))
    if draw(st.integers(0, 9)) == 0:
        parts = parts[1:]
    if draw(st.integers(0, 9)) == 0:
        parts.append(draw(st.sampled_from(parts or [b""])))
    body = b"".join(parts)
    kind = draw(st.sampled_from([b"\x00\x16"] * 9 + [b"\x00\x17"]))
    whole = kind + len(body).to_bytes(2) + header + body
    if draw(st.integers(0, 2)) == 0:
        whole = whole[:2] + (len(body) + 8).to_bytes(2) + whole[4:]
        whole += b"\x80\x28\0\4" + fingerprint_of(whole).to_bytes(4)
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(whole) - 1))
        whole = whole[:at] + bytes([whole[at] ^ 1 << draw(st.integers(0, 7))]) + whole[at + 1 :]
    return whole[: draw(st.integers(20, len(whole)))] if draw(st.integers(0, 9)) == 0 else whole


@pytest.mark.parametrize("public", PUBLIC)
@settings(max_examples=100)
@given(data=st.data())
def test_goes_where_the_relay_in_python_sends_it(
    ends: Ends, public: str, data: st.DataObject
) -> None:
    """Or there, for it to decide; nothing is lost on the way, and nothing goes elsewhere."""
    world, others = World(ends, public), ends.peers
    peers = [address_of(end) for end in others]
    own = [address_of(world.opened(1, family)) for family in (4, 6)]
    world.permit(0, *(peers if public != "ours" else [peers[0]]))
    stranger: Address = (4, bytes([127, 0, 0, 9]), 9)
    for _ in range(data.draw(st.integers(1, 12))):
        client = data.draw(st.sampled_from([0, 0, 0, 1]))
        whole = data.draw(indications([*peers, *own, stranger]))
        before = world.sent()
        handed = world.indicate(client, whole)
        went = [(address_of(end), d) for end in others for _, d in received(end)]
        arrived = world.sent() - before
        if handed:
            assert handed == [whole] and arrived == 0 and went == []
            world.ask(whole, world.clients[client])
            continue
        if whole[0] >= 4 or whole[4:8] != b"\x21\x12\xa4\x42":
            assert arrived == 0 and went == []
            continue
        (command,) = world.ask(whole, world.clients[client])
        assert isinstance(command, SendToPeer) and arrived == 1
        assert command.port == world.ports[client] and not command.dont_fragment
        if packed(command.peer) in peers:
            assert went == [(packed(command.peer), bytes(command.payload))]


@pytest.mark.parametrize("fingerprint", [False, True])
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize(
    "values",
    [
        [],
        [(stun.SOFTWARE, "x" * 127)],
        [(stun.SOFTWARE, "one"), (stun.SOFTWARE, "two")],
        [(stun.Attribute[bytes](0xC057, "OPTIONAL", stun.Layout.opaque()), b"any")],
    ],
)
def test_what_clients_send_needs_no_python(
    ends: Ends, who: int, fingerprint: bool, values: Any
) -> None:
    world = World(ends)
    peers = [address_of(ends.peers[0]), address_of(ends.peers[2])]
    world.permit(who, *peers)
    payloads = [bytes([size % 256]) * size for size in (0, 1, 2, 3, 4, 1200, 5000, 65_000)]
    for peer, sink in zip(peers, (ends.peers[0], ends.peers[2]), strict=True):
        for payload in payloads:
            data = a_send(peer, payload, *values, fingerprint=fingerprint)
            assert world.indicate(who, data) == []
        found = received(sink)
        assert [data for _, data in found] == payloads
        assert {source[2] for source, _ in found} == {world.ports[who]}
    carried = 2 * sum(map(len, payloads))
    assert world.kernel.traffic() == ((16, carried, 16), (0, 0, 0))
    assert world.kernel.indicated() == carried and world.kernel.drops() == {}


@pytest.mark.parametrize(
    "values",
    [
        [(stun.DONT_FRAGMENT, True)],
        [(stun.SOFTWARE, "é")],
        [(stun.XOR_PEER_ADDRESS, Endpoint.of("198.51.100.7", 7))],
        [(stun.DATA, b"first")],
        [(stun.USERNAME, "anna")],
        [(stun.Attribute[bytes](0x0031, "UNKNOWN", stun.Layout.opaque()), b"")],
        [(stun.Attribute[bytes](0x8029, "WRONG", stun.Layout.opaque()), b"")],
    ],
)
def test_the_rest_is_pythons(ends: Ends, values: Any) -> None:
    world, peer = World(ends), address_of(ends.peers[0])
    world.permit(0, peer)
    data = a_send(peer, b"data", *values)
    assert world.indicate(0, data) == [data]
    signed = a_send(peer, b"data", key=b"key")
    wrong = a_send(peer, b"data", fingerprint=True)[:-1] + b"?"
    assert world.indicate(0, signed, wrong) == [signed, wrong]
    assert world.indicate(1, a_send(peer, b"another's")) != []
    assert received(ends.peers[0]) == [] and world.sent() == 0


def test_of_our_own_address_only_allocations(ends: Ends) -> None:
    """Until a list says otherwise; and not those that are gone."""
    world, peer = World(ends, "ours"), address_of(ends.peers[0])
    other = address_of(world.opened(1, 4))
    world.permit(0, other)
    world.permit(1, address_of(world.opened(0, 4)))
    data = a_send(peer, b"data")
    assert world.indicate(0, data) == [data]
    assert world.indicate(0, a_send(other, b"up and down")) == []
    ((_, indication),) = received(world.clients[1])
    assert stun.decode(indication).get(stun.DATA) == b"up and down"
    world.kernel.permit(
        *(address_of(world.clients[0]), ends.local(world.clients[0]), world.ports[0]),
        *(4, other[1], True),
    )
    assert world.indicate(0, data) == []
    assert received(ends.peers[0]) == [((*peer[:2], world.ports[0]), b"data")]


def test_permissions_end_at_once(ends: Ends) -> None:
    world, peers = World(ends), [address_of(end) for end in ends.peers]
    world.permit(0, peers[0], peers[2])
    data = [a_send(peer, b"data") for peer in (peers[0], peers[2])]
    assert world.indicate(0, *data) == []
    assert world.kernel.forbid(*peers[0][:2], world.ports[0])
    assert world.indicate(0, *data) == data[:1]
    send(ends.peers[0], address_of(world.opened(0, 4)), [b"late"])
    assert world.kernel.forbid(*peers[2][:2], world.ports[0])
    assert world.indicate(0, *data) == data
    assert not world.kernel.forbid(*peers[2][:2], world.ports[0])
    assert world.kernel.settle() and world.kernel.drops() == {"unbound_peer": 1}
    assert received(world.clients[0]) == []


# Data


@pytest.mark.parametrize("gro", [True, False])
@pytest.mark.parametrize("who", [0, 1])
def test_data_is_what_the_relay_in_python_says(ends: Ends, who: int, gro: bool) -> None:
    """Byte for byte, but for the transaction id, from the address that the client sends to."""
    world = World(ends, gro=gro)
    payloads = [os.urandom(size) for size in (0, 1, 2, 3, 4, 1201, 1200, 1200, 7000, 60_001)]
    for peer in (ends.peers[0], ends.peers[2]):
        source = address_of(peer)
        world.permit(who, source)
        opened = world.opened(who, source[0])
        send(peer, address_of(opened), payloads)
        ends.turn(world.kernel)
        found = received(world.clients[who])
        assert {local for local, _ in found} == {ends.local(world.clients[who])}
        for payload, (_, data) in zip(payloads, found, strict=True):
            world.relay.handle_peer_datagram(world.ports[who], endpoint(source), payload, 0)
            (command,) = world.carried_out()
            assert isinstance(command, Transmit)
            assert command.destination == endpoint(address_of(world.clients[who]))
            assert with_id(bytes(command.payload), data[8:20]) == data
        assert len({data[8:20] for _, data in found}) == len(payloads)
    assert world.kernel.indicated() == 2 * sum(map(len, payloads))
    assert world.kernel.drops() == {}


def with_id(data: bytes, transaction: bytes) -> bytes:
    """The same message under another transaction id."""
    message = stun.decode(data)
    return Message(message.class_, message.method, transaction, message.attributes).encode()


def test_transaction_ids_differ_between_relays(ends: Ends) -> None:
    seen = set()
    for _ in range(5):
        world, peer = World(ends), ends.peers[0]
        world.permit(0, address_of(peer))
        for _ in range(4):
            send(peer, address_of(world.opened(0, 4)), [b"data"] * 50)
            ends.turn(world.kernel)
            seen |= {data[8:20] for _, data in received(world.clients[0])}
    assert len(seen) == 1000
    assert len({byte for data in seen for byte in data}) == 256


def test_data_that_is_too_long(ends: Ends) -> None:
    world, peer = World(ends), ends.peers[2]
    world.permit(1, address_of(peer))
    for size in (65_527, 65_500, 65_400):
        send(peer, address_of(world.opened(1, 6)), [bytes(size)])
        ends.turn(world.kernel)
    ((_, data),) = received(world.clients[1])
    assert stun.decode(data).get(stun.DATA) == bytes(65_400)
    assert world.kernel.drops() == {"data_too_long": 1, "send_to_client_EMSGSIZE": 1}


# Both


def test_what_they_carry_leaves_together(ends: Ends) -> None:
    world, peer = World(ends), ends.peers[0]
    source = address_of(peer)
    world.permit(0, source)
    payloads = [os.urandom(1001)] * 50 + [b"the shorter last one"]
    relay = address_of(world.opened(0, 4))
    sent = [a_send(source, payload) for payload in payloads]
    assert world.indicate(0, *sent) == []
    assert [data for _, data in received(peer)] == payloads
    send(peer, relay, payloads)
    ends.turn(world.kernel)
    found = [stun.decode(data).get(stun.DATA) for _, data in received(world.clients[0])]
    assert found == payloads
    assert world.kernel.traffic() == ((51, 50_070, 1), (51, 50_070, 1))


def test_peers_of_one_client_interleaved(ends: Ends) -> None:
    """Each in order; those of one address, by their ports, one by one."""
    world, peers = World(ends), ends.peers
    world.permit(0, *(address_of(peer) for peer in peers))
    for turn in range(100):
        assert (
            world.indicate(
                0, *(a_send(address_of(p), bytes([turn, i]) * 9) for i in range(20) for p in peers)
            )
            == []
        )
    for peer in peers:
        wanted = [bytes([turn, i]) * 9 for turn in range(100) for i in range(20)]
        assert [data for _, data in received(peer)] == wanted


def test_more_than_fits_into_one_flush(ends: Ends) -> None:
    """In one read: merged datagrams, each with a header of its own."""
    world, peer = World(ends), ends.peers[0]
    world.permit(0, address_of(peer))
    relay = address_of(world.opened(0, 4))
    payloads = [i.to_bytes(2) * 8 for i in range(64 * 40)]
    for first in range(0, len(payloads), 64):
        send(peer, relay, payloads[first : first + 64])
    ends.turn(world.kernel)
    found = [stun.decode(data).get(stun.DATA) for _, data in received(world.clients[0])]
    assert found == payloads


@pytest.mark.parametrize("family", [4, 6])
def test_ecn_is_carried_over(ends: Ends, family: int) -> None:
    who = 0 if family == 4 else 1
    world, peer = World(ends), ends.peers[0 if family == 4 else 2]
    client, source = world.clients[who], address_of(peer)
    world.permit(who, source)
    v4 = family == 4
    level, option = (socket.IPPROTO_IP, socket.IP_TOS) if v4 else (41, socket.IPV6_TCLASS)
    ask = 13 if v4 else socket.IPV6_RECVTCLASS
    relay = address_of(world.opened(who, family))
    up, down = a_send(source, b"up"), b"down"
    ways = [(client, ends.local(client), up, peer), (peer, relay, down, client)]
    for sender, to, data, sink in ways:
        sink.setsockopt(level, ask, 1)
        for ecn in (0, 1, 2, 3, 0):
            sender.setsockopt(level, option, ecn)
            send(sender, to, [data])
            ends.turn(world.kernel)
            _, control, _, _ = sink.recvmsg(2048, 64)
            assert int.from_bytes(control[0][2], "little") == ecn
        sender.setsockopt(level, option, 0)
        sink.setsockopt(level, ask, 0)


def test_sizes_past_the_mtu_go_one_by_one(ends: Ends) -> None:
    """Of that client and peer only."""
    world, peer = World(ends), ends.peers[2]
    source, other = address_of(peer), ends.peers[0]
    world.permit(0, source, address_of(other))
    world.opened(0, 6).setsockopt(socket.IPPROTO_IPV6, IPV6_MTU, 1280)
    for size, calls in ((1400, 20), (1400, 20), (1000, 1)):
        before = world.kernel.traffic()[0][2]
        assert world.indicate(0, *[a_send(source, bytes(size))] * 20) == []
        assert [data for _, data in received(peer)] == [bytes(size)] * 20
        assert world.kernel.traffic()[0][2] - before == calls
    assert world.indicate(0, *[a_send(address_of(other), bytes(1400))] * 20) == []
    assert world.kernel.traffic()[0][2] == 42 and world.kernel.drops() == {}


def test_device_that_refuses_is_not_asked_again(ends: Ends) -> None:
    """UDP-Lite stands in for it: the kernel answers EIO there, too."""
    try:
        lite, peer = udp_socket(4, protocol=UDPLITE), udp_socket(4, protocol=UDPLITE)
    except OSError:
        pytest.skip("no UDP-Lite")
    kernel, client = ends.forwarder(), ends.clients[0]
    with closing(lite), closing(peer):
        port, whom = address_of(lite)[2], address_of(peer)
        kernel.add(lite.fileno(), 4, port)
        kernel.permit(address_of(client), ends.local(client), port, *whom[:2])
        payloads = [bytes([i]) * 500 for i in range(40)]
        for _ in range(2):
            send(client, ends.local(client), [a_send(whom, payload) for payload in payloads])
            ends.turn(kernel)
            assert [data for _, data in received(peer)] == payloads
        assert (ends.ring.pop() or (0,))[0] == Notice.GSO_REFUSED
        assert ends.ring.pop() is None and kernel.drops() == {}
        kernel.forbid(*whom[:2], port)
        kernel.remove(4, port)
        assert kernel.settle()


def test_what_cannot_be_sent_is_counted(ends: Ends) -> None:
    world, peer = World(ends), (4, bytes([255, 255, 255, 255]), 9)
    where = (address_of(world.clients[0]), ends.local(world.clients[0]), world.ports[0])
    world.kernel.permit(*where, *peer[:2])
    assert world.indicate(0, *[a_send(peer, b"data")] * 3) == []
    assert world.kernel.drops() == {"send_to_peer_EACCES": 3}
    assert world.kernel.traffic()[0] == (0, 0, 0) and world.kernel.indicated() == 0


def test_sends_have_the_right_of_way_before_strangers(ends: Ends) -> None:
    """As data of channels has: a flood gets no more than a part of the time."""
    world = World(ends, gro=False)
    peer, stranger = address_of(ends.peers[0]), ends.clients[1]
    answers = world.relay.stranger_answers
    world.kernel.answer_strangers(answers.binding, answers.challenge, answers.nonce_key)
    world.permit(0, peer)
    local = ends.local(world.clients[0])
    for _ in range(128):
        send(world.clients[0], local, [a_send(peer, b"data")])
    binding = Message.request(Method.BINDING, os.urandom).encode()
    for _ in range(128):
        send(stranger, local, [binding])
    ends.turn(world.kernel)
    assert len(received(ends.peers[0])) == 128
    assert world.kernel.answered()[0] == 32 and world.kernel.drops() == {"control_overflow": 96}


def test_permissions_change_under_the_loops() -> None:
    """What is removed is used no more once `settle` returns: its memory may be another's."""
    with Ends(2) as ends:
        kernel, client, peer = ends.forwarder(), ends.clients[0], ends.peers[0]
        other = ends.clients[1]
        whom, stop = address_of(peer), threading.Event()

        def flood() -> None:
            while not stop.is_set():
                send(client, ends.local(client), [a_send(whom, bytes(300))] * 30)
                for relay in ends.relays:
                    send(peer, address_of(relay[4]), [bytes(300)] * 30)
                received(client)
                received(peer)

        threads = [threading.Thread(target=kernel.run, args=(i,)) for i in range(2)]
        threads.append(threading.Thread(target=flood))
        for thread in threads:
            thread.start()
        try:
            for turn in range(60):
                before = packets(kernel)
                port = ends.relay_port(turn % 2)
                where = (address_of(client), ends.local(client), port)
                for last in range(1, 40):
                    kernel.permit(*where, 4, bytes([127, 0, 0, last]))
                deadline = time.monotonic() + 5
                while min(map(int.__gt__, packets(kernel), before)) is False:
                    assert time.monotonic() < deadline
                    received(other)  # and let others run
                for last in range(1, 40):
                    assert kernel.forbid(4, bytes([127, 0, 0, last]), port)
                assert kernel.settle(5_000_000_000)
        finally:
            stop.set()
            threads.pop().join()
            kernel.stop()
            for thread in threads:
                thread.join(5)
        assert not any(thread.is_alive() for thread in threads)


def packets(kernel: Forwarder) -> tuple[int, int]:
    (up, _, _), (down, _, _) = kernel.traffic()
    return up, down
