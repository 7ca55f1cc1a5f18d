"""PacketBatch from Python: slots, columns and their limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone._ext.batch import PacketBatch, Verdict


@given(st.lists(st.binary(max_size=160), max_size=20))
def test_packets_come_back(packets: list[bytes]) -> None:
    batch = PacketBatch(20, stride=256)
    assert [batch.append(packet) for packet in packets] == list(range(len(packets)))
    assert batch.packets() == packets and len(batch) == len(packets)
    assert [batch.length(slot) for slot in range(len(batch))] == [len(p) for p in packets]


def test_fresh_slot() -> None:
    batch = PacketBatch(2, stride=256)
    batch.append(b"first")
    slot = batch.append(bytearray(b"abc"), peer=7, ecn=2)
    assert batch.offset(slot) == 256 + 64
    assert (batch.peer(slot), batch.ecn(slot), batch.mark(slot), batch.flow(slot)) == (
        7,
        2,
        0,
        None,
    )
    assert batch.verdict(slot) is Verdict.PASS
    assert batch.tuple(slot) == (0, 0, b"", b"", 0, 0, 0)
    assert batch.local(slot) == batch.remote(slot) == (0, b"", 0)


def test_cleared_slot_is_fresh_again() -> None:
    batch = PacketBatch(1)
    batch.append(b"old", peer=7, ecn=3)
    batch.set_verdict(0, Verdict.BAD_TAG)
    batch.set_mark(0, 2)
    batch.set_remote(0, 4, bytes(4), 53)
    batch.clear()
    assert len(batch) == 0 and batch.packets() == []
    batch.append(b"")
    assert (batch.packet(0), batch.peer(0), batch.ecn(0), batch.mark(0)) == (b"", 0, 0, 0)
    assert batch.verdict(0) is Verdict.PASS and batch.remote(0) == (0, b"", 0)


def test_packets_are_those_that_pass() -> None:
    batch = PacketBatch(2)
    batch.append(b"dropped")
    batch.append(b"passed")
    batch.set_verdict(0, Verdict.REFUSED)
    assert batch.packets() == [b"passed"] and batch.packet(0) == b"dropped"


@pytest.mark.parametrize("address", [bytes([192, 0, 2, 1]), bytes(range(16))])
def test_endpoints_are_tuples(address: bytes) -> None:
    batch = PacketBatch(1)
    batch.append(b"")
    family = 4 if len(address) == 4 else 6
    batch.set_local(0, family, address, 65535)
    batch.set_remote(0, family, address, 0)
    assert batch.local(0) == (family, address, 65535)
    assert batch.remote(0) == (family, address, 0)


@pytest.mark.parametrize(
    ("family", "address", "port"),
    [
        (4, bytes(16), 1),
        (6, bytes(4), 1),
        (5, bytes(4), 1),
        (4, bytes(4), 65536),
        (4, bytes(4), -1),
    ],
)
def test_wrong_endpoints_are_refused(family: int, address: bytes, port: int) -> None:
    batch = PacketBatch(1)
    batch.append(b"")
    with pytest.raises(ValueError):
        batch.set_remote(0, family, address, port)


@pytest.mark.parametrize("stride", [0, 64, 100, 129, 1 << 20])
def test_wrong_strides_are_refused(stride: int) -> None:
    with pytest.raises(ValueError):
        PacketBatch(1, stride)


@pytest.mark.parametrize("capacity", [0, 4097])
def test_wrong_capacities_are_refused(capacity: int) -> None:
    with pytest.raises(ValueError):
        PacketBatch(capacity)


def test_limits_of_a_batch() -> None:
    batch = PacketBatch(1, stride=128)
    with pytest.raises(ValueError, match="longer"):
        batch.append(bytes(33))
    batch.append(bytes(32))
    with pytest.raises(IndexError, match="full"):
        batch.append(b"")
    with pytest.raises(IndexError):
        batch.packet(1)
    with pytest.raises(ValueError):
        batch.set_verdict(0, Verdict.VERDICTS)


def test_an_arena_may_be_larger_than_its_slots() -> None:
    assert PacketBatch(2, stride=256).arena_size == 512
    batch = PacketBatch(2, stride=256, arena_size=1 << 20)
    assert batch.arena_size == 1 << 20 and batch.capacity == 2
    assert [batch.append(bytes([i]) * 160) for i in range(2)] == [0, 1]
    assert batch.packets() == [b"\0" * 160, b"\1" * 160]
    assert PacketBatch(4, stride=256, arena_size=1).arena_size == 1024
    with pytest.raises(ValueError):
        PacketBatch(arena_size=1 << 31)
