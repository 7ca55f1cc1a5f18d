"""The wire formats, and bytes that are none."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise_pair import Pair

from firezone.noise import MessageType, NoiseError, message_type, open_initiation, receiver_index
from firezone.noise.messages import (
    HandshakeCookie,
    HandshakeInitiation,
    HandshakeMessage,
    HandshakeResponse,
    decode,
    sender_index,
)

MESSAGES: list[HandshakeMessage] = [
    HandshakeInitiation(0x01020304, b"e" * 32, b"s" * 48, b"t" * 28),
    HandshakeResponse(0x01020304, 0x05060708, b"e" * 32, b"n" * 16),
    HandshakeCookie(0x05060708, b"n" * 24, b"c" * 32),
]
SIZES = [148, 92, 64]


def whole(message: HandshakeMessage) -> bytes:
    macs = b"" if isinstance(message, HandshakeCookie) else bytes(32)
    return message.encode() + macs


@pytest.mark.parametrize(("message", "size"), list(zip(MESSAGES, SIZES, strict=True)))
def test_round_trip(message: HandshakeMessage, size: int) -> None:
    encoded = whole(message)
    assert len(encoded) == size
    assert decode(encoded) == message


@pytest.mark.parametrize("message", MESSAGES)
def test_every_other_length_is_malformed(message: HandshakeMessage) -> None:
    encoded = whole(message)
    for length in range(len(encoded)):
        assert message_type(encoded[:length]) is None
        with pytest.raises(NoiseError):
            decode(encoded[:length])
    with pytest.raises(NoiseError):
        decode(encoded + b"\0")


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_reserved_bytes_are_zero(message: HandshakeMessage, at: int) -> None:
    changed = bytearray(whole(message))
    changed[at] = 1
    with pytest.raises(NoiseError):
        decode(bytes(changed))


def test_indices() -> None:
    initiation, response, cookie = map(whole, MESSAGES)
    data = b"\4\0\0\0\x08\7\6\5" + bytes(24)
    assert receiver_index(initiation) is None
    assert receiver_index(response) == receiver_index(cookie) == receiver_index(data) == 0x05060708
    assert sender_index(initiation) == sender_index(response) == 0x01020304
    assert message_type(data) is MessageType.TRANSPORT_DATA
    assert message_type(data[:-1]) is None
    with pytest.raises(NoiseError):
        decode(data)


@given(st.binary(max_size=160))
def test_random_bytes(message: bytes) -> None:
    feed(message)


@given(st.sampled_from([(1, 148), (2, 92), (3, 64)]), st.data())
def test_random_bytes_behind_a_valid_type(shape: tuple[int, int], data: st.DataObject) -> None:
    kind, size = shape
    body = data.draw(st.binary(min_size=size - 4, max_size=size - 4))
    feed(bytes([kind, 0, 0, 0]) + body)


@given(st.data())
def test_mutated_messages(data: st.DataObject) -> None:
    pair = Pair()
    pair.a.tunnel.initiate(pair.now)
    initiation = pair.a.tunnel.poll_transmit()
    assert initiation is not None
    pair.b.tunnel.handle_handshake(initiation, pair.now)
    response = pair.b.tunnel.poll_transmit()
    assert response is not None
    message = bytearray(data.draw(st.sampled_from([initiation, response])))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(message)))
    for tunnel in (pair.a.tunnel, pair.b.tunnel):
        tunnel.handle_handshake(bytes(message[:end]), pair.now)
        tunnel.handle_handshake(bytes(message), pair.now)


def feed(message: bytes) -> None:
    """To everything that reads from the network; it must not raise."""
    pair = Pair()
    pair.a.tunnel.initiate(pair.now)
    pair.a.drain(pair.now)
    pair.a.receive(message, pair.now)
    assert pair.a.tunnel.counters.total() == 1
    assert open_initiation(pair.keys[0], message) is None
    receiver_index(message)
    with suppress(NoiseError):
        decode(message)
