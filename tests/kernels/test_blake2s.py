import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone._ext.blake2s import blake2s, kdf
from tests.reference.blake2s import kdf as slow_kdf

KEY = bytes(range(32))


@given(st.binary(max_size=512))
def test_blake2s_agrees_with_hashlib(data: bytes) -> None:
    assert blake2s(data) == hashlib.blake2s(data).digest()
    for key_size, size in ((0, 16), (1, 1), (31, 32), (32, 16)):
        key = KEY[:key_size]
        expected = hashlib.blake2s(data, key=key, digest_size=size).digest()
        assert blake2s(data, key, size) == expected


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 129, 148])
def test_blake2s_at_the_edges_of_blocks(size: int) -> None:
    assert blake2s(b"a" * size) == hashlib.blake2s(b"a" * size).digest()
    assert blake2s(b"a" * size, KEY) == hashlib.blake2s(b"a" * size, key=KEY).digest()


@pytest.mark.parametrize("key, size", [(bytes(33), 32), (b"", 0), (b"", 33)])
def test_blake2s_sizes_out_of_range(key: bytes, size: int) -> None:
    with pytest.raises(ValueError):
        blake2s(b"", key, size)


@given(st.integers(1, 3), st.binary(min_size=32, max_size=32), st.binary(max_size=64))
def test_kdf_agrees_with_its_twin(count: int, key: bytes, data: bytes) -> None:
    assert kdf(count, key, data) == slow_kdf(count, key, data)


@pytest.mark.parametrize("size", range(65))
def test_kdf_takes_data_of_every_size(size: int) -> None:
    assert kdf(3, KEY, b"a" * size) == slow_kdf(3, KEY, b"a" * size)


@pytest.mark.parametrize(
    "count, key, data",
    [(0, KEY, b""), (4, KEY, b""), (1, KEY[1:], b""), (1, KEY + b"a", b""), (1, KEY, bytes(65))],
)
def test_kdf_sizes_out_of_range(count: int, key: bytes, data: bytes) -> None:
    with pytest.raises(ValueError):
        kdf(count, key, data)
