# A ring between one producing and one consuming thread; its own memory, never more.
#
# Wake-ups are coalesced: a push writes the eventfd only if the consumer had emptied the ring. The
# consumer clears the eventfd first and looks for items after that, so it never sleeps on one.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from firezone._ext.batch cimport Endpoint

cdef enum:
    RING_STRIDE = 2304     # bytes of an item with its header
    RING_HEADER = 64

ctypedef struct RingItem:
    uint32_t kind
    uint32_t peer
    uint32_t argument
    uint32_t length        # of the payload, which follows the header
    uint64_t revision      # of the peers when the item was made
    Endpoint local
    Endpoint remote

ctypedef struct RingBuffer:
    uint8_t* memory
    uint32_t capacity      # items, a power of two
    int wake_fd            # eventfd, or -1
    uint8_t _pad_set[48]
    uint64_t head          # producer: items ever pushed
    uint64_t dropped
    uint8_t _pad_head[48]
    uint64_t tail          # consumer: items ever taken
    uint8_t _pad_tail[56]

# Copies an item in. False and counted if fewer than 1 + `reserve` places are free, or if it is too
# long; `reserve` keeps room for items that matter more.
cdef bint ring_push(
    RingBuffer* r, const RingItem* item, const uint8_t* payload, uint32_t reserve
) noexcept nogil

# The oldest item, NULL when there is none. It stays valid until ring_advance.
cdef RingItem* ring_front(RingBuffer* r) noexcept nogil

# Gives the place of the oldest item back.
cdef void ring_advance(RingBuffer* r) noexcept nogil

# Makes an eventfd readable, and not readable any more.
cdef void wake_set(int fd) noexcept nogil
cdef void wake_clear(int fd) noexcept nogil


cdef inline const uint8_t* item_payload(const RingItem* item) noexcept nogil:
    return <const uint8_t*>item + RING_HEADER


# One producer and one consumer; each may be a data thread on `ring` or Python.
cdef class Ring:
    cdef RingBuffer ring
