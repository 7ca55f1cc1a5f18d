import random

import pytest

from firezone.errors import LocalError
from firezone.noise import TunnelIds, tunnel_id_of
from firezone.noise.index import LocalIndices


def test_tunnel_ids_are_unique_and_fit() -> None:
    ids = TunnelIds(random.Random(1).randbytes)
    drawn = [ids.allocate() for _ in range(50_000)]
    assert len(set(drawn)) == len(drawn)
    assert all(0 < tunnel_id < 1 << 24 for tunnel_id in drawn)


def test_tunnel_ids_never_repeat_a_live_one() -> None:
    """The register has run once around: what lives is passed over, what was released returns."""
    ids = TunnelIds(lambda size: (1).to_bytes(size, "big"))
    first, second = ids.allocate(), ids.allocate()
    start = ids._state
    ids.release(second)
    ids._state = _before(_before(start))
    assert ids.allocate() == second
    assert ids.allocate() not in (first, second)


def test_zero_is_never_a_tunnel_id() -> None:
    ids = TunnelIds(lambda size: bytes(size))
    ids._state = ids._mask + 1
    assert ids.allocate() != 0


def test_release_of_an_unknown_id_is_ignored() -> None:
    TunnelIds(random.Random(1).randbytes).release(5)


def test_local_indices() -> None:
    indices = LocalIndices(0xABCDEF)
    drawn = [indices.next() for _ in range(256)]
    assert drawn[0] == 0xABCDEF01
    assert drawn[-1] == 0xABCDEF00
    assert {tunnel_id_of(index) for index in drawn} == {0xABCDEF}


@pytest.mark.parametrize("tunnel_id", [-1, 0, 1 << 24])
def test_local_indices_need_a_tunnel_id(tunnel_id: int) -> None:
    with pytest.raises(LocalError):
        LocalIndices(tunnel_id)


def _before(state: int) -> int:
    """The register's step, undone."""
    carry = state >> 23
    return (state ^ (0xD80000 if carry else 0)) << 1 & 0xFFFFFF | carry
