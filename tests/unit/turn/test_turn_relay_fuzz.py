"""Nothing a stranger or a client sends makes the relay raise, forget itself or answer oddly."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turn_relay_kit import PEER_4, Client, World

from firezone import stun
from firezone.model import Endpoint, Transmit
from firezone.stun import Message, Method
from firezone.turn.relay_commands import (
    BindChannel,
    CloseSocket,
    Forbid,
    OpenSocket,
    Permit,
    RelayCommand,
    SendToPeer,
    UnbindChannel,
)

PERMITTED = Endpoint.of("192.0.2.78", 7)
METHODS = st.sampled_from([int(method) for method in Method] + [0, 2, 0xFFF])
CLASSES = st.sampled_from(list(stun.Class))


def established() -> Client:
    client = Client(World())
    client.allocate((stun.ADDITIONAL_ADDRESS_FAMILY, 6))
    client.bind(0x4000)
    client.permit(PERMITTED)
    return client


def samples(client: Client) -> list[bytes]:
    client.learn_nonce()
    values = [(stun.REQUESTED_TRANSPORT, 17), (stun.LIFETIME, 700)]
    bind = [(stun.CHANNEL_NUMBER, 0x4001), (stun.XOR_PEER_ADDRESS, PEER_4)]
    return [
        client.request(Method.BINDING).encode(fingerprint=True),
        client.signed(client.request(Method.ALLOCATE, *values)),
        client.signed(client.request(Method.REFRESH, *values)),
        client.signed(client.request(Method.CHANNEL_BIND, *bind)),
        client.signed(client.request(Method.CREATE_PERMISSION, *bind[1:])),
        send(client),
        b"\x40\x00\x00\x04data",
    ]


def send(client: Client) -> bytes:
    message = Message.indication(Method.SEND, client.world.entropy)
    message = message.with_(stun.XOR_PEER_ADDRESS, PERMITTED).with_(stun.DATA, b"data")
    return message.encode()


def check(commands: list[RelayCommand]) -> None:
    """Data goes nowhere but where it may."""
    for command in commands:
        if isinstance(command, SendToPeer):
            assert command.peer.address in (PEER_4.address, PERMITTED.address)


@pytest.mark.parametrize("make", [lambda: Client(World()), established])
@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes(make: type[Client], data: bytes) -> None:
    client = make()
    check(client.world.send(data))
    for allocation in [50000, *(port for port, _ in client.world.open)]:
        for peer in (PEER_4, PERMITTED):
            client.world.from_peer(allocation, data, peer)


@pytest.mark.parametrize("make", [lambda: Client(World()), established])
def test_every_truncation(make: type[Client]) -> None:
    for data in samples(make()):
        client = make()
        for length in range(len(data)):
            commands = client.world.send(data[:length])
            assert all(isinstance(command, Transmit) for command in commands)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 4))
def test_changed_send_goes_nowhere_else(seed: int, flips: int) -> None:
    """Nothing authenticates an indication but the 5-tuple, so permissions are all there is."""
    generator = random.Random(seed)
    client = established()
    changed = bytearray(send(client))
    for _ in range(flips):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    commands = client.world.send(bytes(changed))
    assert all(isinstance(command, SendToPeer | Transmit) for command in commands)
    check(commands)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 4))
def test_changed_bytes_change_nothing(seed: int, flips: int) -> None:
    """A signed request with a wrong bit is never carried out."""
    generator = random.Random(seed)
    client = established()
    for data in samples(client)[1:5]:
        changed = bytearray(data)
        for _ in range(flips):
            changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
        commands = client.world.send(bytes(changed))
        if bytes(changed) != data:
            forbidden = OpenSocket | CloseSocket | BindChannel | UnbindChannel | Permit | Forbid
            assert not any(isinstance(command, forbidden) for command in commands)
    assert client.world.relay.allocation_count == 1


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_attributes_signed_and_unsigned(data: st.DataObject) -> None:
    """Well-framed messages of any class, method and attribute values, also authenticated ones."""
    client = established()
    body = b""
    for _ in range(data.draw(st.integers(0, 4))):
        code = data.draw(st.sampled_from([*stun.attributes.KNOWN, 0x7FFF, 0xFFFF]))
        value = data.draw(st.binary(max_size=24))
        body += code.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value
        body += bytes(-len(value) % 4)
    message = Message(data.draw(CLASSES), data.draw(METHODS), bytes(12))
    bare = client.signed(message) if data.draw(st.booleans()) else message.encode()
    framed = bare[:2] + (len(bare) - 20 + len(body)).to_bytes(2, "big") + bare[4:20] + body
    commands = client.world.send(framed + bare[20:])
    check(commands)
    assert len([c for c in commands if isinstance(c, Transmit)]) <= 1
    if message.class_ is not stun.Class.REQUEST:
        assert commands == []


def test_malformed_request_is_answered_under_its_transaction() -> None:
    client = established()
    request = client.request(Method.CHANNEL_BIND, (stun.LIFETIME, 7))
    data = client.signed(request).replace(
        b"\x00\x0d\x00\x04\x00\x00\x00\x07", b"\x00\x0d\x00\x03abc\0"
    )
    [response] = client.read(client.world.send(data))
    assert response.transaction_id == request.transaction_id
    assert response.get(stun.ERROR_CODE) == stun.ErrorCode(400, "Bad Request")
    assert response.verify_integrity(client.key)


@pytest.mark.parametrize("method", [Method.SEND, Method.DATA, 0x00A, 0x0FF])
def test_method_that_is_not_served(method: int) -> None:
    client = Client(World())
    [response] = client.read(client.world.send(client.request(method).encode()))
    assert response.method == method
    assert response.get(stun.ERROR_CODE) == stun.ErrorCode(400, "Bad Request")


@pytest.mark.parametrize("class_", [c for c in stun.Class if c is not stun.Class.REQUEST])
def test_what_is_no_request_is_not_answered(class_: stun.Class) -> None:
    """Nor are malformed ones, or two servers could be set to answer each other."""
    world = World()
    message = Message(class_, Method.BINDING, bytes(12)).encode()
    malformed = message[:2] + b"\x00\x04" + message[4:] + b"\x00\x0d\x00\x00"
    assert world.send(message) == world.send(malformed) == []
    assert world.relay.counters.total() == 2


def test_unusable_datagrams_are_counted() -> None:
    world = World()
    for data in [b"", b"\x04", b"\x80" * 20, b"\x01\x01", b"\xff" * 100]:
        world.send(data)
    assert world.relay.counters == {"unusable_datagram": 1, "unknown_protocol": 3, "too_short": 1}
