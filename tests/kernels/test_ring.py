import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone._ext.ring import Ring

LOCAL = (4, b"\x7f\0\0\1", 51820)
REMOTE = (6, bytes(15) + b"\1", 3478)


def test_items_come_out_as_they_went_in() -> None:
    ring = Ring(8)
    assert ring.push(3, b"payload", 7, 9, LOCAL, REMOTE)
    assert ring.push(4, b"")
    assert ring.pop() == (3, 7, 9, b"payload", LOCAL, REMOTE)
    assert ring.pop() == (4, 0, 0, b"", None, None)
    assert ring.pop() is None


def test_a_full_ring_drops_the_newest_and_counts() -> None:
    ring = Ring(4)
    assert [ring.push(n, b"") for n in range(6)] == [True] * 4 + [False] * 2
    assert (len(ring), ring.dropped) == (4, 2)
    assert [item[0] for item in iter(ring.pop, None)] == [0, 1, 2, 3]


def test_the_longest_payload() -> None:
    ring = Ring(2)
    assert ring.push(1, b"x" * 2240)
    assert not ring.push(1, b"x" * 2241)
    assert not ring.push(1, b"x" * 70000)
    item = ring.pop()
    assert item is not None and item[3] == b"x" * 2240


@pytest.mark.parametrize("capacity", [0, 1, 3, 1 << 21])
def test_capacities_out_of_range(capacity: int) -> None:
    with pytest.raises(ValueError):
        Ring(capacity)


@pytest.mark.parametrize("end", [(), LOCAL[:2], (*LOCAL, 1), (4, bytes(16), 1)])
def test_ends_that_are_none(end: tuple[int, bytes, int]) -> None:
    ring = Ring(2)
    with pytest.raises(ValueError):
        ring.push(1, b"", local=end)
    with pytest.raises(ValueError):
        ring.push(1, b"", remote=end)
    assert len(ring) == 0


def test_only_the_first_push_wakes() -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        ring = Ring(8, fd)
        for _ in range(3):
            ring.push(1, b"")
        assert os.eventfd_read(fd) == 1
        ring.pop()
        ring.push(1, b"")
        with pytest.raises(BlockingIOError):
            os.eventfd_read(fd)
        while ring.pop():
            pass
        ring.push(1, b"")
        assert os.eventfd_read(fd) == 1
    finally:
        os.close(fd)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=40)), max_size=60))
def test_agrees_with_a_bounded_queue(steps: list[bytes | None]) -> None:
    ring, model = Ring(8), list[bytes]()
    for step in steps:
        if step is None:
            item = ring.pop()
            assert (item[3] if item else None) == (model.pop(0) if model else None)
        else:
            assert ring.push(0, step) == (len(model) < 8)
            model += [step] if len(model) < 8 else []
        assert len(ring) == len(model)


def test_two_threads_lose_nothing_and_oversleep_nothing() -> None:
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    ring, got = Ring(16, fd), list[int]()

    def consume() -> None:
        while len(got) < 5000:
            os.eventfd_read(fd)
            while (item := ring.pop()) is not None:
                got.append(int.from_bytes(item[3], "big"))

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    for number in range(5000):
        while not ring.push(1, number.to_bytes(4, "big")):
            pass
    consumer.join(20)
    assert got == list(range(5000))
    os.close(fd)
