"""ChaCha20-Poly1305 behind one batch interface.

A backend is a pair of functions over items, chosen once at import: our own for AVX-512 and AVX2
(ext/c/aead_*), where the CPU has them, else libsodium's, out of PyNaCl's wheel or of the system.
FIREZONE_AEAD names another one. libsodium also seals the single messages with associated data.

Nothing is trusted before it has reproduced RFC 8439: libsodium, because PyNaCl's pointers are not
part of its public interface, on the vector of section 2.8.2; our own backends on the text of that
of appendix A.5 and, because they know no associated data, on libsodium's tags over batches.
"""

import ctypes
import os

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from firezone._ext.atomics cimport wipe
from firezone._ext.batch cimport BAD_TAG, PASS, TOO_LONG, Batch, PacketBatch, slot_packet

ctypedef int (*sodium_encrypt)(
    uint8_t* c, unsigned long long* clen, const uint8_t* m, unsigned long long mlen,
    const uint8_t* ad, unsigned long long adlen,
    const uint8_t* nsec, const uint8_t* npub, const uint8_t* k) noexcept nogil
ctypedef int (*sodium_decrypt)(
    uint8_t* m, unsigned long long* mlen, uint8_t* nsec, const uint8_t* c,
    unsigned long long clen, const uint8_t* ad, unsigned long long adlen,
    const uint8_t* npub, const uint8_t* k) noexcept nogil

cdef extern from "aead.h" nogil:
    ctypedef struct Backend "aead_backend":
        const char* name
        void (*seal)(AeadItem* items, size_t count) noexcept nogil
        void (*open)(AeadItem* items, size_t count) noexcept nogil
    const Backend* aead_backend_at(size_t index) noexcept

cdef enum:
    CHUNK = 64             # items on the stack at a time
    SCRATCH = 2048

# Written once, below, before anybody can call.
cdef Backend backend
cdef sodium_encrypt libsodium_encrypt = NULL
cdef sodium_decrypt libsodium_decrypt = NULL
_NAME = None
_SODIUM = None             # where libsodium comes from
_KEEP = None               # keeps the library loaded


cdef void aead_seal_batch(AeadItem* items, size_t count) noexcept nogil:
    backend.seal(items, count)


cdef void aead_open_batch(AeadItem* items, size_t count) noexcept nogil:
    backend.open(items, count)


cdef void aead_seal(
    const uint8_t* key, uint64_t counter, uint8_t* data, uint32_t length
) noexcept nogil:
    cdef AeadItem item
    fill(&item, key, counter, data, length)
    backend.seal(&item, 1)


cdef bint aead_open(
    const uint8_t* key, uint64_t counter, uint8_t* data, uint32_t length
) noexcept nogil:
    cdef AeadItem item
    fill(&item, key, counter, data, length)
    backend.open(&item, 1)
    return item.ok


cdef void sodium_seal_batch(AeadItem* items, size_t count) noexcept nogil:
    cdef uint8_t nonce[12]
    cdef AeadItem* item
    cdef size_t i
    for i in range(count):
        item = &items[i]
        make_nonce(nonce, item.counter)
        libsodium_encrypt(
            item.dst, NULL, item.src, item.length, NULL, 0, NULL, nonce, item.key)


# libsodium zeroes what it cannot open, and would so destroy a packet in place. Hence it opens into
# a buffer, or, what is too long for that, asks for the verdict alone first.
cdef void sodium_open_batch(AeadItem* items, size_t count) noexcept nogil:
    cdef uint8_t nonce[12]
    cdef uint8_t plain[SCRATCH]
    cdef AeadItem* item
    cdef size_t used = 0
    cdef size_t i
    for i in range(count):
        item = &items[i]
        make_nonce(nonce, item.counter)
        if item.length > SCRATCH:
            item.ok = sodium_open(item, NULL, nonce) and sodium_open(item, item.dst, nonce)
            continue
        item.ok = sodium_open(item, plain, nonce)
        if item.ok:
            memcpy(item.dst, plain, item.length)
            used = max(used, item.length)
    wipe(plain, used)


cdef inline bint sodium_open(const AeadItem* item, uint8_t* out, const uint8_t* nonce) noexcept nogil:
    return libsodium_decrypt(
        out, NULL, NULL, item.src, <unsigned long long>item.length + AEAD_TAG,
        NULL, 0, nonce, item.key) == 0


cdef inline void make_nonce(uint8_t* nonce, uint64_t counter) noexcept nogil:
    cdef int i
    memset(nonce, 0, 4)
    for i in range(8):
        nonce[4 + i] = counter >> 8 * i & 0xFF


cdef inline void fill(
    AeadItem* item, const uint8_t* key, uint64_t counter, uint8_t* data, uint32_t length
) noexcept nogil:
    item.key = key
    item.counter = counter
    item.src = item.dst = data
    item.length = length
    item.ok = 0


# The Python face.

def backend_name():
    return _NAME


def backends():
    return (*_accelerated(), "libsodium")


def use_backend(str name not None):
    global _NAME
    known = ("auto", *backends())
    if name not in known:
        raise ValueError(f"not a cipher backend of this CPU: {name!r}; there are {', '.join(known)}")
    _NAME = _set_backend(backends()[0] if name == "auto" else name)


def seal(
    bytes key not None, bytes nonce not None,
    const uint8_t[::1] data not None, const uint8_t[::1] associated_data not None,
):
    check_key(key, nonce)
    cdef Py_ssize_t size = data.shape[0]
    cdef bytes sealed = PyBytes_FromStringAndSize(NULL, size + AEAD_TAG)
    cdef uint8_t* out = <uint8_t*><char*>sealed
    cdef const uint8_t* k = <const uint8_t*><const char*>key
    cdef const uint8_t* n = <const uint8_t*><const char*>nonce
    cdef const uint8_t* ad = &associated_data[0] if associated_data.shape[0] else NULL
    cdef const uint8_t* m = &data[0] if size else NULL
    with nogil:
        libsodium_encrypt(out, NULL, m, size, ad, associated_data.shape[0], NULL, n, k)
    return sealed


def open(
    bytes key not None, bytes nonce not None,
    const uint8_t[::1] data not None, const uint8_t[::1] associated_data not None,
):
    check_key(key, nonce)
    cdef Py_ssize_t size = data.shape[0] - AEAD_TAG
    if size < 0:
        return None
    cdef bytes plain = PyBytes_FromStringAndSize(NULL, size)
    cdef uint8_t* out = <uint8_t*><char*>plain
    cdef const uint8_t* k = <const uint8_t*><const char*>key
    cdef const uint8_t* n = <const uint8_t*><const char*>nonce
    cdef const uint8_t* ad = &associated_data[0] if associated_data.shape[0] else NULL
    cdef const uint8_t* c = &data[0]
    cdef int code
    with nogil:
        code = libsodium_decrypt(
            out, NULL, NULL, c, size + AEAD_TAG, ad, associated_data.shape[0], n, k)
    return plain if code == 0 else None


def seal_batch(PacketBatch batch not None, bytes key not None, const uint64_t[::1] counters not None):
    cdef Batch* b = check_batch(batch, key, counters)
    cdef const uint8_t* k = <const uint8_t*><const char*>key
    cdef AeadItem items[CHUNK]
    cdef size_t count = 0
    cdef uint32_t slot
    with nogil:
        for slot in range(b.count):
            if b.verdict[slot] != PASS:
                continue
            if <uint64_t>b.offset[slot] + b.length[slot] + AEAD_TAG > <uint64_t>b.stride * (slot + 1):
                b.verdict[slot] = TOO_LONG
                continue
            fill(&items[count], k, counters[slot], slot_packet(b, slot), b.length[slot])
            b.length[slot] += AEAD_TAG
            count += 1
            if count == CHUNK:
                backend.seal(items, count)
                count = 0
        backend.seal(items, count)


def open_batch(PacketBatch batch not None, bytes key not None, const uint64_t[::1] counters not None):
    cdef Batch* b = check_batch(batch, key, counters)
    cdef const uint8_t* k = <const uint8_t*><const char*>key
    cdef AeadItem items[CHUNK]
    cdef uint32_t slots[CHUNK]
    cdef size_t count = 0
    cdef uint32_t slot
    with nogil:
        for slot in range(b.count):
            if b.verdict[slot] != PASS:
                continue
            if b.length[slot] < AEAD_TAG:
                b.verdict[slot] = BAD_TAG
                continue
            b.length[slot] -= AEAD_TAG
            fill(&items[count], k, counters[slot], slot_packet(b, slot), b.length[slot])
            slots[count] = slot
            count += 1
            if count == CHUNK:
                finish_open(b, items, slots, count)
                count = 0
        finish_open(b, items, slots, count)


cdef void finish_open(Batch* b, AeadItem* items, uint32_t* slots, size_t count) noexcept nogil:
    cdef size_t i
    backend.open(items, count)
    for i in range(count):
        if not items[i].ok:
            b.verdict[slots[i]] = BAD_TAG


cdef int check_key(bytes key, bytes nonce) except -1:
    if len(key) != AEAD_KEY:
        raise ValueError("the key must have 32 bytes")
    if len(nonce) != 12:
        raise ValueError("the nonce must have 12 bytes")
    return 0


cdef Batch* check_batch(PacketBatch batch, bytes key, const uint64_t[::1] counters) except NULL:
    if len(key) != AEAD_KEY:
        raise ValueError("the key must have 32 bytes")
    if counters.shape[0] != batch.b.count:
        raise ValueError("there must be one counter a slot")
    return &batch.b


# Choice of the backend.

def _from_pynacl():
    from nacl._sodium import ffi, lib

    def address(name):
        return int(ffi.cast("uintptr_t", ffi.addressof(lib, name)))

    if lib.sodium_init() < 0:
        raise ImportError("libsodium does not start")
    return lib, address


def _from_system():
    library = ctypes.CDLL("libsodium.so.23")

    def address(name):
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value

    if library.sodium_init() < 0:
        raise ImportError("libsodium does not start")
    return library, address


# RFC 8439 section 2.8.2.
cdef bytes SELF_TEST_KEY = bytes(range(0x80, 0xA0))
cdef bytes SELF_TEST_NONCE = bytes.fromhex("070000004041424344454647")
cdef bytes SELF_TEST_AD = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
cdef bytes SELF_TEST_TEXT = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you "
    b"only one tip for the future, sunscreen would be it."
)
cdef bytes SELF_TEST_SEALED = bytes.fromhex(
    "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
    "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
    "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
    "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
)


def _works():
    damaged = bytes([SELF_TEST_SEALED[0] ^ 1]) + SELF_TEST_SEALED[1:]
    arguments = SELF_TEST_KEY, SELF_TEST_NONCE
    return (
        seal(*arguments, SELF_TEST_TEXT, SELF_TEST_AD) == SELF_TEST_SEALED
        and open(*arguments, SELF_TEST_SEALED, SELF_TEST_AD) == SELF_TEST_TEXT
        and open(*arguments, damaged, SELF_TEST_AD) is None
    )


def _load_sodium():
    global _KEEP, _SODIUM, libsodium_encrypt, libsodium_decrypt
    cdef uintptr_t encrypt
    cdef uintptr_t decrypt
    reasons = []
    for name, load in (("PyNaCl", _from_pynacl), ("system", _from_system)):
        try:
            library, address = load()
            encrypt = address("crypto_aead_chacha20poly1305_ietf_encrypt")
            decrypt = address("crypto_aead_chacha20poly1305_ietf_decrypt")
        except (ImportError, AttributeError, OSError) as error:
            reasons.append(f"{name}: {error}")
            continue
        libsodium_encrypt = <sodium_encrypt>encrypt
        libsodium_decrypt = <sodium_decrypt>decrypt
        if _works():
            _KEEP, _SODIUM = library, name
            return
        reasons.append(f"{name}: fails the self-test of RFC 8439")
    raise ImportError(
        "no usable ChaCha20-Poly1305; install PyNaCl 1.5 or newer, or libsodium 1.0.18 "
        f"or newer ({'; '.join(reasons)})"
    )


def _accelerated():
    """Our own backends that this CPU can run, best first."""
    names = []
    cdef const Backend* found = aead_backend_at(0)
    while found != NULL:
        names.append(found.name.decode())
        found = aead_backend_at(len(names))
    return names


def _set_backend(name):
    """Puts the backend in place, or libsodium for one that fails its self-test. Returns its name."""
    cdef const Backend* found
    for index, accelerated in enumerate(_accelerated()):
        if accelerated != name:
            continue
        found = aead_backend_at(index)
        if agrees_with_libsodium(found):
            backend.seal, backend.open = found.seal, found.open
            return name
    backend.seal, backend.open = sodium_seal_batch, sodium_open_batch
    if name == "libsodium":
        return f"libsodium ({_SODIUM})"
    return f"libsodium ({_SODIUM}; {name} FAILED its self-test)"


# RFC 8439 appendix A.5: the start of the ciphertext, on which the associated data has no influence.
cdef bytes A5_KEY = bytes.fromhex("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0")
cdef uint64_t A5_COUNTER = 0x0807060504030201
cdef bytes A5_TEXT = b"Internet-Drafts are draft documents valid for a maximum of six months"
cdef bytes A5_SEALED = bytes.fromhex(
    "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0"
    "bdb7b73c321b0100d4f03b7f355894cf332f830e71"
)

cdef enum:
    TESTED = 40            # packets of the self-test
    TEST_STRIDE = 1600


# One packet of A.5, and others of all kinds of lengths under two keys: sealed as libsodium does it,
# opened again, and refused where a bit is wrong.
cdef bint agrees_with_libsodium(const Backend* candidate):
    cdef AeadItem ours[TESTED]
    cdef AeadItem theirs[TESTED]
    cdef const uint8_t* keys[2]
    keys[0], keys[1] = <const uint8_t*><char*>A5_KEY, <const uint8_t*><char*>SELF_TEST_KEY
    cdef bytes text = A5_TEXT * 30
    mine, other = bytearray(TESTED * TEST_STRIDE), bytearray(TESTED * TEST_STRIDE)
    cdef uint8_t* a = mine
    cdef uint8_t* b = other
    cdef int i
    cdef uint32_t n
    for i in range(TESTED):
        n = len(A5_TEXT) if i == 0 else 37 * i
        memcpy(&a[i * TEST_STRIDE], <const char*>text, n)
        memcpy(&b[i * TEST_STRIDE], <const char*>text, n)
        fill(&ours[i], keys[i & 1], A5_COUNTER + i, &a[i * TEST_STRIDE], n)
        fill(&theirs[i], keys[i & 1], A5_COUNTER + i, &b[i * TEST_STRIDE], n)
    plain = bytes(mine)
    candidate.seal(ours, TESTED)
    sodium_seal_batch(theirs, TESTED)
    if mine != other or not mine.startswith(A5_SEALED):
        return False
    for i in range(0, TESTED, 3):
        a[i * TEST_STRIDE + ours[i].length] ^= 1
    candidate.open(ours, TESTED)
    for i in range(TESTED):
        n = ours[i].length
        expected = plain if i % 3 else other
        if ours[i].ok != (i % 3 != 0) or mine[i * TEST_STRIDE:][:n] != expected[i * TEST_STRIDE:][:n]:
            return False
    return True


def _choose():
    wanted = os.environ.get("FIREZONE_AEAD") or "auto"
    _load_sodium()
    try:
        use_backend(wanted)
    except ValueError as error:
        raise ValueError(f"FIREZONE_AEAD: {error}") from None


_choose()
