import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.errors import LocalError
from firezone.turn import (
    ChannelDataError,
    decode_channel_data,
    encode_channel_data,
    looks_like_channel_data,
)


@given(st.integers(0x4000, 0x7FFF), st.binary(max_size=2000))
def test_round_trip_without_padding(number: int, payload: bytes) -> None:
    data = encode_channel_data(number, payload)

    assert len(data) == 4 + len(payload)
    assert looks_like_channel_data(data)
    assert decode_channel_data(data) == (number, payload)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too_short"),
        (b"\x40\x00\x00", "too_short"),
        (b"\x3f\xff\x00\x00", "wrong_number"),
        (b"\x80\x00\x00\x00", "wrong_number"),
        (b"\x40\x00\x00\x03ab", "wrong_length"),
        (b"\x40\x00\x00\x01abcd", "wrong_length"),
    ],
)
def test_what_is_not_channel_data(data: bytes, reason: str) -> None:
    with pytest.raises(ChannelDataError) as caught:
        decode_channel_data(data)

    assert caught.value.reason == reason


def test_padding_is_ignored_only_by_who_expects_it() -> None:
    assert decode_channel_data(b"\x40\x00\x00\x01a\0\0\0", exact=False) == (0x4000, b"a")
    with pytest.raises(ChannelDataError):
        decode_channel_data(b"\x40\x00\x00\x05a\0\0\0", exact=False)


def test_every_truncation_is_refused() -> None:
    data = encode_channel_data(0x4ABC, b"some payload")
    for size in range(len(data)):
        with pytest.raises(ChannelDataError):
            decode_channel_data(data[:size])


@given(st.binary(max_size=100))
def test_random_bytes(data: bytes) -> None:
    for exact in (True, False):
        try:
            decoded = decode_channel_data(data, exact=exact)
        except ChannelDataError:
            continue
        assert looks_like_channel_data(data)
        assert data.startswith(encode_channel_data(*decoded))


def test_our_own_must_fit() -> None:
    for number, payload in ((0x3FFF, b""), (0x8000, b""), (0x4000, bytes(0x10000))):
        with pytest.raises(LocalError):
            encode_channel_data(number, payload)
