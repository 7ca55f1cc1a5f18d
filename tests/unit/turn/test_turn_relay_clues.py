"""What WireGuard's and ICE's datagrams say about whom they are for."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone import stun
from firezone.stun import Class, Message, Method
from firezone.turn.relay_clues import (
    Clue,
    ClueKind,
    clue_of,
    is_check,
    is_wireguard,
    names_in,
    tunnel_in,
)

OURS, THEIRS = 0x11223344, 0x55667788


def initiation(sender: int = OURS) -> bytes:
    return struct.pack("<BxxxI", 1, sender) + bytes(140)


def response(sender: int = OURS, receiver: int = THEIRS) -> bytes:
    return struct.pack("<BxxxII", 2, sender, receiver) + bytes(80)


def cookie_reply(receiver: int) -> bytes:
    return struct.pack("<BxxxI", 3, receiver) + bytes(56)


def data(receiver: int) -> bytes:
    return struct.pack("<BxxxIQ", 4, receiver, 0) + bytes(16)


def check(username: str = "them:us", class_: Class = Class.REQUEST) -> bytes:
    message = Message(class_, Method.BINDING, bytes(range(12)), ())
    if username:
        message = message.with_(stun.SOFTWARE, "agent").with_(stun.USERNAME, username)
    return message.encode(b"key", fingerprint=True)


@pytest.mark.parametrize(
    ("datagram", "clue"),
    [
        (initiation(), Clue(ClueKind.TUNNEL, OURS >> 8)),
        (response(), Clue(ClueKind.INDEX, THEIRS)),
        (cookie_reply(THEIRS), Clue(ClueKind.INDEX, THEIRS)),
        (data(THEIRS), Clue(ClueKind.INDEX, THEIRS)),
        (check(), Clue(ClueKind.UFRAG, b"them")),
        (check("", Class.SUCCESS), Clue(ClueKind.TRANSACTION, bytes(range(12)))),
        (check("", Class.ERROR), Clue(ClueKind.TRANSACTION, bytes(range(12)))),
        (check(""), None),
        (check("no colon"), None),
        (check("", Class.INDICATION), None),
        (initiation()[:-1], None),
        (data(THEIRS)[:-1], None),
        (b"\x04\x00\x01\x00" + bytes(40), None),
        (b"", None),
    ],
)
def test_whom_a_peers_datagram_names(datagram: bytes, clue: Clue | None) -> None:
    assert clue_of(datagram) == clue


@pytest.mark.parametrize(
    ("datagram", "names"),
    [
        (initiation(), {Clue(ClueKind.INDEX, OURS)}),
        (response(), {Clue(ClueKind.INDEX, OURS), Clue(ClueKind.TUNNEL, THEIRS >> 8)}),
        (data(THEIRS), set()),
        (cookie_reply(THEIRS), set()),
        (
            check(),
            {Clue(ClueKind.UFRAG, b"us"), Clue(ClueKind.TRANSACTION, bytes(range(12)))},
        ),
        (check("", Class.SUCCESS), set()),
        (b"anything", set()),
    ],
)
def test_what_a_client_calls_itself(datagram: bytes, names: set[Clue]) -> None:
    assert set(names_in(datagram)) == names


def test_an_answer_names_the_tunnel_that_may_initiate_next() -> None:
    assert tunnel_in(response()) == Clue(ClueKind.TUNNEL, OURS >> 8)
    assert tunnel_in(initiation()) is None


def test_a_check_has_a_username() -> None:
    assert is_check(check())
    assert not is_check(check(""))
    assert not is_check(Message.request(Method.ALLOCATE, os.urandom).encode())


def test_usernames_are_bounded() -> None:
    """Two ufrags of 256 characters; more is no name."""
    longest, longer = "a" * 256 + ":" + "b" * 256, "a" * 257 + ":" + "b" * 256

    def request(text: str) -> bytes:
        value = text.encode()
        padded = struct.pack(">HH", 6, len(value)) + value + bytes(-len(value) % 4)
        return struct.pack(">HHI", 1, len(padded), 0x2112A442) + bytes(12) + padded

    assert clue_of(request(longest)) == Clue(ClueKind.UFRAG, b"a" * 256)
    assert clue_of(request(longer)) is None
    assert clue_of(request(longest)[:-8]) is None


@given(st.binary(max_size=200))
def test_any_bytes(junk: bytes) -> None:
    for datagram in (junk, b"\x00\x01\x00\x00\x21\x12\xa4\x42" + junk, b"\x04\x00\x00\x00" + junk):
        clue_of(datagram)
        names_in(datagram)
        tunnel_in(datagram)
        assert is_wireguard(datagram) in (True, False)
