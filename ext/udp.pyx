"""UDP in batches: recvmmsg and sendmmsg, local addresses by packet info, ECN by TOS and TCLASS.

With UDP_SEGMENT, consecutive datagrams to one place leave as one message, which the kernel carries
whole as far as it can: all have the size of the first, but that the last may be shorter. With
UDP_GRO the kernel merges likewise what it receives. Such buffers of up to 64 KiB are taken apart in
place: a slot for each datagram. What a batch has no room for waits in its buffer.
"""

cimport cython
from libc.errno cimport (
    EAGAIN,
    EBADF,
    EINTR,
    EINVAL,
    EIO,
    EMSGSIZE,
    ENOTSOCK,
    errno,
)
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from firezone._ext.batch cimport (
    MALFORMED,
    PASS,
    SEND_FAILED,
    TOO_LONG,
    Batch,
    Endpoint,
    PacketBatch,
    endpoint_equal,
    slot_packet,
    slot_reset,
    slot_room,
)
from firezone._ext.messages cimport (
    CMSG_SPACE,
    CONTROL,
    IP_PKTINFO,
    IP_RECVTOS,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_UDP,
    IPV6_RECVPKTINFO,
    IPV6_RECVTCLASS,
    MSG_DONTWAIT,
    MSG_TRUNC,
    UDP_GRO,
    UDP_SEGMENT,
    Ends,
    getsockname,
    getsockopt,
    iovec,
    mmsghdr,
    msghdr,
    read_ends,
    read_name,
    recvmmsg,
    sendmmsg,
    sendmsg,
    setsockopt,
    sockaddr,
    sockaddr_in6,
    write_control,
    write_item,
    write_name,
)

cdef extern from "poll.h" nogil:
    ctypedef struct pollfd "struct pollfd":
        int fd
        short events
        short revents
    enum:
        POLLOUT
    int poll(pollfd*, unsigned long, int)

cdef enum:
    V4 = 0
    V6 = 1
    FULL_WAIT_MS = 2       # for a full send buffer; longer would only make the queue older
    MAX_BATCH = 4096
    MAX_SEGMENTS = 64      # UDP_MAX_SEGMENTS of kernels before 6.9
    MAX_MERGED = 0xFFFF - 48 # bytes of a message, without IPv6 and UDP headers
    FEW_BUFFERS = 8        # while they come merged, so that they stay in the cache


@cython.final
cdef class UdpSockets:
    """See udp.pyi."""

    def __cinit__(
        self, int fd4=-1, int fd6=-1, uint32_t capacity=64, *, bint gso=False, bint gro=False
    ):
        if not 0 < capacity <= 1024:
            raise ValueError("capacity out of range")
        memset(&self.io, 0, sizeof(UdpIo))
        self.io.fd[V4] = fd4
        self.io.fd[V6] = fd6
        self.io.capacity = capacity
        self.io.gro = gro and (fd4 >= 0 or fd6 >= 0)
        _allocate(&self.io)
        for which in range(2):
            if self.io.fd[which] >= 0:
                _prepare(&self.io, which)
                self.io.gso[which] = gso and _knows_gso(self.io.fd[which])
                self.io.gro = self.io.gro and _set_gro(self.io.fd[which], 1)
        if not self.io.gro:
            # Also where only one of them has it: buffers are of one size.
            _set_gro(fd4, 0)
            _set_gro(fd6, 0)

    def __dealloc__(self):
        _release(&self.io)

    @property
    def fds(self):
        return (self.io.fd[V4], self.io.fd[V6])

    @property
    def gso(self):
        return bool(self.io.gso[V4] or self.io.gso[V6])

    @property
    def gro(self):
        return bool(self.io.gro)

    @property
    def refused(self):
        return self.io.refused

    def receive(self, PacketBatch batch not None, int family):
        cdef int result
        if family not in (4, 6):
            raise ValueError("a family is 4 or 6")
        if self.io.gro and (batch.b.arena_size < UDP_BUFFER_STRIDE or batch.b.count):
            raise ValueError("merged datagrams need an empty batch with a large arena")
        with nogil:
            result = udp_receive(&self.io, &batch.b, V4 if family == 4 else V6)
        return _checked(result)

    def send(self, PacketBatch batch not None):
        cdef int result
        with nogil:
            result = udp_send(&self.io, &batch.b)
        return _checked(result)


# Receiving.


cdef int udp_receive(UdpIo* io, Batch* b, int which) noexcept nogil:
    if io.gro:
        return _receive_merged(io, b, which)
    return _receive_single(io, b, which)


# A datagram goes straight into its slot.
cdef int _receive_single(UdpIo* io, Batch* b, int which) noexcept nogil:
    cdef UdpIncoming* lane = &io.incoming
    cdef uint32_t first = b.count
    cdef uint32_t room = min(b.capacity - first, io.capacity)
    cdef uint32_t i
    cdef int got
    cdef Ends ends
    if io.fd[which] < 0 or room == 0:
        return 0
    for i in range(room):
        slot_reset(b, first + i)
        _offer(lane, i, slot_packet(b, first + i), slot_room(b))
    got = _receive(io, which, room)
    for i in range(<uint32_t>max(got, 0)):
        read_ends(&lane.messages[i].msg_hdr, io.port[which], &ends)
        _fill(b, first + i, &ends, lane.messages[i].msg_len)
        if lane.messages[i].msg_hdr.msg_flags & MSG_TRUNC:
            b.verdict[first + i] = TOO_LONG
        b.count += 1
    return got


# First what is left of the last read, whichever socket that was.
cdef int _receive_merged(UdpIo* io, Batch* b, int which) noexcept nogil:
    cdef UdpIncoming* lane = &io.incoming
    cdef int got
    if b.count:
        return 0                       # its packets lie where the buffers are
    if not udp_waits(io) or lane.arena != b.arena:
        if io.fd[which] < 0:
            return 0
        got = _receive(io, which, _arm(io, b))
        if got <= 0:
            return got
        lane.next = lane.taken = 0
        lane.got = got
        lane.which = which
        lane.merged = False
    while udp_waits(io) and b.count < b.capacity:
        _take_apart(io, b)
    return b.count


# Gives the buffers to the kernel that it does not have yet. Returns how many it has.
cdef uint32_t _arm(UdpIo* io, Batch* b) noexcept nogil:
    cdef UdpIncoming* lane = &io.incoming
    cdef uint32_t count = min(io.capacity, <uint32_t>(b.arena_size // UDP_BUFFER_STRIDE))
    cdef uint32_t used = lane.got
    cdef uint32_t i
    if lane.arena != b.arena:
        lane.arena = b.arena
        used = count
    for i in range(used):
        _offer(lane, i, b.arena + i * UDP_BUFFER_STRIDE, UDP_BUFFER)
    lane.got = lane.next = 0
    return min(count, <uint32_t>FEW_BUFFERS) if lane.merged else count


# Slots for the datagrams in the next buffer, as far as the batch has room.
cdef void _take_apart(UdpIo* io, Batch* b) noexcept nogil:
    cdef UdpIncoming* lane = &io.incoming
    cdef mmsghdr* message = &lane.messages[lane.next]
    cdef uint32_t start = <uint32_t>(<uint8_t*>lane.vectors[lane.next].iov_base - b.arena)
    cdef Ends ends
    cdef uint32_t slot
    read_ends(&message.msg_hdr, io.port[lane.which], &ends)
    if ends.size == 0 or ends.size >= message.msg_len:
        ends.size = message.msg_len
    else:
        lane.merged = True
    while b.count < b.capacity:
        slot = b.count
        slot_reset(b, slot)
        b.offset[slot] = start + lane.taken
        _fill(b, slot, &ends, min(ends.size, message.msg_len - lane.taken))
        lane.taken += b.length[slot]
        b.count += 1
        if lane.taken == message.msg_len:
            lane.taken = 0
            lane.next += 1
            return


cdef int _receive(UdpIo* io, int which, uint32_t count) noexcept nogil:
    cdef int got
    while True:
        got = recvmmsg(io.fd[which], io.incoming.messages, count, MSG_DONTWAIT, NULL)
        if got >= 0:
            io.incoming.calls += got
            return got
        if errno != EINTR:
            # Anything else is an error that the network reported; reading it has cleared it.
            return -errno if errno == EBADF or errno == ENOTSOCK else 0


# Gives a buffer to the kernel to receive into.
cdef inline void _offer(UdpIncoming* lane, uint32_t i, uint8_t* buffer, size_t size) noexcept nogil:
    cdef msghdr* message = &lane.messages[i].msg_hdr
    lane.vectors[i].iov_base = buffer
    lane.vectors[i].iov_len = size
    message.msg_name = &lane.names[i]
    message.msg_namelen = sizeof(sockaddr_in6)
    message.msg_iov = &lane.vectors[i]
    message.msg_iovlen = 1
    message.msg_control = lane.control + i * CONTROL
    message.msg_controllen = CONTROL
    message.msg_flags = 0


cdef inline void _fill(Batch* b, uint32_t slot, const Ends* ends, uint32_t length) noexcept nogil:
    b.length[slot] = length
    b.remote[slot] = ends.remote
    b.local[slot] = ends.local
    b.ecn[slot] = ends.ecn
    if ends.local.family == 0:
        b.verdict[slot] = MALFORMED


# Sending.


cdef int udp_send(UdpIo* io, Batch* b) noexcept nogil:
    cdef int which
    cdef int result
    cdef int sent = 0
    cdef uint32_t i
    for i in range(b.count):
        if b.verdict[i] == PASS and not _has_socket(io, b.remote[i].family):
            b.verdict[i] = SEND_FAILED
    for which in range(2):
        result = _send_family(io, b, which)
        if result < 0:
            return result
        sent += result
    return sent


cdef inline bint _has_socket(const UdpIo* io, uint8_t family) noexcept nogil:
    return (family == 4 and io.fd[V4] >= 0) or (family == 6 and io.fd[V6] >= 0)


# Sends a batch's slots of one family, a capacity's worth of messages at a time.
cdef int _send_family(UdpIo* io, Batch* b, int which) noexcept nogil:
    cdef UdpOutgoing* out = &io.outgoing
    cdef uint8_t family = 4 if which == V4 else 6
    cdef uint32_t i
    cdef int result
    cdef int sent = 0
    out.count = out.used = 0
    for i in range(b.count):
        if b.verdict[i] != PASS or b.remote[i].family != family:
            continue
        if out.count and io.gso[which] and _joins(out, b, i):
            _append(out, b, i)
            continue
        if out.count == io.capacity:
            result = _flush(io, b, which)
            if result < 0:
                return result
            sent += result
        _begin(out, b, i)
    result = _flush(io, b, which)
    return result if result < 0 else sent + result


# Whether a slot may follow in the message that was begun last.
cdef inline bint _joins(const UdpOutgoing* out, const Batch* b, uint32_t slot) noexcept nogil:
    cdef const msghdr* message = &out.messages[out.count - 1].msg_hdr
    cdef uint32_t last = out.slots[out.used - 1]
    return (
        message.msg_iovlen < MAX_SEGMENTS and 0 < b.length[slot] <= out.size
        and b.length[last] == out.size and out.total + b.length[slot] <= MAX_MERGED
        and b.ecn[slot] == b.ecn[last] and endpoint_equal(&b.remote[slot], &b.remote[last])
        and endpoint_equal(&b.local[slot], &b.local[last]))


cdef int _flush(UdpIo* io, Batch* b, int which) noexcept nogil:
    cdef UdpOutgoing* out = &io.outgoing
    cdef uint32_t done = 0
    cdef uint32_t i
    cdef int sent = 0
    cdef int result
    cdef bint waited = False
    _add_sizes(out)
    while done < out.count:
        result = sendmmsg(io.fd[which], out.messages + done, out.count - done, MSG_DONTWAIT)
        if result > 0:
            for i in range(done, done + result):
                sent += out.messages[i].msg_hdr.msg_iovlen
            out.calls += result
            done += result
        elif errno == EBADF or errno == ENOTSOCK:
            return -errno
        elif errno == EAGAIN and not waited:
            _wait_writable(io.fd[which])
            waited = True
        elif errno != EINTR:
            # The first message could not be sent; the others have nothing to do with it.
            sent += _send_each(io, b, which, &out.messages[done].msg_hdr)
            done += 1
    out.count = out.used = 0
    return sent


# After a message failed: its datagrams one by one, if it had several and that may be the reason.
# EMSGSIZE is about this path alone, which has too small an MTU; the others are about the host.
cdef int _send_each(UdpIo* io, Batch* b, int which, msghdr* message) noexcept nogil:
    cdef int code = errno
    cdef iovec* vectors = message.msg_iov
    cdef uint32_t* slots = io.outgoing.slots + (vectors - io.outgoing.vectors)
    cdef size_t count = message.msg_iovlen
    cdef bint again = count > 1 and code in (EINVAL, EIO, EMSGSIZE)
    cdef size_t i
    cdef int sent = 0
    if again:
        message.msg_controllen -= CMSG_SPACE(sizeof(uint16_t))
    message.msg_iovlen = 1
    for i in range(count):
        message.msg_iov = &vectors[i]
        if again and sendmsg(io.fd[which], message, MSG_DONTWAIT) >= 0:
            io.outgoing.calls += 1
            sent += 1
        else:
            b.verdict[slots[i]] = SEND_FAILED
    if sent and code != EMSGSIZE:
        io.gso[which] = False
        io.refused = code
    return sent


cdef void _wait_writable(int fd) noexcept nogil:
    cdef pollfd waiting
    waiting.fd = fd
    waiting.events = POLLOUT
    waiting.revents = 0
    poll(&waiting, 1, FULL_WAIT_MS)


# A new message out of a slot of the batch.
cdef inline void _begin(UdpOutgoing* out, Batch* b, uint32_t slot) noexcept nogil:
    cdef uint32_t i = out.count
    cdef msghdr* message = &out.messages[i].msg_hdr
    message.msg_name = &out.names[i]
    message.msg_namelen = write_name(&b.remote[slot], &out.names[i])
    message.msg_iov = &out.vectors[out.used]
    message.msg_iovlen = 0
    message.msg_control = out.control + i * CONTROL
    message.msg_controllen = write_control(
        <uint8_t*>message.msg_control, b.remote[slot].family, &b.local[slot], b.ecn[slot]
    )
    message.msg_flags = 0
    out.count += 1
    out.size = b.length[slot]
    out.total = 0
    _append(out, b, slot)


cdef inline void _append(UdpOutgoing* out, Batch* b, uint32_t slot) noexcept nogil:
    out.vectors[out.used].iov_base = slot_packet(b, slot)
    out.vectors[out.used].iov_len = b.length[slot]
    out.slots[out.used] = slot
    out.used += 1
    out.total += b.length[slot]
    out.messages[out.count - 1].msg_hdr.msg_iovlen += 1


# Tells the kernel where to cut the messages that hold several datagrams.
cdef void _add_sizes(UdpOutgoing* out) noexcept nogil:
    cdef msghdr* message
    cdef uint16_t size
    cdef uint32_t i
    for i in range(out.count):
        message = &out.messages[i].msg_hdr
        if message.msg_iovlen > 1:
            size = <uint16_t>message.msg_iov[0].iov_len
            message.msg_controllen += write_item(
                <uint8_t*>message.msg_control + message.msg_controllen,
                IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(uint16_t))
        if message.msg_controllen == 0:
            message.msg_control = NULL


cdef int _allocate(UdpIo* io) except -1:
    cdef UdpIncoming* lane = &io.incoming
    cdef UdpOutgoing* out = &io.outgoing
    lane.messages = <mmsghdr*>calloc(io.capacity, sizeof(mmsghdr))
    lane.vectors = <iovec*>calloc(io.capacity, sizeof(iovec))
    lane.names = <sockaddr_in6*>calloc(io.capacity, sizeof(sockaddr_in6))
    lane.control = <uint8_t*>calloc(io.capacity, CONTROL)
    out.messages = <mmsghdr*>calloc(io.capacity, sizeof(mmsghdr))
    out.vectors = <iovec*>calloc(MAX_BATCH, sizeof(iovec))
    out.names = <sockaddr_in6*>calloc(io.capacity, sizeof(sockaddr_in6))
    out.control = <uint8_t*>calloc(io.capacity, CONTROL)
    out.slots = <uint32_t*>calloc(MAX_BATCH, sizeof(uint32_t))
    if not (lane.messages and lane.vectors and lane.names and lane.control and out.messages
            and out.vectors and out.names and out.control and out.slots):
        raise MemoryError
    return 0


cdef void _release(UdpIo* io) noexcept:
    free(io.incoming.messages)
    free(io.incoming.vectors)
    free(io.incoming.names)
    free(io.incoming.control)
    free(io.outgoing.messages)
    free(io.outgoing.vectors)
    free(io.outgoing.names)
    free(io.outgoing.control)
    free(io.outgoing.slots)


cdef bint _knows_gso(int fd) noexcept:
    cdef int size
    cdef unsigned int length = sizeof(int)
    return getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, &length) == 0


cdef bint _set_gro(int fd, int on) noexcept:
    return setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof(int)) == 0


cdef int _prepare(UdpIo* io, int which) except -1:
    cdef sockaddr_in6 name
    cdef unsigned int size = sizeof(name)
    cdef int on = 1
    cdef Endpoint bound
    memset(&bound, 0, sizeof(Endpoint))
    cdef int fd = io.fd[which]
    cdef int failed
    if getsockname(fd, <sockaddr*>&name, &size):
        raise OSError(errno, "getsockname on a UDP socket of the data plane")
    read_name(<const sockaddr*>&name, &bound)
    io.port[which] = bound.port
    if which == V4:
        failed = setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(int))
        failed |= setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &on, sizeof(int))
    else:
        failed = setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(int))
        failed |= setsockopt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof(int))
    if failed:
        raise OSError(errno, "packet info on a UDP socket of the data plane")
    return 0


cdef int _checked(int result) except -1:
    if result < 0:
        raise OSError(-result, "a UDP socket of the data plane")
    return result
