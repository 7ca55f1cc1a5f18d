from __future__ import annotations

import copy
import ctypes
import pickle
import sys
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from firezone._ext import x25519 as kernel
from firezone._ext.x25519 import BASE, Scalar, multiply, multiply_one
from tests.reference.x25519 import PRIME, x25519

# RFC 7748, section 5.2: scalar, point, product.
VECTORS = [
    tuple(map(bytes.fromhex, each.split()))
    for each in (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4 "
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c "
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d "
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493 "
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    )
]
ONCE = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
A_THOUSAND_TIMES = "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"

SMALL_ORDER = [
    number.to_bytes(32, "little")
    for number in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        PRIME - 1,
        PRIME,
        PRIME + 1,
    )
]


@pytest.fixture(autouse=True, params=kernel.backends(), scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    kernel.use_backend(request.param)
    assert kernel.backend_name() == request.param
    yield
    kernel.use_backend("auto")


def product(scalar: bytes, point: bytes) -> bytes:
    (only,) = multiply([scalar], [point])
    return only


@pytest.mark.parametrize("scalar, point, expected", VECTORS)
def test_vectors_of_the_standard(scalar: bytes, point: bytes, expected: bytes) -> None:
    assert product(scalar, point) == expected


def test_a_thousand_times() -> None:
    """RFC 7748, section 5.2: each product becomes the scalar, the scalar before it the point."""
    scalar = point = BASE
    for count in range(1000):
        scalar, point = product(scalar, point), scalar
        if count == 0:
            assert scalar.hex() == ONCE
    assert scalar.hex() == A_THOUSAND_TIMES


# Limbs of 51 bits that are full or empty, numbers around the prime, with and without the top bit.
edges = st.builds(
    lambda limbs, add: (sum(n << 51 * k for k, n in enumerate(limbs)) + add) % 2**256,
    st.lists(st.sampled_from([0, 1, 2**51 - 1, 2**51 - 19, 2**50]), min_size=6, max_size=6),
    st.integers(-40, 40),
).map(lambda number: number.to_bytes(32, "little"))
near_prime = st.integers(-40, 40).map(lambda n: (PRIME + n).to_bytes(32, "little"))
keys = st.binary(min_size=32, max_size=32) | edges | near_prime | st.sampled_from(SMALL_ORDER)
pairs = st.lists(st.tuples(keys, keys), min_size=1, max_size=9)


@settings(deadline=None)
@given(pairs)
@example([(bytes(32), b"\xff" * 32), (b"\xff" * 32, b"\xff" * 32)])
def test_agrees_with_its_twin(pairs: list[tuple[bytes, bytes]]) -> None:
    scalars, points = map(list, zip(*pairs, strict=True))
    expected = [x25519(*pair) for pair in pairs]
    assert multiply(scalars, points) == expected
    assert [multiply_one(*pair) for pair in pairs] == expected


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_agrees_with_openssl(ours: bytes, theirs: bytes) -> None:
    public = product(theirs, BASE)
    private = X25519PrivateKey.from_private_bytes(ours)
    assert private.public_key().public_bytes_raw() == product(ours, BASE)
    assert private.exchange(X25519PublicKey.from_public_bytes(public)) == product(ours, public)


@pytest.mark.parametrize("point", SMALL_ORDER)
@pytest.mark.parametrize("top_bit", [0, 0x80])
def test_points_of_small_order_give_zero(point: bytes, top_bit: int) -> None:
    scalar = bytes(range(32))
    assert product(scalar, point[:31] + bytes([point[31] | top_bit])) == bytes(32)


@pytest.mark.parametrize("count", range(10))
def test_each_lane_has_its_own_product(count: int) -> None:
    scalars = [bytes([n + 1]) * 32 for n in range(count)]
    points = [multiply_one(bytes([n + 99]) * 32, BASE) for n in range(count)]
    expected = [x25519(*pair) for pair in zip(scalars, points, strict=True)]
    assert multiply(scalars, points) == expected


def test_a_private_key_may_be_one_that_can_be_wiped() -> None:
    scalar, point, expected = VECTORS[0]
    private = Scalar(scalar)
    assert multiply([private], [point]) == [expected]
    assert multiply_one(private, point) == expected
    private.wipe()
    assert multiply([private], [point]) == multiply([bytes(32)], [point]) != [expected]


def test_drawing_wipes_what_nobody_else_has() -> None:
    scalar, point, expected = VECTORS[0]
    drawn: list[int] = []

    def fresh(size: int) -> bytes:
        made = bytes(bytearray(scalar[:size]))
        drawn.append(id(made))
        return made

    private = Scalar.draw(fresh)
    # Where the object was, and may be no more; its text came after the header.
    assert scalar[8:24] not in ctypes.string_at(drawn[0], sys.getsizeof(b"") + 32)
    assert multiply([private], [point]) == [expected]


def test_drawing_leaves_alone_what_others_have() -> None:
    kept = bytes(bytearray(range(32)))
    assert multiply([Scalar.draw(lambda _size: kept)], [BASE]) == multiply([kept], [BASE])
    assert kept == bytes(range(32))


def test_a_scalar_shows_nothing() -> None:
    private = Scalar(bytes(range(32)))
    assert "Scalar object at" in repr(private)
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(private)
    with pytest.raises(TypeError):
        bytes(private)  # type: ignore[call-overload]


@pytest.mark.parametrize("size", [0, 31, 33])
def test_wrong_sizes(size: int) -> None:
    for scalar, point in ((bytes(size), BASE), (BASE, bytes(size))):
        with pytest.raises(ValueError):
            multiply([BASE, scalar], [BASE, point])
        with pytest.raises(ValueError):
            multiply_one(scalar, point)
        with pytest.raises(ValueError):
            Scalar.draw(lambda _wanted: bytes(size))
    with pytest.raises(ValueError):
        Scalar(bytes(size))
    with pytest.raises(ValueError):
        multiply([BASE], [])


def test_unknown_backend() -> None:
    with pytest.raises(ValueError):
        kernel.use_backend("avx1024")
