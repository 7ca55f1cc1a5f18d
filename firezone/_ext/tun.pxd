# The TUN device: one read and one write per packet, until it would block.
from libc.stdint cimport uint32_t

from firezone._ext.batch cimport Batch

ctypedef struct TunIo:
    int fd                 # non-blocking, IFF_NO_PI
    uint32_t mtu

# Appends what waits, up to the batch's capacity; longer than the MTU is TOO_LONG. Returns how many,
# or -errno if the device is of no more use.
cdef int tun_read(TunIo* io, Batch* b) noexcept nogil

# Writes the PASS slots. What cannot be written becomes WRITE_FAILED. Returns as above.
cdef int tun_write(TunIo* io, Batch* b) noexcept nogil


cdef class Tun:
    cdef TunIo io
