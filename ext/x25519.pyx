"""X25519 (RFC 7748), the Diffie-Hellman function of the handshake.

It is half of what a handshake costs. Where the CPU has AVX-512 IFMA, our own ladder computes four
products in less time than libsodium one, and a step of a handshake wants up to three that do not
depend on each other. Other CPUs have libsodium's, which also is the check of ours at import.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_REFCNT
from libc.stdint cimport uint8_t, uintptr_t
from libc.string cimport memcpy, memset

from firezone._ext.atomics cimport wipe

from nacl._sodium import ffi as _ffi, lib as _lib

cdef extern from "x25519.h" nogil:
    enum:
        X25519_SIZE
        X25519_LANES
    bint x25519_can_run() noexcept
    void x25519_lanes(
        uint8_t (*)[32], const uint8_t* const*, const uint8_t* const*, int
    ) noexcept

BASE = b"\x09" + bytes(31)

# Not by way of nacl.bindings, which take a private key as bytes only: those cannot be wiped.
ctypedef int (*sodium_scalarmult)(uint8_t* q, const uint8_t* n, const uint8_t* p) noexcept nogil
ctypedef int (*sodium_scalarmult_base)(uint8_t* q, const uint8_t* n) noexcept nogil
cdef sodium_scalarmult libsodium_multiply = <sodium_scalarmult><uintptr_t>int(
    _ffi.cast("uintptr_t", _ffi.addressof(_lib, "crypto_scalarmult")))
cdef sodium_scalarmult_base libsodium_multiply_base = <sodium_scalarmult_base><uintptr_t>int(
    _ffi.cast("uintptr_t", _ffi.addressof(_lib, "crypto_scalarmult_base")))

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


@cython.final
cdef class Scalar:
    """See x25519.pyi."""

    cdef uint8_t key[32]

    def __init__(self, bytes key not None):
        memcpy(self.key, bytes_of(key), X25519_SIZE)

    def __dealloc__(self):
        wipe(self.key, X25519_SIZE)

    @staticmethod
    def draw(entropy not None):
        """See x25519.pyi."""
        cdef bytes drawn = entropy(X25519_SIZE)
        cdef Scalar made = Scalar.__new__(Scalar)
        memcpy(made.key, bytes_of(drawn), X25519_SIZE)
        # Bytes that others hold, too, are theirs. Those that are ours alone nobody sees change.
        if Py_REFCNT(drawn) == 1:
            wipe(PyBytes_AS_STRING(drawn), X25519_SIZE)
        return made

    def wipe(self):
        """See x25519.pyi."""
        wipe(self.key, X25519_SIZE)

    def __reduce__(self):
        raise TypeError("a Scalar cannot be pickled")


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


# Valid while the object lives.
cdef const uint8_t* bytes_of(object key) except NULL:
    if isinstance(key, Scalar):
        return (<Scalar>key).key
    if not isinstance(key, bytes):
        raise TypeError(f"neither Scalar nor bytes: {type(key).__name__}")
    if len(key) != X25519_SIZE:
        raise ValueError("scalars and points have 32 bytes")
    return <const uint8_t*>PyBytes_AS_STRING(key)


def multiply_one(scalar not None, bytes point not None):
    """See x25519.pyi. libsodium knows a faster way for the base point."""
    cdef const uint8_t* k = bytes_of(scalar)
    cdef const uint8_t* u = bytes_of(point)
    cdef uint8_t found[32]
    cdef bint is_base = point == BASE
    cdef int failed
    with nogil:
        failed = libsodium_multiply_base(found, k) if is_base else libsodium_multiply(found, k, u)
        if failed:  # a point of small order
            memset(found, 0, X25519_SIZE)
    product = PyBytes_FromStringAndSize(<const char*>found, X25519_SIZE)
    wipe(found, X25519_SIZE)
    return product


# RFC 7748, section 5.2; and between the lanes of one call none may be mistaken for another.
cdef bytes TEST_SCALAR = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
cdef bytes TEST_POINT = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
cdef bytes TEST_PRODUCT = bytes.fromhex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")


if multiply_one(TEST_SCALAR, TEST_POINT) != TEST_PRODUCT:
    raise ImportError("libsodium's X25519 fails its self-test")


def _works():
    scalars = [TEST_SCALAR, TEST_POINT, bytes(range(32)), bytes(32), TEST_POINT]
    points = [TEST_POINT, TEST_SCALAR, BASE, b"\xff" * 32, bytes(32)]
    products = multiply(scalars, points)
    return products[0] == TEST_PRODUCT and products == list(map(multiply_one, scalars, points))


use_backend("auto")
if in_lanes and not _works():
    in_lanes, failed = False, True
