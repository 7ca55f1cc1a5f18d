# The UDP sockets of the data plane: recvmmsg and sendmmsg with packet info and ECN.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from firezone._ext.batch cimport Batch
from firezone._ext.messages cimport iovec, mmsghdr, sockaddr_in6

cdef enum:
    UDP_BUFFER = 0x10000   # receives any datagram, merged or not
    # Not a power of two: the beginnings of buffers would compete for the same lines of the cache.
    UDP_BUFFER_STRIDE = UDP_BUFFER + 1472

# Of the thread that receives: a buffer per message.
ctypedef struct UdpIncoming:
    mmsghdr* messages
    iovec* vectors
    sockaddr_in6* names    # large enough for both families
    uint8_t* control
    uint64_t calls         # buffers that were filled
    # With UDP_GRO: the buffers lie in the arena of a batch, and what was received waits in them.
    const uint8_t* arena
    uint32_t got           # messages of the last read
    uint32_t next          # the one whose datagrams come next
    uint32_t taken         # bytes of it that slots have
    int which              # the socket they came from
    bint merged            # some held more than one datagram
    uint8_t _pad[64]

# Of the thread that sends: a message per run of datagrams, a vector per datagram.
ctypedef struct UdpOutgoing:
    mmsghdr* messages
    iovec* vectors
    sockaddr_in6* names
    uint8_t* control
    uint32_t* slots        # of the batch, by vector
    uint32_t count         # messages
    uint32_t used          # vectors
    uint32_t size          # of the first datagram in the last message
    uint32_t total         # bytes in the last message
    uint64_t calls         # messages that were sent

ctypedef struct UdpIo:
    int fd[2]              # IPv4, IPv6; -1 = none
    uint16_t port[2]       # bound to, host order
    uint32_t capacity      # messages at once
    bint gro
    UdpIncoming incoming
    UdpOutgoing outgoing
    bint gso[2]            # of the thread that sends
    int refused            # errno with which the host refused to send merged datagrams

# Appends what waits on the socket of a family (0 = IPv4, 1 = IPv6) up to the batch's capacity, with
# remote, local and ecn. Truncated datagrams are TOO_LONG. Returns how many, or -errno if the socket
# is of no more use. With UDP_GRO the batch must be empty, and nothing else may be put into it while
# udp_waits: then the next call goes on with what is left, whichever socket it names.
cdef int udp_receive(UdpIo* io, Batch* b, int which) noexcept nogil

# Sends the PASS slots to their remote, from their local address if that is set, with their ecn.
# What cannot be sent becomes SEND_FAILED. Returns how many left, or -errno as above.
cdef int udp_send(UdpIo* io, Batch* b) noexcept nogil


cdef inline bint udp_waits(const UdpIo* io) noexcept nogil:
    return io.incoming.next < io.incoming.got


cdef class UdpSockets:
    cdef UdpIo io
