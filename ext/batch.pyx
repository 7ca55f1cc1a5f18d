"""PacketBatch: packets in one arena, what is known about each in columns."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy


cdef extern from "sys/mman.h" nogil:
    enum:
        MAP_ANONYMOUS
        MAP_PRIVATE
        PROT_READ
        PROT_WRITE
    void* MAP_FAILED
    void* mmap(void* address, size_t size, int protection, int flags, int fd, long offset) noexcept
    int munmap(void* address, size_t size) noexcept


@cython.final
cdef class PacketBatch:
    """Up to `capacity` packets. Slots are numbered from 0; one thread at a time."""

    def __cinit__(self, uint32_t capacity=64, uint32_t stride=2048, size_t arena_size=0):
        if not 1 <= capacity <= 4096:
            raise ValueError("capacity must be 1 to 4096 packets")
        if not 128 <= stride <= 0x20000 or stride % 64:
            raise ValueError("stride must be a multiple of 64 from 128 to 131072")
        cdef Batch* b = &self.b
        b.arena_size = max(<size_t>capacity * stride, arena_size)
        if b.arena_size >= 1 << 31:
            raise ValueError("an arena is smaller than 2 GiB")
        # Zeros that take memory only once they are touched.
        b.arena = <uint8_t*>mmap(
            NULL, b.arena_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if b.arena == MAP_FAILED:
            b.arena = NULL
            raise MemoryError
        b.capacity = capacity
        b.stride = stride
        b.offset = <uint32_t*>calloc(capacity, sizeof(uint32_t))
        b.length = <uint32_t*>calloc(capacity, sizeof(uint32_t))
        b.peer = <uint32_t*>calloc(capacity, sizeof(uint32_t))
        b.flow = <uint32_t*>calloc(capacity, sizeof(uint32_t))
        b.verdict = <uint8_t*>calloc(capacity, 1)
        b.ecn = <uint8_t*>calloc(capacity, 1)
        b.mark = <uint8_t*>calloc(capacity, 1)
        b.tuple = <Tuple*>calloc(capacity, sizeof(Tuple))
        b.local = <Endpoint*>calloc(capacity, sizeof(Endpoint))
        b.remote = <Endpoint*>calloc(capacity, sizeof(Endpoint))
        if not (b.offset and b.length and b.peer and b.flow and b.verdict and b.ecn and b.mark
                and b.tuple and b.local and b.remote):
            raise MemoryError

    def __dealloc__(self):
        if self.b.arena != NULL:
            munmap(self.b.arena, self.b.arena_size)
        free(self.b.offset)
        free(self.b.length)
        free(self.b.peer)
        free(self.b.flow)
        free(self.b.verdict)
        free(self.b.ecn)
        free(self.b.mark)
        free(self.b.tuple)
        free(self.b.local)
        free(self.b.remote)

    @property
    def capacity(self):
        return self.b.capacity

    @property
    def stride(self):
        return self.b.stride

    @property
    def arena_size(self):
        return self.b.arena_size

    def __len__(self):
        return self.b.count

    def clear(self):
        self.b.count = 0

    def append(self, const uint8_t[::1] packet not None, uint32_t peer=0, int ecn=0):
        cdef Batch* b = &self.b
        cdef uint32_t slot = b.count
        if slot == b.capacity:
            raise IndexError("the batch is full")
        if packet.shape[0] > slot_room(b):
            raise ValueError("the packet is longer than a slot")
        slot_reset(b, slot)
        if packet.shape[0]:
            memcpy(slot_packet(b, slot), &packet[0], packet.shape[0])
        b.length[slot] = <uint32_t>packet.shape[0]
        b.peer[slot] = peer
        b.ecn[slot] = ecn & 3
        b.count = slot + 1
        return slot

    def packet(self, Py_ssize_t slot):
        self._check(slot)
        return <bytes>(<const char*>slot_packet(&self.b, slot))[:self.b.length[slot]]

    def packets(self):
        return [self.packet(slot) for slot in range(self.b.count) if self.b.verdict[slot] == PASS]

    def offset(self, Py_ssize_t slot):
        self._check(slot)
        return self.b.offset[slot]

    def length(self, Py_ssize_t slot):
        self._check(slot)
        return self.b.length[slot]

    def peer(self, Py_ssize_t slot):
        self._check(slot)
        return self.b.peer[slot]

    def flow(self, Py_ssize_t slot):
        self._check(slot)
        return None if self.b.flow[slot] == FLOW_NONE else self.b.flow[slot]

    def verdict(self, Py_ssize_t slot):
        self._check(slot)
        return Verdict(self.b.verdict[slot])

    def set_verdict(self, Py_ssize_t slot, int verdict):
        self._check(slot)
        if not 0 <= verdict < VERDICTS:
            raise ValueError("no such verdict")
        self.b.verdict[slot] = verdict

    def ecn(self, Py_ssize_t slot):
        self._check(slot)
        return self.b.ecn[slot]

    def mark(self, Py_ssize_t slot):
        self._check(slot)
        return self.b.mark[slot]

    def set_mark(self, Py_ssize_t slot, int mark):
        self._check(slot)
        self.b.mark[slot] = mark & 0xFF

    def tuple(self, Py_ssize_t slot):
        self._check(slot)
        cdef const Tuple* t = &self.b.tuple[slot]
        size = 4 if t.family == 4 else 16 if t.family == 6 else 0
        return (
            t.family,
            t.protocol,
            <bytes>(<const char*>t.source)[:size],
            <bytes>(<const char*>t.destination)[:size],
            t.source_port,
            t.destination_port,
            t.tcp_flags,
        )

    def local(self, Py_ssize_t slot):
        self._check(slot)
        return endpoint_tuple(&self.b.local[slot])

    def remote(self, Py_ssize_t slot):
        self._check(slot)
        return endpoint_tuple(&self.b.remote[slot])

    def set_local(self, Py_ssize_t slot, int family, bytes address not None, int port):
        self._check(slot)
        endpoint_set(&self.b.local[slot], family, address, port)

    def set_remote(self, Py_ssize_t slot, int family, bytes address not None, int port):
        self._check(slot)
        endpoint_set(&self.b.remote[slot], family, address, port)

    cdef int _check(self, Py_ssize_t slot) except -1:
        if not 0 <= slot < self.b.count:
            raise IndexError("no such slot")
        return 0
