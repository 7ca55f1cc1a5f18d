# The UDP sockets of the data plane: recvmmsg and sendmmsg with packet info and ECN.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from firezone._ext.batch cimport Batch

cdef extern from "sys/socket.h" nogil:
    ctypedef struct iovec "struct iovec":
        void* iov_base
        size_t iov_len
    ctypedef struct msghdr "struct msghdr":
        void* msg_name
        unsigned int msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    ctypedef struct mmsghdr "struct mmsghdr":
        msghdr msg_hdr
        unsigned int msg_len

cdef extern from "netinet/in.h" nogil:
    ctypedef struct in6_addr "struct in6_addr":
        uint8_t s6_addr[16]
    ctypedef struct sockaddr_in6 "struct sockaddr_in6":
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr

# What one thread hands to the kernel: room for `capacity` messages.
ctypedef struct UdpLane:
    mmsghdr* messages
    iovec* vectors
    sockaddr_in6* names    # large enough for both families
    uint8_t* control
    uint32_t* slots        # of the batch, by message

ctypedef struct UdpIo:
    int fd[2]              # IPv4, IPv6; -1 = none
    uint16_t port[2]       # bound to, host order
    uint32_t capacity
    UdpLane incoming       # of the thread that receives
    UdpLane outgoing       # of the thread that sends

# Appends what waits on the socket of a family (0 = IPv4, 1 = IPv6) up to the batch's capacity, with
# remote, local and ecn. Truncated datagrams are TOO_LONG. Returns how many, or -errno if the socket
# is of no more use.
cdef int udp_receive(UdpIo* io, Batch* b, int which) noexcept nogil

# Sends the PASS slots to their remote, from their local address if that is set, with their ecn.
# What cannot be sent becomes SEND_FAILED. Returns how many left, or -errno as above.
cdef int udp_send(UdpIo* io, Batch* b) noexcept nogil


cdef class UdpSockets:
    cdef UdpIo io
