# ChaCha20-Poly1305 (RFC 8439) over the packets of a batch, as WireGuard uses it: no associated data,
# nonce = 4 zero bytes and the counter in little endian. Any mixture of keys and lengths.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    AEAD_KEY = 32
    AEAD_TAG = 16

cdef extern from "aead.h":
    # In place if dst = src; no other overlap, with other items neither.
    ctypedef struct AeadItem "aead_item":
        const uint8_t* key     # 32 bytes
        const uint8_t* src     # seal: plaintext; open: ciphertext and the tag behind it
        uint8_t* dst           # seal: room for ciphertext and tag; open: for the plaintext
        uint64_t counter
        uint32_t length        # of the plaintext, both ways; less than 2^31
        uint32_t ok            # set by open: 1 = authentic, dst is written; 0 = not, dst is as it was

# The more packets a call gets, the better they fill the lanes; 16 have nearly all of the gain.
cdef void aead_seal_batch(AeadItem* items, size_t count) noexcept nogil
cdef void aead_open_batch(AeadItem* items, size_t count) noexcept nogil

# One packet: `data` of `length` bytes of plaintext and 16 of room, or of tag.
cdef void aead_seal(const uint8_t* key, uint64_t counter, uint8_t* data, uint32_t length) noexcept nogil
cdef bint aead_open(const uint8_t* key, uint64_t counter, uint8_t* data, uint32_t length) noexcept nogil
