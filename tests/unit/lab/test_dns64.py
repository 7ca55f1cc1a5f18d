"""The lab's DNS64, without a network."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.lab.dns64 import answer, read_names
from firezone.nat64 import prefixes_of

A, AAAA, TXT = 1, 28, 16
PREFIX = IPv6Address("2001:db8:64::")
NAMES = read_names(["four.test=192.0.2.1", "both.test=192.0.2.2", "both.test=2001:db8::2"])


def query(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return (
        struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)
    )


def addresses(name: str, kind: int) -> list[IPv4Address | IPv6Address]:
    asked = query(name, kind)
    response = answer(asked, NAMES, PREFIX)
    assert response is not None
    number, flags, questions, answers, *_ = struct.unpack_from("!HHHHHH", response)
    assert (number, flags, questions) == (7, 0x8180, 1)
    assert response[12 : len(asked)] == asked[12:]
    length = 4 if kind == A else 16
    rest = response[len(asked) :]
    assert len(rest) == answers * (12 + length)
    return [ip_address(rest[at + 12 : at + 12 + length]) for at in range(0, len(rest), 12 + length)]


def test_addresses_are_made_up_only_where_there_are_none() -> None:
    assert addresses("four.test", A) == [ip_address("192.0.2.1")]
    assert addresses("Four.Test", AAAA) == [ip_address("2001:db8:64::192.0.2.1")]
    assert addresses("both.test", AAAA) == [ip_address("2001:db8::2")]
    assert addresses("both.test", TXT) == []


def test_the_prefix_can_be_learned() -> None:
    found = [a for a in addresses("ipv4only.arpa", AAAA) if isinstance(a, IPv6Address)]
    assert [str(prefix) for prefix in prefixes_of(found)] == ["2001:db8:64::/96"]


def test_other_names_do_not_exist() -> None:
    response = answer(query("other.test", A), NAMES, PREFIX)
    assert response is not None
    assert response[3] & 0xF == 3


@pytest.mark.parametrize("length", range(len(query("four.test", A))))
def test_half_a_query_has_no_answer(length: int) -> None:
    assert answer(query("four.test", A)[:length], NAMES, PREFIX) is None


@given(st.binary())
def test_no_query_is_too_strange(data: bytes) -> None:
    answer(data, NAMES, PREFIX)
