"""A single-producer single-consumer ring of packets between a data thread and Python."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from firezone._ext.atomics cimport (
    fence_full,
    load_acquire_u64,
    load_relaxed_u64,
    store_relaxed_u64,
    store_release_u64,
)
from firezone._ext.batch cimport endpoint_parse, endpoint_tuple

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void**, size_t, size_t)

cdef extern from "sys/eventfd.h" nogil:
    int eventfd_write(int, uint64_t)
    int eventfd_read(int, uint64_t*)


@cython.final
cdef class Ring:
    """See ring.pyi."""

    def __cinit__(self, uint32_t capacity=1024, int wake_fd=-1):
        if capacity < 2 or capacity & (capacity - 1) or capacity > 1 << 20:
            raise ValueError("the capacity of a ring is a power of two")
        memset(&self.ring, 0, sizeof(RingBuffer))
        # Not cleared: its pages come into being when they are first used.
        if posix_memalign(<void**>&self.ring.memory, 64, <size_t>capacity * RING_STRIDE):
            raise MemoryError
        self.ring.capacity = capacity
        self.ring.wake_fd = wake_fd

    def __dealloc__(self):
        free(self.ring.memory)

    def __len__(self):
        return load_acquire_u64(&self.ring.head) - load_acquire_u64(&self.ring.tail)

    @property
    def capacity(self):
        return self.ring.capacity

    @property
    def dropped(self):
        return load_relaxed_u64(&self.ring.dropped)

    def push(
        self,
        uint32_t kind,
        bytes payload not None,
        uint32_t peer=0,
        uint32_t argument=0,
        local=None,
        remote=None,
    ):
        cdef RingItem item
        memset(&item, 0, sizeof(RingItem))
        item.kind = kind
        item.peer = peer
        item.argument = argument
        item.length = <uint32_t>min(len(payload), RING_STRIDE)
        if local is not None:
            endpoint_parse(&item.local, local)
        if remote is not None:
            endpoint_parse(&item.remote, remote)
        return ring_push(&self.ring, &item, payload, 0)

    def pop(self):
        cdef RingItem* item = ring_front(&self.ring)
        if item == NULL:
            return None
        taken = (
            item.kind,
            item.peer,
            item.argument,
            <bytes>(<const char*>item_payload(item))[:item.length],
            endpoint_tuple(&item.local) if item.local.family else None,
            endpoint_tuple(&item.remote) if item.remote.family else None,
        )
        ring_advance(&self.ring)
        return taken


cdef bint ring_push(
    RingBuffer* r, const RingItem* item, const uint8_t* payload, uint32_t reserve
) noexcept nogil:
    cdef uint64_t head = r.head
    cdef uint64_t used = head - load_acquire_u64(&r.tail)
    cdef uint8_t* place
    if item.length > RING_STRIDE - RING_HEADER or used + reserve >= r.capacity:
        store_relaxed_u64(&r.dropped, r.dropped + 1)
        return False
    place = r.memory + (head & (r.capacity - 1)) * RING_STRIDE
    memcpy(place, item, sizeof(RingItem))
    memcpy(place + RING_HEADER, payload, item.length)
    store_release_u64(&r.head, head + 1)
    # Between our store and this load, as between the consumer's: one of us sees the other's.
    fence_full()
    if load_acquire_u64(&r.tail) == head and r.wake_fd >= 0:
        eventfd_write(r.wake_fd, 1)
    return True


cdef RingItem* ring_front(RingBuffer* r) noexcept nogil:
    cdef uint64_t tail = r.tail
    if load_acquire_u64(&r.head) == tail:
        return NULL
    return <RingItem*>(r.memory + (tail & (r.capacity - 1)) * RING_STRIDE)


cdef void ring_advance(RingBuffer* r) noexcept nogil:
    store_release_u64(&r.tail, r.tail + 1)
    fence_full()


cdef void wake_set(int fd) noexcept nogil:
    if fd >= 0:
        eventfd_write(fd, 1)


cdef void wake_clear(int fd) noexcept nogil:
    cdef uint64_t value
    if fd >= 0:
        eventfd_read(fd, &value)
