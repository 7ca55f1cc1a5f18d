# WireGuard's transport data message: its header, and words in its byte order. Inline only: no module to
# import.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from firezone._ext.batch cimport Batch

cdef enum:
    TRANSPORT_DATA = 4
    DATA_HEADER = 16       # type, receiver index, counter
    DATA_OVERHEAD = 32     # the header and the tag


# The receiver index of a slot that holds transport data.
cdef inline uint32_t message_index(const Batch* b, uint32_t slot) noexcept nogil:
    return read32(b.arena + b.offset[slot] + 4)


# The same once sessions_open has opened it: the header stands before the packet.
cdef inline uint32_t opened_index(const Batch* b, uint32_t slot) noexcept nogil:
    return read32(b.arena + b.offset[slot] - 12)


cdef inline uint32_t read32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16 | <uint32_t>p[3] << 24)


cdef inline uint64_t read64(const uint8_t* p) noexcept nogil:
    return read32(p) | <uint64_t>read32(p + 4) << 32


cdef inline void write32(uint8_t* p, uint32_t value) noexcept nogil:
    p[0] = value & 0xFF
    p[1] = value >> 8 & 0xFF
    p[2] = value >> 16 & 0xFF
    p[3] = value >> 24


cdef inline void write64(uint8_t* p, uint64_t value) noexcept nogil:
    write32(p, <uint32_t>value)
    write32(p + 4, <uint32_t>(value >> 32))
