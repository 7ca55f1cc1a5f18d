import pytest

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.paths import Paths

THERE = (4, b"\xc0\0\2\1", 51820)
HERE = (4, b"\xc0\0\2\2", 52625)
THERE6 = (6, bytes(15) + b"\1", 51820)
UNSET = (0, b"", 0)


def batch_for(*peers: int) -> PacketBatch:
    batch = PacketBatch()
    for peer in peers:
        batch.append(b"sealed", peer)
    return batch


def test_check_finds_the_peers_that_cannot_be_reached() -> None:
    paths = Paths(slots=4)
    paths.set(1, THERE)
    batch = batch_for(0, 1, 2, 5, 1 << 31)
    paths.check(batch)
    verdicts = [batch.verdict(i) for i in range(5)]
    assert verdicts == [Verdict.UNROUTABLE, Verdict.PASS] + [Verdict.UNROUTABLE] * 3


def test_prepend_sets_addresses() -> None:
    paths = Paths(slots=4)
    paths.set(1, THERE)
    paths.set(2, THERE, HERE)
    paths.set(3, THERE6)
    batch = batch_for(1, 2, 3, 4)
    paths.prepend(batch)
    assert [batch.remote(i) for i in range(3)] == [THERE, THERE, THERE6]
    assert [batch.local(i) for i in range(3)] == [UNSET, HERE, UNSET]
    assert batch.packets() == [b"sealed"] * 3
    assert batch.verdict(3) == Verdict.SEND_FAILED, "the path went away while sealing"


def test_prepend_puts_the_channel_data_header_before_the_packet() -> None:
    paths = Paths(slots=4)
    paths.set(1, THERE, channel=0x4ABC)
    batch = batch_for(1)
    paths.prepend(batch)
    assert batch.packet(0) == b"\x4a\xbc\0\x06sealed"


def test_paths_are_swapped_cleared_and_told() -> None:
    paths = Paths(slots=4)
    assert paths.get(1) is None
    paths.set(1, THERE)
    paths.set(1, THERE, HERE, 0x4000)
    assert paths.get(1) == (THERE, HERE, 0x4000)
    paths.clear(1)
    paths.clear(1)
    assert paths.get(1) is None
    assert paths.reclaim() == 0


@pytest.mark.parametrize(
    "values",
    [
        (0, THERE),
        (5, THERE),
        (1, (4, bytes(16), 1)),
        (1, (4, bytes(4), 70000)),
        (1, THERE, THERE6),
        (1, THERE, None, 0x3FFF),
        (1, THERE, None, 0x5000),
        (1, THERE[:2]),
        (1, THERE, HERE[:1]),
    ],
)
def test_values_out_of_range(values: tuple[object, ...]) -> None:
    with pytest.raises(ValueError):
        Paths(slots=4).set(*values)  # type: ignore[arg-type]
