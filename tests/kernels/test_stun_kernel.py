"""The STUN kernel against its slow twin."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone._ext import stun as kernel
from firezone.model import Endpoint
from firezone.stun import AddressError, Attribute, ErrorCode
from firezone.stun.attributes import KNOWN
from tests.reference import stun as twin

_FILE = Path(__file__).parents[1] / "vectors" / "stun.json"
VECTORS = [bytes.fromhex(v["message"]) for v in json.loads(_FILE.read_text()).values()]
TRANSACTION = bytes(range(0xA0, 0xAC))


def decoded(data: bytes) -> Any:
    """What the kernel finds, in the twin's words."""
    found = kernel.decode(data, KNOWN)
    if isinstance(found, str):
        return found
    values = tuple((attribute.code, value) for attribute, value in found[3])
    return (*found[:3], values, *found[4:])


# Reading

sizes = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 20, 24, 127, 128, 512, 513, 763, 764, 767, 768])
codes = st.sampled_from(sorted(KNOWN)) | st.integers(0, 0xFFFF)
raw_values = (
    st.binary(max_size=24)
    | sizes.map(bytes)
    | sizes.map(lambda size: b"x" * size)
    | sizes.map(lambda size: "é".encode() * (size // 2))
    | st.sampled_from([b"\0\1" + bytes(6), b"\0\2" + bytes(18), b"\1\0\0\0", b"\2\0\4\x26why"])
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Mostly well formed in the large, whatever is in the attributes."""
    body = b""
    for code, value in draw(st.lists(st.tuples(codes, raw_values), max_size=8)):
        padding = draw(st.sampled_from([b"\0", b"\xff"])) * (-len(value) % 4)
        body += code.to_bytes(2) + len(value).to_bytes(2) + value + padding
    type_, transaction = draw(st.integers(0, 0x03FF)), draw(st.binary(min_size=12, max_size=12))
    whole = type_.to_bytes(2) + len(body).to_bytes(2) + b"\x21\x12\xa4\x42" + transaction + body
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(whole) - 1))
        whole = whole[:at] + bytes([whole[at] ^ 1 << draw(st.integers(0, 7))]) + whole[at + 1 :]
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 9)) == 0 else whole


@given(messages())
def test_messages_are_read_as_the_twin_reads_them(data: bytes) -> None:
    assert decoded(data) == twin.decode(data)


@given(st.binary(max_size=100), st.binary(max_size=8))
def test_random_bytes_are_read_as_the_twin_reads_them(data: bytes, header: bytes) -> None:
    framed = b"\0\1" + len(data).to_bytes(2) + b"\x21\x12\xa4\x42" + TRANSACTION + data
    for case in (data, header + data, framed):
        assert decoded(case) == twin.decode(case)


@pytest.mark.parametrize("data", VECTORS, ids=lambda data: data[:2].hex())
def test_vectors_and_their_truncations(data: bytes) -> None:
    assert decoded(data) == twin.decode(data)
    for size in range(len(data)):
        cut = data[:size]
        assert decoded(cut) == twin.decode(cut)
        counted = cut[:2] + max(size - 20, 0).to_bytes(2) + cut[4:]
        assert decoded(counted) == twin.decode(counted)


def test_the_longest_messages() -> None:
    header = b"\0\1\xff\xfc\x21\x12\xa4\x42" + TRANSACTION
    for body in (b"\0\x13\xff\xf8" + bytes(0xFFF8), b"\x30\0\0\0" * 0x3FFF):
        assert decoded(header + body) == twin.decode(header + body)
        assert decoded(header + body + bytes(4)) == "wrong_length"
        assert decoded(header + body + bytes(0x10000)) == "wrong_length"


# Writing

endpoints = st.builds(Endpoint, st.ip_addresses(v=4) | st.ip_addresses(v=6), st.integers(0, 0xFFFF))
errors = st.builds(ErrorCode, st.integers(250, 750), st.text(max_size=10))
lengths = st.sampled_from([0, 1, 126, 127, 128, 511, 512, 513, 763, 764])
texts = st.text(max_size=8) | lengths.map(lambda n: "x" * n) | lengths.map(lambda n: "é" * n)
numbers = st.integers(-1, 300) | st.sampled_from([2**k + d for k in (16, 32, 64) for d in (-1, 0)])
families = st.sampled_from([4, 6, 5])
CONTENTS: dict[type | str, st.SearchStrategy[Any]] = {
    "text": texts,
    "number": numbers,
    "address": endpoints,
    "bytes": st.binary(max_size=40) | st.sampled_from([bytes(8), bytes(20)]),
    "family": families,
    "flag": st.booleans(),
    "error": errors,
    "address error": st.builds(AddressError, families, errors),
    "codes": st.lists(st.integers(-1, 0x10000), max_size=4).map(tuple),
}
KINDS = {
    "text": (0x0006, 0x0014, 0x0015, 0x8022),
    "number": (0x000C, 0x000D, 0x0019, 0x0024, 0x8028, 0x8029, 0x802A),
    "address": (0x0001, 0x0012, 0x0016, 0x0020, 0x8023),
    "bytes": (0x0008, 0x0013, 0x0022),
    "family": (0x0017, 0x8000),
    "flag": (0x0018, 0x001A, 0x0025),
    "error": (0x0009,),
    "address error": (0x8001,),
    "codes": (0x000A,),
}
values = st.one_of(
    *(st.tuples(st.sampled_from(KINDS[kind]), content) for kind, content in CONTENTS.items())
)
keys = st.none() | st.binary(max_size=8) | st.sampled_from([bytes(n) for n in (63, 64, 65, 200)])


def test_no_attribute_is_left_out() -> None:
    assert set(KNOWN) == set(twin.LAYOUTS) == {code for some in KINDS.values() for code in some}


@given(
    st.integers(0, 3),
    st.integers(0, 0xFFF),
    st.binary(min_size=12, max_size=12),
    st.lists(values, max_size=6).map(tuple),
    keys,
    st.booleans(),
)
def test_messages_are_written_as_the_twin_writes_them(
    class_: int,
    method: int,
    transaction: bytes,
    content: tuple[tuple[int, Any], ...],
    key: bytes | None,
    fingerprint: bool,
) -> None:
    ours = tuple((KNOWN[code], value) for code, value in content)
    try:
        expected = twin.encode(class_, method, transaction, content, key, fingerprint)
    except (ValueError, OverflowError):
        with pytest.raises(ValueError):
            kernel.encode(class_, method, transaction, ours, key, fingerprint)
        return
    assert kernel.encode(class_, method, transaction, ours, key, fingerprint) == expected


def test_writing_leaves_the_values_as_they_are() -> None:
    """Python shares short values, and addresses are remembered: no mask may stay on them."""
    short = [Attribute[bytes](1, "SHORT", kernel.Layout.coded(bytes, bytes, masked=True))]
    for size in (0, 1, 2, 3, 20, 24):
        value = bytes(size)
        kernel.encode(0, 1, b"\xff" * 12, tuple((a, value) for a in short))
        assert value == bytes(size) and bytes([0]) == b"\0" and bytes(0) == b""
    address = Endpoint(ip_address("192.0.2.1"), 9)
    made = {kernel.encode(0, 1, TRANSACTION, ((KNOWN[0x0020], address),)) for _ in range(3)}
    assert len(made) == 1


# MACs

prefixes = st.binary(min_size=20, max_size=300) | st.sampled_from(
    [bytes(n) for n in (20, 43, 44, 55, 56, 63, 64, 65, 119, 120, 127, 128, 129, 0xFFE0)]
)


@given(prefixes, st.binary(max_size=140))
def test_macs_are_those_of_the_twin(prefix: bytes, key: bytes) -> None:
    mac = kernel.message_integrity(prefix, key)
    assert mac == twin.integrity(prefix, key)
    assert kernel.fingerprint(prefix) == twin.fingerprint(prefix)
    assert kernel.verify_integrity(prefix + b"\0\x08\0\x14" + mac, len(prefix), key)
    assert not kernel.verify_integrity(prefix + b"\0\x08\0\x14" + mac, len(prefix), key + b"x")
    crc = twin.fingerprint(prefix).to_bytes(4)
    assert kernel.verify_fingerprint(prefix + b"\x80\x28\0\4" + crc, len(prefix))


@given(prefixes, st.integers(0, 159))
def test_one_bit_makes_a_mac_wrong(prefix: bytes, bit: int) -> None:
    mac = bytearray(twin.integrity(prefix, b"key"))
    mac[bit // 8] ^= 1 << bit % 8
    assert not kernel.verify_integrity(prefix + bytes(4) + mac, len(prefix), b"key")
    crc = twin.fingerprint(prefix) ^ 1 << bit % 32
    assert not kernel.verify_fingerprint(prefix + bytes(4) + crc.to_bytes(4), len(prefix))


# What callers must not hand in


@pytest.mark.parametrize("at", [-1, 0, 19, 41, 44, 64, 1 << 40])
def test_a_mac_has_to_be_inside(at: int) -> None:
    with pytest.raises(ValueError):
        kernel.verify_integrity(bytes(43), at, b"")
    with pytest.raises(ValueError):
        kernel.verify_fingerprint(bytes(27), at)


@pytest.mark.parametrize("size", [0, 19, 0x10020])
def test_a_mac_is_over_a_message(size: int) -> None:
    with pytest.raises(ValueError):
        kernel.message_integrity(bytes(size), b"")
    with pytest.raises(ValueError):
        kernel.fingerprint(bytes(size))


@pytest.mark.parametrize(
    "class_, method, transaction",
    [(4, 1, TRANSACTION), (-1, 1, TRANSACTION), (0, 0x1000, TRANSACTION), (0, -1, TRANSACTION)]
    + [(0, 1, bytes(size)) for size in (0, 11, 13)],
)
def test_no_header_of_a_message(class_: int, method: int, transaction: bytes) -> None:
    with pytest.raises(ValueError):
        kernel.encode(class_, method, transaction, ())


def test_messages_have_an_end() -> None:
    data = KNOWN[0x0013]
    assert len(kernel.encode(0, 1, TRANSACTION, ((data, bytes(0xFFF8)),))) == 20 + 0xFFFC
    for size, key, fingerprint in (
        (0xFFF9, None, False),
        (0xFFF8, b"", False),
        (0xFFF8, None, True),
    ):
        with pytest.raises(ValueError, match="too long"):
            kernel.encode(0, 1, TRANSACTION, ((data, bytes(size)),), key, fingerprint)
    with pytest.raises(ValueError, match="DATA"):
        kernel.encode(0, 1, TRANSACTION, ((data, bytes(0x10000)),))


def test_sizes_of_layouts() -> None:
    for size, reserved in ((0, 0), (9, 0), (1, -1), (8, 9)):
        with pytest.raises(ValueError):
            kernel.Layout.number(size, reserved)
    for code in (-1, 0x10000):
        with pytest.raises(ValueError):
            Attribute[int](code, "NONE", kernel.Layout.number(1))
