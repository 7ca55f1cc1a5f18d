"""Whatever comes from the network: a message, or DecodeError and nothing else."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firezone import stun

_FILE = Path(__file__).parents[2] / "vectors" / "stun.json"
MESSAGES = {name: bytes.fromhex(v["message"]) for name, v in json.loads(_FILE.read_text()).items()}

HEADER = bytes.fromhex("000100002112a442") + bytes(12)


@pytest.mark.parametrize("name", MESSAGES)
def test_every_truncation_is_refused(name: str) -> None:
    for size in range(len(MESSAGES[name])):
        with pytest.raises(stun.DecodeError):
            stun.decode(MESSAGES[name][:size])
        assert not stun.looks_like_stun(MESSAGES[name][:size])


@pytest.mark.parametrize("name", MESSAGES)
def test_every_truncation_with_a_length_that_agrees(name: str) -> None:
    for size in range(20, len(MESSAGES[name]), 4):
        cut = MESSAGES[name][:size]
        survive(cut[:2] + (size - 20).to_bytes(2) + cut[4:])


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    survive(data)


@given(st.binary(max_size=600))
def test_random_attributes_behind_a_good_header(data: bytes) -> None:
    data += bytes(-len(data) % 4)
    survive(HEADER[:2] + len(data).to_bytes(2) + HEADER[4:] + data)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*stun.attributes.KNOWN, 0x0003, 0x8888]), st.binary(max_size=40)
        ),
        max_size=10,
    )
)
def test_known_attributes_of_random_values(attributes: list[tuple[int, bytes]]) -> None:
    body = b"".join(
        code.to_bytes(2) + len(value).to_bytes(2) + value + bytes(-len(value) % 4)
        for code, value in attributes
    )
    message = survive(HEADER[:2] + len(body).to_bytes(2) + HEADER[4:] + body)

    assert message is not None


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(MESSAGES)),
    st.lists(st.tuples(st.integers(0, 150), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_mutated_messages(name: str, changes: list[tuple[int, int]]) -> None:
    raw = bytearray(MESSAGES[name])
    for at, mask in changes:
        raw[at % len(raw)] ^= mask
    survive(bytes(raw))


def survive(data: bytes) -> stun.Message | None:
    """Decodes, and does with the message what its readers do."""
    try:
        message = stun.decode(data)
    except stun.DecodeError:
        return None
    assert stun.looks_like_stun(data)
    message.verify_integrity(b"key")
    message.verify_fingerprint()
    repr(message)
    copy = stun.Message(message.class_, message.method, message.transaction_id, message.attributes)
    assert stun.decode(copy.encode()).attributes == message.attributes
    return message
