"""TURN on a byte stream: cut anywhere, padded, slow, broken."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.durations import SECOND
from firezone.stun import Message, Method
from firezone.turn import encode_channel_data
from firezone.turn.stream import (
    MAX_CHANNEL_DATA_SIZE,
    MAX_STUN_SIZE,
    MESSAGE_TIMEOUT,
    StreamError,
    StreamReader,
    encode_on_stream,
)

NOW = 5 * SECOND


def binding(fill: int = 0) -> bytes:
    return Message.request(Method.BINDING, lambda n: bytes([fill]) * n).encode()


def read(data: bytes, *cuts: int) -> list[bytes]:
    reader = StreamReader()
    messages = []
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        reader.handle_data(data[start:end], NOW)
        while (message := reader.poll_message()) is not None:
            messages.append(message)
    return messages


messages = st.one_of(
    st.integers(0, 255).map(binding),
    st.builds(encode_channel_data, st.integers(0x4000, 0x7FFF), st.binary(max_size=40)),
)


@given(st.lists(messages, max_size=8), st.lists(st.integers(0, 10_000), max_size=8))
def test_messages_come_out_as_they_went_in_however_the_stream_is_cut(
    sent: list[bytes], cuts: list[int]
) -> None:
    assert read(b"".join(map(encode_on_stream, sent)), *cuts) == sent


@pytest.mark.parametrize("size", range(9))
def test_channel_data_is_padded_to_four_bytes(size: int) -> None:
    encoded = encode_on_stream(encode_channel_data(0x4000, b"x" * size))
    assert len(encoded) % 4 == 0
    assert len(encoded) - (4 + size) < 4


def test_padding_that_a_datagram_bore_is_not_doubled() -> None:
    padded = encode_channel_data(0x4000, b"x") + bytes(3)
    assert encode_on_stream(padded) == padded


def test_one_byte_at_a_time() -> None:
    sent = [binding(1), encode_channel_data(0x4001, b"hello"), binding(2)]
    data = b"".join(map(encode_on_stream, sent))
    assert read(data, *range(len(data))) == sent


@pytest.mark.parametrize("end", range(20))
def test_a_truncated_message_is_waited_for(end: int) -> None:
    assert read(binding()[:end]) == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80", "stream_not_turn"),
        (b"\x16\x03\x01", "stream_not_turn"),
        (b"\x00\x01\x00\x00\x21\x12\xa4\x43", "stream_not_turn"),
        (b"\x00\x01\x00\x03\x21\x12\xa4\x42", "stream_not_turn"),
        (b"\x00\x01\xff\xfc\x21\x12\xa4\x42", "stream_message_too_long"),
        (b"\x40\x00\xff\xff", "stream_message_too_long"),
    ],
)
def test_what_breaks_a_stream(data: bytes, reason: str) -> None:
    with pytest.raises(StreamError) as error:
        read(data)
    assert error.value.reason == reason


def test_what_came_before_the_break_is_still_there() -> None:
    reader = StreamReader()
    with pytest.raises(StreamError):
        reader.handle_data(binding() + b"\xff", NOW)
    assert reader.poll_message() == binding()


@given(st.binary(max_size=3000))
def test_random_bytes_give_messages_or_a_stream_error(data: bytes) -> None:
    with contextlib.suppress(StreamError):
        read(data)


@given(st.lists(messages, min_size=1, max_size=4), st.data())
def test_mutated_messages_give_messages_or_a_stream_error(
    sent: list[bytes], data: st.DataObject
) -> None:
    stream = bytearray(b"".join(map(encode_on_stream, sent)))
    position = data.draw(st.integers(0, len(stream) - 1))
    stream[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(StreamError):
        read(bytes(stream))


def test_a_reader_holds_no_more_than_one_message() -> None:
    reader = StreamReader()
    reader.handle_data(b"\x40\x00" + (MAX_CHANNEL_DATA_SIZE - 4).to_bytes(2), NOW)
    for _ in range(MAX_CHANNEL_DATA_SIZE - 4):
        reader.handle_data(b"x", NOW)
    assert len(reader.poll_message() or b"") == MAX_CHANNEL_DATA_SIZE
    assert not reader._buffer
    assert MAX_STUN_SIZE < MAX_CHANNEL_DATA_SIZE


def test_a_byte_a_second_is_too_slow() -> None:
    reader = StreamReader()
    assert reader.poll_timeout() is None
    for second, byte in enumerate(binding()):
        reader.handle_data(bytes([byte]), NOW + second * SECOND)
        if second == MESSAGE_TIMEOUT // SECOND:
            break
        reader.handle_timeout(NOW + second * SECOND)
    timeout = reader.poll_timeout()
    assert timeout is not None
    assert timeout.deadline == NOW + MESSAGE_TIMEOUT
    with pytest.raises(StreamError):
        reader.handle_timeout(NOW + MESSAGE_TIMEOUT)


def test_silence_between_messages_is_no_fault() -> None:
    reader = StreamReader()
    reader.handle_data(binding(), NOW)
    assert reader.poll_timeout() is None
    reader.handle_timeout(NOW + 3600 * SECOND)


def test_each_message_has_its_own_time() -> None:
    reader = StreamReader()
    reader.handle_data(binding()[:10], NOW)
    reader.handle_data(binding()[10:] + b"\x00", NOW + 9 * SECOND)
    timeout = reader.poll_timeout()
    assert timeout is not None
    assert timeout.deadline == NOW + 9 * SECOND + MESSAGE_TIMEOUT


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x40\x00\x00\x04abc", binding()[:-1], b"\x90"])
def test_what_is_no_whole_message_cannot_be_sent(data: bytes) -> None:
    with pytest.raises(StreamError):
        encode_on_stream(data)
