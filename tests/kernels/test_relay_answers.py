"""What the relay kernel answers by itself, against the relay in Python, which is its slow twin."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kernels.relay_ends import Address, Ends, address_of, received, send, udp_socket
from kernels.stun_parts import attributes

from firezone import stun
from firezone._ext.relay import Forwarder
from firezone._ext.ring import Ring
from firezone._ext.stun import fingerprint as fingerprint_of
from firezone.durations import SECOND
from firezone.model import Endpoint, Transmit, unpack_address
from firezone.stun import Class, Message, Method
from firezone.turn.relay import Relay
from firezone.turn.relay_auth import NONCE_LIFETIME, NonceMint
from firezone.turn.relay_commands import FiveTuple

TRANSACTION = bytes(range(0xA0, 0xAC))
RELAYS: dict[int, Address] = {
    4: (4, IPv4Address("198.51.100.1").packed, 3478),
    6: (6, IPv6Address("2001:db8::1").packed, 3478),
}
FIELD = stun.REQUESTED_TRANSPORT
COUNTERS = {Method.BINDING: "binding_success", Method.ALLOCATE: "error_401"}


def a_relay(software: str = "relay under test", realm: str = "firezone") -> Relay:
    return Relay(
        public_ipv4=IPv4Address("198.51.100.1"),
        public_ipv6=IPv6Address("2001:db8::1"),
        auth_secret="0f" * 32,
        users={"anna": "password"},
        software=software,
        realm=realm,
        entropy=random.Random(7).randbytes,
        unix_now=1_790_000_000 * SECOND,
        now=0,
    )


def a_kernel(relay: Relay) -> Forwarder:
    made, answers = Forwarder(bytes(16), Ring(64)), relay.stranger_answers
    made.answer_strangers(answers.binding, answers.challenge, answers.nonce_key)
    return made


def endpoint(address: Address) -> Endpoint:
    return Endpoint(unpack_address(address[1]), address[2])


def twins_answer(relay: Relay, data: bytes, client: Address, local: Address, now: int) -> bytes:
    relay.handle_client_datagram(endpoint(local), endpoint(client), data, now)
    answer = relay.poll_command()
    assert isinstance(answer, Transmit)
    assert relay.poll_command() is None
    return bytes(answer.payload)


# Requests


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Mostly those that strangers send, and some with a bit that is wrong."""
    usual, others = st.sampled_from([b"\0\1", b"\0\3"]), [b"\0\4", b"\1\1", b"\0\x11"]
    type_ = draw(usual | usual | st.sampled_from(others))
    body = b"".join(draw(st.lists(attributes(), max_size=4)))
    transaction = draw(st.binary(min_size=12, max_size=12))
    whole = type_ + len(body).to_bytes(2) + b"\x21\x12\xa4\x42" + transaction + body
    if draw(st.booleans()):
        whole = whole[:2] + (len(body) + 8).to_bytes(2) + whole[4:]
        whole += b"\x80\x28\0\4" + fingerprint_of(whole).to_bytes(4)
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(whole) - 1))
        whole = whole[:at] + bytes([whole[at] ^ 1 << draw(st.integers(0, 7))]) + whole[at + 1 :]
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 9)) == 0 else whole


clients: st.SearchStrategy[Address] = st.one_of(
    st.tuples(st.just(4), st.binary(min_size=4, max_size=4), st.integers(1, 0xFFFF)),
    st.tuples(st.just(6), st.binary(min_size=16, max_size=16), st.integers(1, 0xFFFF)),
)
times = st.integers(0, 2**62)


def encoded(method: Method, *values: tuple[stun.Attribute[Any], Any], **options: Any) -> bytes:
    message = Message(Class.REQUEST, method, TRANSACTION, values)
    return message.encode(**options)


@given(requests(), clients, times)
@example(encoded(Method.BINDING), (4, b"\xcb\0\x71\5", 40000), 0)
@example(encoded(Method.ALLOCATE, (FIELD, 17), fingerprint=True), (6, bytes(15) + b"\2", 1), 2**62)
def test_answers_are_those_of_the_relay_in_python(data: bytes, client: Address, now: int) -> None:
    relay = a_relay()
    answer = a_kernel(relay).answer(data, client, RELAYS[client[0]], now)
    if answer is not None:
        assert answer == twins_answer(relay, data, client, RELAYS[client[0]], now)
        assert dict(relay.counters) == {COUNTERS[stun.decode(data).method]: 1}


@pytest.mark.parametrize("method", COUNTERS)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("fingerprint", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        [],
        [(stun.SOFTWARE, "x" * 127)],
        [(FIELD, 17), (stun.LIFETIME, 600), (stun.ADDITIONAL_ADDRESS_FAMILY, 6)],
        [(FIELD, 17), (stun.EVEN_PORT, True), (stun.DONT_FRAGMENT, True)],
        [(FIELD, 17), (stun.REQUESTED_ADDRESS_FAMILY, 6), (stun.SOFTWARE, "")],
    ],
)
def test_what_strangers_send_needs_no_python(
    method: Method, family: int, fingerprint: bool, values: Any
) -> None:
    relay, local = a_relay(), RELAYS[family]
    client: Address = (family, local[1], 40000)
    data = encoded(method, *values, fingerprint=fingerprint)
    answer = a_kernel(relay).answer(data, client, local, 77 * SECOND)
    assert answer is not None
    assert answer == twins_answer(relay, data, client, local, 77 * SECOND)


@pytest.mark.parametrize("method", COUNTERS)
@pytest.mark.parametrize(
    "value",
    [
        (stun.USERNAME, "anna"),
        (stun.NONCE, "A" * 32),
        (stun.SOFTWARE, "é"),
        (stun.Attribute[bytes](0x8022, "LONG", stun.Layout.opaque()), b"x" * 128),
        (stun.XOR_PEER_ADDRESS, endpoint(RELAYS[4])),
        (stun.Attribute[bytes](0x0031, "UNKNOWN", stun.Layout.opaque()), b""),
        (stun.Attribute[bytes](0x0019, "WRONG", stun.Layout.opaque()), b"\x11"),
    ],
)
def test_the_rest_is_pythons(method: Method, value: Any) -> None:
    kernel = a_kernel(a_relay())
    assert kernel.answer(encoded(method, value), RELAYS[4], RELAYS[4], 0) is None


def test_credentials_and_wrong_fingerprints_are_pythons() -> None:
    kernel = a_kernel(a_relay())
    for data in (
        encoded(Method.ALLOCATE, (FIELD, 17), integrity_key=b"key"),
        encoded(Method.BINDING, fingerprint=True)[:-1] + b"?",
        encoded(Method.BINDING, fingerprint=True) + bytes(4),
    ):
        assert kernel.answer(data, RELAYS[4], RELAYS[4], 0) is None


def test_longest_names() -> None:
    relay = a_relay(software="🦀" * 127, realm="🐍" * 127)
    data = encoded(Method.ALLOCATE, fingerprint=True)
    answer = a_kernel(relay).answer(data, RELAYS[6], RELAYS[6], 0)
    assert answer is not None
    assert answer == twins_answer(relay, data, RELAYS[6], RELAYS[6], 0)


def test_nonce_is_good_for_who_got_it() -> None:
    relay = a_relay()
    kernel, mint = a_kernel(relay), NonceMint(lambda _: relay.stranger_answers.nonce_key)
    client, local = (4, b"\xcb\0\x71\5", 40000), RELAYS[4]
    answer = kernel.answer(encoded(Method.ALLOCATE), client, local, 5 * SECOND)
    nonce = stun.decode(answer or b"").get(stun.NONCE) or ""
    ours = FiveTuple(endpoint(client), endpoint(local))
    assert mint.accepts(nonce, ours, 6 * SECOND)
    assert not mint.accepts(nonce, ours, 5 * SECOND + NONCE_LIFETIME)
    assert not mint.accepts(nonce, FiveTuple(endpoint(local), endpoint(local)), 6 * SECOND)


def test_nothing_is_answered_unless_wanted() -> None:
    kernel = Forwarder(bytes(16), Ring(64))
    assert kernel.answer(encoded(Method.BINDING), RELAYS[4], RELAYS[4], 0) is None
    for binding, key in ((bytes(19), bytes(32)), (bytes(1089), bytes(32)), (bytes(20), bytes(31))):
        with pytest.raises(ValueError, match="bytes"):
            kernel.answer_strangers(binding, bytes(20), key)
    with pytest.raises(ValueError, match="family and port"):
        kernel.defer(5, 1, True)


# On sockets


@pytest.fixture
def ends() -> Iterator[Ends]:
    with Ends() as made:
        yield made


@pytest.mark.parametrize("gro", [True, False])
@pytest.mark.parametrize("who", [0, 2])
def test_answers_come_from_the_address_that_was_asked(ends: Ends, who: int, gro: bool) -> None:
    kernel, relay, client = ends.forwarder(gro=gro), a_relay(), ends.clients[who]
    answers = relay.stranger_answers
    kernel.answer_strangers(answers.binding, answers.challenge, answers.nonce_key)
    data, local = encoded(Method.BINDING), ends.local(client)
    send(client, local, [data] * 64)
    send(client, local, [data] * 36)
    send(client, local, [encoded(Method.ALLOCATE)])
    send(client, local, [encoded(Method.REFRESH)])
    ends.turn(kernel)
    *found, challenge = received(client)
    wanted = twins_answer(relay, data, address_of(client), local, 0)
    assert found == [(local, wanted)] * 100
    assert stun.decode(challenge[1]).get(stun.NONCE)
    assert kernel.answered() == (100, 1)
    assert len(ends.ring) == 1
    assert kernel.traffic() == ((0, 0, 0), (0, 0, 0))


def test_deferred_clients_are_pythons(ends: Ends) -> None:
    kernel, answers = ends.forwarder(), a_relay().stranger_answers
    kernel.answer_strangers(answers.binding, answers.challenge, answers.nonce_key)
    client = ends.clients[0]
    family, _, port = address_of(client)
    for is_deferred in (True, False):
        kernel.defer(family, port, is_deferred)
        send(client, ends.local(client), [encoded(Method.BINDING)])
        ends.turn(kernel)
        assert (len(ends.ring), kernel.answered()[0]) == (1, int(not is_deferred))


def test_floods_leave_time_for_data(ends: Ends) -> None:
    """Where full reads have data among them, few are answered; alone, all are."""
    kernel, answers = ends.forwarder(gro=False), a_relay().stranger_answers
    kernel.answer_strangers(answers.binding, answers.challenge, answers.nonce_key)
    client, stranger, peer = *ends.clients[:2], address_of(ends.peers[0])
    local = ends.local(client)
    kernel.bind(address_of(client), local, 0x4000, ends.relay_port(0), peer)
    for number in (0x4000, 0x4001):
        data = number.to_bytes(2) + b"\0\4data"
        send(client, local, [data] * 64)
        send(client, local, [data] * 64)
        for _ in range(4):
            send(stranger, local, [encoded(Method.BINDING)] * 64)
        ends.turn(kernel)
    assert len(received(ends.peers[0])) == 128
    assert kernel.answered()[0] == len(received(stranger)) == 32 + 3 * 128
    assert kernel.drops() == {"unbound_channel": 128, "control_overflow": 96}


def test_answer_that_cannot_be_sent_is_counted(ends: Ends) -> None:
    kernel, answers = Forwarder(bytes(16), Ring(64)), a_relay().stranger_answers
    kernel.answer_strangers(answers.binding, answers.challenge, answers.nonce_key)
    with closing(udp_socket(4)) as listener:
        kernel.add(listener.fileno(), 4, address_of(listener)[2], listens=True)
        send(ends.clients[0], address_of(listener), [encoded(Method.BINDING)] * 3)
        with pytest.raises(OSError, match="connected"):  # but it sends no more from now on
            listener.shutdown(socket.SHUT_WR)
        while kernel.turn():
            pass
    assert kernel.drops() == {"send_to_client_EPIPE": 3}
