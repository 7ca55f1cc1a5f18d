"""Packets from and to a TUN device, or a datagram socket in its place."""

cimport cython
from libc.errno cimport EAGAIN, EBADF, EINTR, ENODEV, errno
from libc.stdint cimport uint32_t
from posix.unistd cimport read, write

from firezone._ext.batch cimport (
    PASS,
    TOO_LONG,
    WRITE_FAILED,
    Batch,
    PacketBatch,
    slot_packet,
    slot_reset,
    slot_room,
)

cdef extern from "errno.h" nogil:
    enum:
        EBADFD
        ECONNRESET
        ENOTCONN

cdef extern from "poll.h" nogil:
    ctypedef struct pollfd "struct pollfd":
        int fd
        short events
        short revents
    enum:
        POLLOUT
    int poll(pollfd*, unsigned long, int)

cdef enum:
    FULL_WAIT_MS = 2       # for a full queue; longer would only make the packets older


@cython.final
cdef class Tun:
    """See tun.pyi."""

    def __cinit__(self, int fd, uint32_t mtu=1280):
        if not 1280 <= mtu <= 65535:
            raise ValueError("an MTU is at least 1280 (RFC 8200 section 5)")
        self.io.fd = fd
        self.io.mtu = mtu

    @property
    def fd(self):
        return self.io.fd

    def read(self, PacketBatch batch not None):
        cdef int result
        with nogil:
            result = tun_read(&self.io, &batch.b)
        return _checked(result)

    def write(self, PacketBatch batch not None):
        cdef int result
        with nogil:
            result = tun_write(&self.io, &batch.b)
        return _checked(result)


cdef int tun_read(TunIo* io, Batch* b) noexcept nogil:
    cdef uint32_t first = b.count
    cdef Py_ssize_t got
    while b.count < b.capacity:
        slot_reset(b, b.count)
        got = read(io.fd, slot_packet(b, b.count), slot_room(b))
        if got <= 0:
            if got < 0 and errno == EINTR:
                continue
            if got < 0 and b.count == first and _gone(errno):
                return -errno
            break
        b.length[b.count] = <uint32_t>got
        # A read that fills the room may have been cut off.
        if got > <Py_ssize_t>io.mtu or got == <Py_ssize_t>slot_room(b):
            b.verdict[b.count] = TOO_LONG
        b.count += 1
    return b.count - first


cdef int tun_write(TunIo* io, Batch* b) noexcept nogil:
    cdef uint32_t i
    cdef int written = 0
    cdef int result
    cdef bint may_wait = True
    for i in range(b.count):
        if b.verdict[i] != PASS:
            continue
        result = _write_one(io.fd, b, i, &may_wait)
        if result < 0:
            return result
        written += result
    return written


# 1 if written, 0 if not, -errno if the device is of no more use.
cdef int _write_one(int fd, Batch* b, uint32_t i, bint* may_wait) noexcept nogil:
    while write(fd, slot_packet(b, i), b.length[i]) < 0:
        if errno == EINTR:
            continue
        if errno == EAGAIN and may_wait[0]:
            may_wait[0] = False
            _wait_writable(fd)
            continue
        b.verdict[i] = WRITE_FAILED
        return -errno if _gone(errno) else 0
    return 1


cdef void _wait_writable(int fd) noexcept nogil:
    cdef pollfd waiting
    waiting.fd = fd
    waiting.events = POLLOUT
    waiting.revents = 0
    poll(&waiting, 1, FULL_WAIT_MS)


# EBADFD: a TUN descriptor whose interface was deleted. The last two: a socket in its place.
cdef inline bint _gone(int code) noexcept nogil:
    return code in (EBADF, EBADFD, ENODEV, ECONNRESET, ENOTCONN)


cdef int _checked(int result) except -1:
    if result < 0:
        raise OSError(-result, "the TUN device of the data plane")
    return result
