"""UDP in batches: recvmmsg and sendmmsg, local addresses by packet info, ECN by TOS and TCLASS."""

cimport cython
from libc.errno cimport EAGAIN, EBADF, EINTR, ENOTSOCK, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from firezone._ext.batch cimport (
    MALFORMED,
    PASS,
    SEND_FAILED,
    TOO_LONG,
    Batch,
    Endpoint,
    PacketBatch,
    slot_packet,
    slot_reset,
    slot_room,
)

cdef extern from "sys/socket.h" nogil:
    ctypedef struct cmsghdr "struct cmsghdr":
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    ctypedef struct sockaddr "struct sockaddr":
        uint16_t sa_family
    enum:
        AF_INET
        AF_INET6
        MSG_DONTWAIT
        MSG_TRUNC
    cmsghdr* CMSG_FIRSTHDR(msghdr*)
    cmsghdr* CMSG_NXTHDR(msghdr*, cmsghdr*)
    uint8_t* CMSG_DATA(cmsghdr*)
    size_t CMSG_LEN(size_t)
    size_t CMSG_SPACE(size_t)
    int recvmmsg(int, mmsghdr*, unsigned int, int, void*)
    int sendmmsg(int, mmsghdr*, unsigned int, int)
    int setsockopt(int, int, int, const void*, unsigned int)
    int getsockname(int, sockaddr*, unsigned int*)

cdef extern from "netinet/in.h" nogil:
    ctypedef struct in_addr "struct in_addr":
        uint32_t s_addr
    ctypedef struct sockaddr_in "struct sockaddr_in":
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    ctypedef struct in_pktinfo "struct in_pktinfo":
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    ctypedef struct in6_pktinfo "struct in6_pktinfo":
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    enum:
        IPPROTO_IP
        IPPROTO_IPV6
        IP_PKTINFO
        IP_RECVTOS
        IP_TOS
        IPV6_PKTINFO
        IPV6_RECVPKTINFO
        IPV6_RECVTCLASS
        IPV6_TCLASS
    uint16_t htons(uint16_t)
    uint16_t ntohs(uint16_t)

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
    CONTROL = 128          # bytes of ancillary data per message
    ECN_BITS = 3
    FULL_WAIT_MS = 2       # for a full send buffer; longer would only make the queue older


@cython.final
cdef class UdpSockets:
    """See udp.pyi."""

    def __cinit__(self, int fd4=-1, int fd6=-1, uint32_t capacity=64):
        if not 0 < capacity <= 1024:
            raise ValueError("capacity out of range")
        memset(&self.io, 0, sizeof(UdpIo))
        self.io.fd[V4] = fd4
        self.io.fd[V6] = fd6
        self.io.capacity = capacity
        _allocate(&self.io.incoming, capacity)
        _allocate(&self.io.outgoing, capacity)
        for which in range(2):
            if self.io.fd[which] >= 0:
                _prepare(&self.io, which)

    def __dealloc__(self):
        _release(&self.io.incoming)
        _release(&self.io.outgoing)

    @property
    def fds(self):
        return (self.io.fd[V4], self.io.fd[V6])

    def receive(self, PacketBatch batch not None, int family):
        cdef int result
        if family not in (4, 6):
            raise ValueError("a family is 4 or 6")
        with nogil:
            result = udp_receive(&self.io, &batch.b, V4 if family == 4 else V6)
        return _checked(result)

    def send(self, PacketBatch batch not None):
        cdef int result
        with nogil:
            result = udp_send(&self.io, &batch.b)
        return _checked(result)


cdef int udp_receive(UdpIo* io, Batch* b, int which) noexcept nogil:
    cdef uint32_t first = b.count
    cdef uint32_t room = b.capacity - first
    cdef uint32_t i
    cdef int got
    if io.fd[which] < 0 or room == 0:
        return 0
    if room > io.capacity:
        room = io.capacity
    for i in range(room):
        _offer(&io.incoming, i, b, first + i)
    while True:
        got = recvmmsg(io.fd[which], io.incoming.messages, room, MSG_DONTWAIT, NULL)
        if got >= 0 or errno != EINTR:
            break
    if got < 0:
        # Anything else is an error that the network reported; reading it has cleared it.
        return -errno if errno == EBADF or errno == ENOTSOCK else 0
    for i in range(<uint32_t>got):
        _accept(&io.incoming.messages[i], b, first + i, io.port[which])
    b.count += got
    return got


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


# Sends a batch's slots of one family, a capacity's worth at a time.
cdef int _send_family(UdpIo* io, Batch* b, int which) noexcept nogil:
    cdef uint8_t family = 4 if which == V4 else 6
    cdef uint32_t i
    cdef uint32_t count = 0
    cdef int result
    cdef int sent = 0
    for i in range(b.count):
        if b.verdict[i] != PASS or b.remote[i].family != family:
            continue
        _compose(&io.outgoing, count, b, i)
        count += 1
        if count == io.capacity:
            result = _flush(io, b, which, count)
            if result < 0:
                return result
            sent += result
            count = 0
    result = _flush(io, b, which, count)
    return result if result < 0 else sent + result


cdef int _flush(UdpIo* io, Batch* b, int which, uint32_t count) noexcept nogil:
    cdef UdpLane* lane = &io.outgoing
    cdef uint32_t done = 0
    cdef int sent = 0
    cdef int result
    cdef bint waited = False
    while done < count:
        result = sendmmsg(io.fd[which], lane.messages + done, count - done, MSG_DONTWAIT)
        if result > 0:
            done += result
            sent += result
        elif errno == EBADF or errno == ENOTSOCK:
            return -errno
        elif errno == EAGAIN and not waited:
            _wait_writable(io.fd[which])
            waited = True
        elif errno != EINTR:
            # The first message could not be sent; the others have nothing to do with it.
            b.verdict[lane.slots[done]] = SEND_FAILED
            done += 1
    return sent


cdef void _wait_writable(int fd) noexcept nogil:
    cdef pollfd waiting
    waiting.fd = fd
    waiting.events = POLLOUT
    waiting.revents = 0
    poll(&waiting, 1, FULL_WAIT_MS)


# Gives a slot of the batch to the kernel to receive into.
cdef inline void _offer(UdpLane* lane, uint32_t i, Batch* b, uint32_t slot) noexcept nogil:
    cdef msghdr* message = &lane.messages[i].msg_hdr
    slot_reset(b, slot)
    lane.vectors[i].iov_base = slot_packet(b, slot)
    lane.vectors[i].iov_len = slot_room(b)
    message.msg_name = &lane.names[i]
    message.msg_namelen = sizeof(sockaddr_in6)
    message.msg_iov = &lane.vectors[i]
    message.msg_iovlen = 1
    message.msg_control = lane.control + i * CONTROL
    message.msg_controllen = CONTROL
    message.msg_flags = 0


cdef inline void _accept(mmsghdr* m, Batch* b, uint32_t slot, uint16_t port) noexcept nogil:
    b.length[slot] = m.msg_len
    _read_name(<const sockaddr*>m.msg_hdr.msg_name, &b.remote[slot])
    b.local[slot].port = port
    _read_control(&m.msg_hdr, &b.local[slot], &b.ecn[slot])
    if m.msg_hdr.msg_flags & MSG_TRUNC:
        b.verdict[slot] = TOO_LONG
    elif b.local[slot].family == 0:
        b.verdict[slot] = MALFORMED


cdef inline void _read_name(const sockaddr* name, Endpoint* e) noexcept nogil:
    cdef const sockaddr_in* v4 = <const sockaddr_in*>name
    cdef const sockaddr_in6* v6 = <const sockaddr_in6*>name
    if name.sa_family == AF_INET:
        e.family = 4
        e.port = ntohs(v4.sin_port)
        memcpy(e.address, &v4.sin_addr, 4)
    elif name.sa_family == AF_INET6:
        e.family = 6
        e.port = ntohs(v6.sin6_port)
        memcpy(e.address, &v6.sin6_addr, 16)


cdef inline void _read_control(msghdr* message, Endpoint* local, uint8_t* ecn) noexcept nogil:
    cdef cmsghdr* c = CMSG_FIRSTHDR(message)
    while c != NULL:
        if c.cmsg_level == IPPROTO_IP and c.cmsg_type == IP_PKTINFO:
            local.family = 4
            memcpy(local.address, &(<in_pktinfo*>CMSG_DATA(c)).ipi_addr, 4)
        elif c.cmsg_level == IPPROTO_IP and c.cmsg_type == IP_TOS:
            ecn[0] = CMSG_DATA(c)[0] & ECN_BITS
        elif c.cmsg_level == IPPROTO_IPV6 and c.cmsg_type == IPV6_PKTINFO:
            local.family = 6
            memcpy(local.address, &(<in6_pktinfo*>CMSG_DATA(c)).ipi6_addr, 16)
        elif c.cmsg_level == IPPROTO_IPV6 and c.cmsg_type == IPV6_TCLASS:
            ecn[0] = (<int*>CMSG_DATA(c))[0] & ECN_BITS
        c = CMSG_NXTHDR(message, c)


# Makes message `i` of the lane out of a slot of the batch.
cdef inline void _compose(UdpLane* lane, uint32_t i, Batch* b, uint32_t slot) noexcept nogil:
    cdef msghdr* message = &lane.messages[i].msg_hdr
    lane.slots[i] = slot
    lane.vectors[i].iov_base = slot_packet(b, slot)
    lane.vectors[i].iov_len = b.length[slot]
    message.msg_name = &lane.names[i]
    message.msg_namelen = _write_name(&b.remote[slot], &lane.names[i])
    message.msg_iov = &lane.vectors[i]
    message.msg_iovlen = 1
    message.msg_control = lane.control + i * CONTROL
    message.msg_controllen = _write_control(
        <uint8_t*>message.msg_control, b.remote[slot].family, &b.local[slot], b.ecn[slot]
    )
    message.msg_flags = 0
    if message.msg_controllen == 0:
        message.msg_control = NULL


cdef inline unsigned int _write_name(const Endpoint* e, sockaddr_in6* name) noexcept nogil:
    cdef sockaddr_in* v4 = <sockaddr_in*>name
    memset(name, 0, sizeof(sockaddr_in6))
    if e.family == 4:
        v4.sin_family = AF_INET
        v4.sin_port = htons(e.port)
        memcpy(&v4.sin_addr, e.address, 4)
        return sizeof(sockaddr_in)
    name.sin6_family = AF_INET6
    name.sin6_port = htons(e.port)
    memcpy(&name.sin6_addr, e.address, 16)
    return sizeof(sockaddr_in6)


cdef inline size_t _write_control(
    uint8_t* control, uint8_t family, const Endpoint* local, uint8_t ecn
) noexcept nogil:
    cdef size_t used = 0
    cdef in_pktinfo v4
    cdef in6_pktinfo v6
    cdef int bits = ecn
    if local.family == 4 and family == 4:
        memset(&v4, 0, sizeof(v4))
        memcpy(&v4.ipi_spec_dst, local.address, 4)
        used += _write_item(control, IPPROTO_IP, IP_PKTINFO, &v4, sizeof(v4))
    elif local.family == 6 and family == 6:
        memset(&v6, 0, sizeof(v6))
        memcpy(&v6.ipi6_addr, local.address, 16)
        used += _write_item(control, IPPROTO_IPV6, IPV6_PKTINFO, &v6, sizeof(v6))
    if bits and family == 4:
        used += _write_item(control + used, IPPROTO_IP, IP_TOS, &bits, sizeof(int))
    elif bits:
        used += _write_item(control + used, IPPROTO_IPV6, IPV6_TCLASS, &bits, sizeof(int))
    return used


cdef inline size_t _write_item(
    uint8_t* control, int level, int kind, const void* data, size_t size
) noexcept nogil:
    cdef cmsghdr* c = <cmsghdr*>control
    memset(control, 0, CMSG_SPACE(size))
    c.cmsg_level = level
    c.cmsg_type = kind
    c.cmsg_len = CMSG_LEN(size)
    memcpy(CMSG_DATA(c), data, size)
    return CMSG_SPACE(size)


cdef int _allocate(UdpLane* lane, uint32_t capacity) except -1:
    lane.messages = <mmsghdr*>calloc(capacity, sizeof(mmsghdr))
    lane.vectors = <iovec*>calloc(capacity, sizeof(iovec))
    lane.names = <sockaddr_in6*>calloc(capacity, sizeof(sockaddr_in6))
    lane.control = <uint8_t*>calloc(capacity, CONTROL)
    lane.slots = <uint32_t*>calloc(capacity, sizeof(uint32_t))
    if not (lane.messages and lane.vectors and lane.names and lane.control and lane.slots):
        raise MemoryError
    return 0


cdef void _release(UdpLane* lane) noexcept:
    free(lane.messages)
    free(lane.vectors)
    free(lane.names)
    free(lane.control)
    free(lane.slots)


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
    _read_name(<const sockaddr*>&name, &bound)
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
