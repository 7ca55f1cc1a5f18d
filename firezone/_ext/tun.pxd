# The TUN device: reads until it would block, writes one packet or super-packet at a time.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from firezone._ext.batch cimport Batch
from firezone._ext.coalesce cimport Coalescer
from firezone._ext.segments cimport SuperPacket

cdef extern from "sys/uio.h" nogil:
    ctypedef struct iovec "struct iovec":
        void* iov_base
        size_t iov_len

# Of the thread that reads.
ctypedef struct TunReader:
    SuperPacket pending    # what the last batch had no room for
    uint8_t* staging       # holds it
    uint64_t calls         # that read something
    uint8_t _pad[64]

# Of the thread that writes.
ctypedef struct TunWriter:
    Coalescer items
    iovec* vectors
    uint8_t* headers       # of the super-packet being written, behind its virtio header
    bint merge_tcp
    bint merge_udp
    int refused            # errno with which the device refused super-packets: no more of them
    uint64_t calls

ctypedef struct TunIo:
    int fd                 # non-blocking, IFF_NO_PI
    uint32_t mtu
    bint has_header        # IFF_VNET_HDR
    TunReader reader
    TunWriter writer

# Appends what waits, up to the batch's capacity, super-packets as their segments; longer than the
# MTU is TOO_LONG. Returns how many slots, or -errno if the device is of no more use.
cdef int tun_read(TunIo* io, Batch* b) noexcept nogil

# Writes the PASS slots. What cannot be written becomes WRITE_FAILED. Returns as above.
cdef int tun_write(TunIo* io, Batch* b) noexcept nogil


cdef class Tun:
    cdef TunIo io
