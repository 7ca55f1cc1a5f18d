"""X25519 (RFC 7748), the Diffie-Hellman function of the handshake.

It is half of what a handshake costs. Where the CPU has AVX-512 IFMA, our own ladder computes four
products in less time than libsodium one, and a step of a handshake wants up to three that do not
depend on each other. Other CPUs have libsodium's, which also is the check of ours at import.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t

from firezone._ext.atomics cimport wipe

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError

cdef extern from "x25519.h" nogil:
    enum:
        X25519_SIZE
        X25519_LANES
    bint x25519_can_run() noexcept
    void x25519_lanes(
        uint8_t (*)[32], const uint8_t* const*, const uint8_t* const*, int
    ) noexcept

BASE = b"\x09" + bytes(31)

# Written at import and by tests.
cdef bint in_lanes = False
cdef bint failed = False


def backend_name():
    """See x25519.pyi."""
    if in_lanes:
        return "avx512"
    return "libsodium (avx512 FAILED its self-test)" if failed else "libsodium"


def backends():
    """See x25519.pyi."""
    return ("avx512", "libsodium") if x25519_can_run() and not failed else ("libsodium",)


def use_backend(str name not None):
    """See x25519.pyi."""
    global in_lanes
    if name not in ("auto", *backends()):
        raise ValueError(f"not a backend of this CPU: {name!r}")
    in_lanes = name != "libsodium" and "avx512" in backends()


def multiply(list scalars not None, list points not None):
    """See x25519.pyi."""
    cdef Py_ssize_t start
    if len(scalars) != len(points):
        raise ValueError("there is a point for each scalar")
    if not in_lanes:
        return [multiply_one(scalar, point) for scalar, point in zip(scalars, points)]
    products = []
    for start in range(0, len(scalars), X25519_LANES):
        multiply_some(scalars, points, start, products)
    return products


cdef int multiply_some(list scalars, list points, Py_ssize_t start, list products) except -1:
    cdef uint8_t found[X25519_LANES][32]
    cdef const uint8_t* k[X25519_LANES]
    cdef const uint8_t* u[X25519_LANES]
    cdef int count = min(<Py_ssize_t>X25519_LANES, len(scalars) - start)
    cdef int i
    for i in range(count):
        k[i] = bytes_of(scalars[start + i])
        u[i] = bytes_of(points[start + i])
    with nogil:
        x25519_lanes(found, k, u, count)
    for i in range(count):
        products.append(PyBytes_FromStringAndSize(<const char*>found[i], X25519_SIZE))
    wipe(found, sizeof(found))
    return 0


# A private key is a bytearray where it can be wiped. Nobody changes one during a call.
cdef const uint8_t* bytes_of(object key) except NULL:
    if len(key) != X25519_SIZE:
        raise ValueError("scalars and points have 32 bytes")
    if isinstance(key, bytearray):
        return <const uint8_t*>PyByteArray_AS_STRING(key)
    if isinstance(key, bytes):
        return <const uint8_t*>PyBytes_AS_STRING(key)
    raise TypeError(f"neither bytes nor bytearray: {type(key).__name__}")


def multiply_one(scalar not None, point not None):
    """See x25519.pyi. libsodium knows a faster way for the base point."""
    bytes_of(scalar)
    bytes_of(point)
    if point == BASE:
        return crypto_scalarmult_base(bytes(scalar))
    try:
        return crypto_scalarmult(bytes(scalar), bytes(point))
    except CryptoError:  # of small order
        return bytes(X25519_SIZE)


# RFC 7748, section 5.2; and between the lanes of one call none may be mistaken for another.
cdef bytes TEST_SCALAR = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
cdef bytes TEST_POINT = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
cdef bytes TEST_PRODUCT = bytes.fromhex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")


def _works():
    scalars = [TEST_SCALAR, TEST_POINT, bytes(range(32)), bytes(32), TEST_POINT]
    points = [TEST_POINT, TEST_SCALAR, BASE, b"\xff" * 32, bytes(32)]
    products = multiply(scalars, points)
    return products[0] == TEST_PRODUCT and products == list(map(multiply_one, scalars, points))


use_backend("auto")
if in_lanes and not _works():
    in_lanes, failed = False, True
