# The header before each packet of a TUN device with IFF_VNET_HDR, and the Internet checksum.
# Virtio specification 1.2, section 5.1.6 (legacy: in the machine's byte order). Inline only.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    VNET_NEEDS_CHECKSUM = 1 # the field holds the folded sum of the pseudo-header alone
    VNET_PLAIN = 0         # types of super-packets
    VNET_TCP4 = 1
    VNET_TCP6 = 4
    VNET_UDP = 5           # of both families
    VNET_ECN = 0x80        # TCP: CWR belongs to the first segment
    VNET_HEADER = 10       # bytes

ctypedef struct VnetHeader:
    uint8_t flags
    uint8_t type
    uint16_t header        # bytes of all headers
    uint16_t size          # payload bytes of each segment but the last
    uint16_t checksum_start
    uint16_t checksum_offset # of the field, from there

cdef extern from "checksum.h" nogil:
    uint64_t checksum_add(uint64_t sum, const uint8_t* data, size_t size) noexcept
    uint64_t checksum_copy(uint64_t sum, uint8_t* to, const uint8_t* source, size_t size) noexcept
    uint16_t checksum_fold(uint64_t sum) noexcept

cdef extern from "arpa/inet.h" nogil:
    uint16_t htons(uint16_t)
    uint32_t htonl(uint32_t)

cdef enum:
    TCP = 6
    UDP = 17
    TCP_CHECKSUM = 16      # offset of the field in the header
    UDP_CHECKSUM = 6
    TCP_FIN = 1
    TCP_PSH = 8
    TCP_ACK = 16
    TCP_CWR = 128


cdef inline uint16_t read16(const uint8_t* p) noexcept nogil:
    return <uint16_t>(p[0] << 8 | p[1])


cdef inline uint32_t read32(const uint8_t* p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]


cdef inline void write16(uint8_t* p, uint32_t value) noexcept nogil:
    p[0] = value >> 8 & 0xFF
    p[1] = value & 0xFF


# A word as it lies in memory: what sums are made of.
cdef inline uint16_t load16(const uint8_t* p) noexcept nogil:
    return (<const uint16_t*>p)[0]


cdef inline void store16(uint8_t* p, uint16_t value) noexcept nogil:
    (<uint16_t*>p)[0] = value


# Makes an IPv4 header's checksum right.
cdef inline void write_header_checksum(uint8_t* header, uint32_t size) noexcept nogil:
    store16(header + 10, 0)
    store16(header + 10, <uint16_t>~checksum_fold(checksum_add(0, header, size)))


# Sum of the pseudo-header of a packet without extension headers (RFC 9293 section 3.1, RFC 8200
# section 8.1). `transport`: where the TCP or UDP header begins, `length`: of the whole packet.
cdef inline uint64_t pseudo_sum(
    const uint8_t* packet, uint8_t protocol, uint32_t transport, uint32_t length
) noexcept nogil:
    cdef uint64_t sum = <uint64_t>htons(protocol) + htons(<uint16_t>(length - transport))
    if packet[0] >> 4 == 4:
        return checksum_add(sum, packet + 12, 8)
    return checksum_add(sum, packet + 8, 32)
