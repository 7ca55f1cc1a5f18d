"""Packets from and to a TUN device, or a datagram socket in its place.

With IFF_VNET_HDR a virtio header stands before each packet, and one read or write may carry a
super-packet of up to 64 KiB. A plain packet is read straight into its slot; the rest of a
super-packet goes into a staging buffer, where it waits if the batch is full before it is split.
"""

cimport cython
from libc.errno cimport EAGAIN, EBADF, EINTR, EINVAL, EIO, ENODEV, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport read, write

from firezone._ext.batch cimport (
    HEADROOM,
    MALFORMED,
    PASS,
    TOO_LONG,
    WRITE_FAILED,
    Batch,
    PacketBatch,
    slot_extent,
    slot_packet,
    slot_reset,
    slot_room,
)
from firezone._ext.coalesce cimport (
    COALESCE_HEADERS,
    Item,
    coalesce,
    coalesce_headers,
    coalescer_allocate,
    coalescer_release,
)
from firezone._ext.segments cimport (
    segments_begin,
    segments_finish_checksum,
    segments_left,
    segments_take,
)
from firezone._ext.vnet cimport VNET_HEADER, VNET_PLAIN, VnetHeader

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

cdef extern from "sys/uio.h" nogil:
    Py_ssize_t readv(int fd, const iovec* vectors, int count)
    Py_ssize_t writev(int fd, const iovec* vectors, int count)

cdef enum:
    FULL_WAIT_MS = 2       # for a full queue; longer would only make the packets older
    STAGING = 0x10000 + 64 # the longest IPv6 packet is 40 bytes longer than its length field says
    MAX_VECTORS = 1024     # UIO_MAXIOV
    MAX_BATCH = 4096
    NONE = 0xFFFFFFFF


@cython.final
cdef class Tun:
    """See tun.pyi."""

    def __cinit__(
        self,
        int fd,
        uint32_t mtu=1280,
        *,
        bint has_header=False,
        bint merge_tcp=False,
        bint merge_udp=False,
    ):
        if not 1280 <= mtu <= 65535:
            raise ValueError("an MTU is at least 1280 (RFC 8200 section 5)")
        if (merge_tcp or merge_udp) and not has_header:
            raise ValueError("super-packets need the virtio header")
        self.io.fd = fd
        self.io.mtu = mtu
        self.io.has_header = has_header
        self.io.writer.merge_tcp = merge_tcp
        self.io.writer.merge_udp = merge_udp
        if has_header:
            _allocate(&self.io)

    def __dealloc__(self):
        free(self.io.reader.staging)
        free(self.io.writer.vectors)
        free(self.io.writer.headers)
        coalescer_release(&self.io.writer.items)

    @property
    def fd(self):
        return self.io.fd

    @property
    def refused(self):
        return self.io.writer.refused

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
    cdef uint32_t place = first * b.stride
    cdef Py_ssize_t got
    while True:
        if io.has_header:
            segments_take(&io.reader.pending, b, &place)
        if b.count == b.capacity:
            break
        got = _read_with_header(io, b, &place) if io.has_header else _read_plain(io, b)
        if got <= 0:
            if got < 0 and errno == EINTR:
                continue
            if got < 0 and b.count == first and _gone(errno):
                return -errno
            break
        io.reader.calls += 1
    return b.count - first


cdef Py_ssize_t _read_plain(TunIo* io, Batch* b) noexcept nogil:
    cdef Py_ssize_t got
    slot_reset(b, b.count)
    got = read(io.fd, slot_packet(b, b.count), slot_room(b))
    if got <= 0:
        return got
    b.length[b.count] = <uint32_t>got
    # A read that fills the room may have been cut off.
    if got > <Py_ssize_t>io.mtu or got == <Py_ssize_t>slot_room(b):
        b.verdict[b.count] = TOO_LONG
    b.count += 1
    return got


# A packet becomes a slot at once, a super-packet becomes `pending`.
cdef Py_ssize_t _read_with_header(TunIo* io, Batch* b, uint32_t* place) noexcept nogil:
    cdef VnetHeader header
    cdef iovec vectors[3]
    cdef Py_ssize_t got
    cdef uint32_t slot = b.count
    cdef uint32_t limit = min(io.mtu, slot_room(b))
    slot_reset(b, slot)
    b.offset[slot] = place[0] + HEADROOM
    vectors[0].iov_base = &header
    vectors[0].iov_len = VNET_HEADER
    vectors[1].iov_base = slot_packet(b, slot)
    vectors[1].iov_len = limit
    vectors[2].iov_base = io.reader.staging + limit
    vectors[2].iov_len = STAGING - limit
    got = readv(io.fd, vectors, 3)
    if got <= 0:
        return got
    if got < VNET_HEADER:
        b.verdict[slot] = MALFORMED
    elif header.type == VNET_PLAIN:
        _take_packet(io, b, &header, <uint32_t>got - VNET_HEADER, limit)
    elif _take_super_packet(io, b, &header, <uint32_t>got - VNET_HEADER, limit):
        return got
    place[0] += slot_extent(b.length[slot])
    b.count += 1
    return got


cdef void _take_packet(
    TunIo* io, Batch* b, const VnetHeader* header, uint32_t length, uint32_t limit
) noexcept nogil:
    cdef uint32_t slot = b.count
    b.length[slot] = min(length, limit)
    if length > limit:
        b.verdict[slot] = TOO_LONG
    else:
        b.verdict[slot] = segments_finish_checksum(header, slot_packet(b, slot), length)


# False if it is of no use: its slot says why.
cdef bint _take_super_packet(
    TunIo* io, Batch* b, const VnetHeader* header, uint32_t length, uint32_t limit
) noexcept nogil:
    cdef uint8_t* staging = io.reader.staging
    cdef uint32_t slot = b.count
    memcpy(staging, slot_packet(b, slot), min(length, limit))
    b.verdict[slot] = segments_begin(&io.reader.pending, header, staging, length, limit)
    return b.verdict[slot] == PASS


cdef int tun_write(TunIo* io, Batch* b) noexcept nogil:
    cdef uint32_t i
    cdef int written = 0
    cdef int result
    cdef bint may_wait = True
    if io.has_header:
        return _write_items(io, b)
    for i in range(b.count):
        if b.verdict[i] != PASS:
            continue
        result = _write_one(io, b, i, &may_wait)
        if result < 0:
            return result
        written += result
    return written


cdef int _write_items(TunIo* io, Batch* b) noexcept nogil:
    cdef TunWriter* w = &io.writer
    cdef uint32_t i
    cdef int written = 0
    cdef int result
    cdef bint may_wait = True
    coalesce(&w.items, b, w.merge_tcp, w.merge_udp)
    for i in range(w.items.count):
        result = 0
        if w.items.items[i].count > 1 and not w.refused:
            result = _write_merged(io, b, &w.items.items[i], &may_wait)
        if result == 0:
            result = _write_each(io, b, &w.items.items[i], &may_wait)
        if result < 0:
            return result
        written += result
    return written


# How many packets left; 0 if the device would not take them as one, -errno if it is of no more use.
cdef int _write_merged(TunIo* io, Batch* b, const Item* item, bint* may_wait) noexcept nogil:
    cdef TunWriter* w = &io.writer
    cdef uint32_t slot = item.first
    cdef int count = 1
    cdef uint32_t size = coalesce_headers(
        item, b, <VnetHeader*>w.headers, w.headers + VNET_HEADER)
    w.vectors[0].iov_base = w.headers
    w.vectors[0].iov_len = VNET_HEADER + size
    while slot != NONE:
        w.vectors[count].iov_base = slot_packet(b, slot) + size
        w.vectors[count].iov_len = b.length[slot] - size
        count += 1
        slot = w.items.following[slot]
    if not _write(io, w.vectors, count, may_wait):
        return -errno if _gone(errno) else 0
    return item.count


# How many packets left, one by one. That a merged write failed may have had other reasons than the
# merging, as a device that is down; if the packets leave now it had not.
cdef int _write_each(TunIo* io, Batch* b, const Item* item, bint* may_wait) noexcept nogil:
    cdef TunWriter* w = &io.writer
    cdef int tried = errno
    cdef uint32_t slot = item.first
    cdef int written = 0
    cdef int result
    while slot != NONE:
        result = _write_one(io, b, slot, may_wait)
        if result < 0:
            return result
        written += result
        slot = w.items.following[slot]
    if item.count > 1 and written and not w.refused and tried in (EINVAL, EIO):
        w.refused = tried
        w.merge_tcp = w.merge_udp = False
    return written


# 1 if written, 0 if not, -errno if the device is of no more use.
cdef int _write_one(TunIo* io, Batch* b, uint32_t i, bint* may_wait) noexcept nogil:
    cdef VnetHeader header
    cdef iovec vectors[2]
    cdef int skip = 0 if io.has_header else 1
    memset(&header, 0, sizeof(VnetHeader))
    vectors[0].iov_base = &header
    vectors[0].iov_len = VNET_HEADER
    vectors[1].iov_base = slot_packet(b, i)
    vectors[1].iov_len = b.length[i]
    if _write(io, vectors + skip, 2 - skip, may_wait):
        return 1
    b.verdict[i] = WRITE_FAILED
    return -errno if _gone(errno) else 0


# False with errno if it could not be written.
cdef bint _write(TunIo* io, iovec* vectors, int count, bint* may_wait) noexcept nogil:
    while writev(io.fd, vectors, count) < 0:
        if errno == EINTR:
            continue
        if errno != EAGAIN or not may_wait[0]:
            return False
        may_wait[0] = False
        _wait_writable(io.fd)
    io.writer.calls += 1
    return True


cdef void _wait_writable(int fd) noexcept nogil:
    cdef pollfd waiting
    waiting.fd = fd
    waiting.events = POLLOUT
    waiting.revents = 0
    poll(&waiting, 1, FULL_WAIT_MS)


# EBADFD: a TUN descriptor whose interface was deleted. The last two: a socket in its place.
cdef inline bint _gone(int code) noexcept nogil:
    return code in (EBADF, EBADFD, ENODEV, ECONNRESET, ENOTCONN)


cdef int _allocate(TunIo* io) except -1:
    io.reader.staging = <uint8_t*>calloc(1, STAGING)
    io.writer.vectors = <iovec*>calloc(MAX_VECTORS, sizeof(iovec))
    io.writer.headers = <uint8_t*>calloc(1, VNET_HEADER + COALESCE_HEADERS)
    if not (io.reader.staging and io.writer.vectors and io.writer.headers):
        raise MemoryError
    return coalescer_allocate(&io.writer.items, MAX_BATCH)


cdef int _checked(int result) except -1:
    if result < 0:
        raise OSError(-result, "the TUN device of the data plane")
    return result
