# Names and ancillary data of socket messages: who, from where, with which ECN bits. Inline only.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from firezone._ext.batch cimport Endpoint

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
    Py_ssize_t sendmsg(int, const msghdr*, int)
    int getsockopt(int, int, int, void*, unsigned int*)
    int setsockopt(int, int, int, const void*, unsigned int)
    int getsockname(int, sockaddr*, unsigned int*)

cdef extern from "netinet/in.h" nogil:
    ctypedef struct in6_addr "struct in6_addr":
        uint8_t s6_addr[16]
    ctypedef struct sockaddr_in6 "struct sockaddr_in6":
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
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
        IPPROTO_UDP
        IP_PKTINFO
        IP_RECVTOS
        IP_TOS
        IPV6_PKTINFO
        IPV6_RECVPKTINFO
        IPV6_RECVTCLASS
        IPV6_TCLASS
    uint16_t htons(uint16_t)
    uint16_t ntohs(uint16_t)

cdef extern from "netinet/udp.h" nogil:
    enum:
        UDP_GRO
        UDP_SEGMENT

cdef enum:
    CONTROL = 128          # bytes of ancillary data per message
    ECN_BITS = 3

# What is known of a received message: one for all of its datagrams.
ctypedef struct Ends:
    Endpoint remote
    Endpoint local
    uint32_t size          # of each datagram but the last, if the kernel has merged several
    uint8_t ecn


# Who sent a message, and all that its ancillary data tells. `port`: that it was received on.
cdef inline void read_ends(msghdr* message, uint16_t port, Ends* ends) noexcept nogil:
    memset(ends, 0, sizeof(Ends))
    read_name(<const sockaddr*>message.msg_name, &ends.remote)
    ends.local.port = port
    read_control(message, ends)


cdef inline void read_name(const sockaddr* name, Endpoint* e) noexcept nogil:
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


cdef inline void read_control(msghdr* message, Ends* ends) noexcept nogil:
    cdef cmsghdr* c = CMSG_FIRSTHDR(message)
    while c != NULL:
        if c.cmsg_level == IPPROTO_IP and c.cmsg_type == IP_PKTINFO:
            ends.local.family = 4
            memcpy(ends.local.address, &(<in_pktinfo*>CMSG_DATA(c)).ipi_addr, 4)
        elif c.cmsg_level == IPPROTO_IP and c.cmsg_type == IP_TOS:
            ends.ecn = CMSG_DATA(c)[0] & ECN_BITS
        elif c.cmsg_level == IPPROTO_IPV6 and c.cmsg_type == IPV6_PKTINFO:
            ends.local.family = 6
            memcpy(ends.local.address, &(<in6_pktinfo*>CMSG_DATA(c)).ipi6_addr, 16)
        elif c.cmsg_level == IPPROTO_IPV6 and c.cmsg_type == IPV6_TCLASS:
            ends.ecn = (<int*>CMSG_DATA(c))[0] & ECN_BITS
        elif c.cmsg_level == IPPROTO_UDP and c.cmsg_type == UDP_GRO:
            ends.size = max((<int*>CMSG_DATA(c))[0], 0)
        c = CMSG_NXTHDR(message, c)


# The size of the name.
cdef inline unsigned int write_name(const Endpoint* e, sockaddr_in6* name) noexcept nogil:
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


# Source and ECN bits, as far as they are set. Returns the bytes used.
cdef inline size_t write_control(
    uint8_t* control, uint8_t family, const Endpoint* local, uint8_t ecn
) noexcept nogil:
    cdef size_t used = 0
    cdef in_pktinfo v4
    cdef in6_pktinfo v6
    cdef int bits = ecn
    if local.family == 4 and family == 4:
        memset(&v4, 0, sizeof(v4))
        memcpy(&v4.ipi_spec_dst, local.address, 4)
        used += write_item(control, IPPROTO_IP, IP_PKTINFO, &v4, sizeof(v4))
    elif local.family == 6 and family == 6:
        memset(&v6, 0, sizeof(v6))
        memcpy(&v6.ipi6_addr, local.address, 16)
        used += write_item(control, IPPROTO_IPV6, IPV6_PKTINFO, &v6, sizeof(v6))
    if bits and family == 4:
        used += write_item(control + used, IPPROTO_IP, IP_TOS, &bits, sizeof(int))
    elif bits:
        used += write_item(control + used, IPPROTO_IPV6, IPV6_TCLASS, &bits, sizeof(int))
    return used


cdef inline size_t write_item(
    uint8_t* control, int level, int kind, const void* data, size_t size
) noexcept nogil:
    cdef cmsghdr* c = <cmsghdr*>control
    memset(control, 0, CMSG_SPACE(size))
    c.cmsg_level = level
    c.cmsg_type = kind
    c.cmsg_len = CMSG_LEN(size)
    memcpy(CMSG_DATA(c), data, size)
    return CMSG_SPACE(size)
