"""What segmentation hardware does with the super-packets of TCP and UDP, for a TUN device.

A super-packet has one set of headers before the payload of many packets. Each segment gets a copy
of the headers: with its own lengths, the IPv4 identification counted up, the TCP sequence number
moved on; CWR stays with the first segment, FIN and PSH with the last (as in Linux's own
segmentation). The super-packet's checksum field holds the sum of its pseudo-header, in which only
the length differs between segments, so that the rest is taken from there.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from firezone._ext.batch cimport (
    HEADROOM, MALFORMED, PASS, TOO_LONG, Batch, PacketBatch, slot_extent, slot_packet, slot_reset,
    slot_room,
)
from firezone._ext.vnet cimport (
    TCP, TCP_CHECKSUM, TCP_CWR, TCP_FIN, TCP_PSH, UDP, UDP_CHECKSUM, VNET_ECN, VNET_HEADER,
    VNET_NEEDS_CHECKSUM, VNET_PLAIN, VNET_TCP4, VNET_TCP6, VNET_UDP, VnetHeader, checksum_add,
    checksum_copy, checksum_fold, htonl, htons, load16, read16, read32, store16, write16,
)


cdef int segments_begin(
    SuperPacket* s, const VnetHeader* h, const uint8_t* data, uint32_t length, uint32_t limit
) noexcept nogil:
    memset(s, 0, sizeof(SuperPacket))
    cdef uint8_t protocol = protocol_of(h, data, length)
    cdef uint32_t transport = h.checksum_start
    cdef uint32_t headers
    cdef uint32_t field
    if protocol == 0 or not transport_stands(data, length, protocol, transport):
        return MALFORMED
    field = transport + (TCP_CHECKSUM if protocol == TCP else UDP_CHECKSUM)
    headers = transport + ((data[transport + 12] >> 4) * 4 if protocol == TCP else 8)
    if headers < transport + (20 if protocol == TCP else 8) or headers >= length:
        return MALFORMED
    if headers + min(<uint32_t>h.size, length - headers) > limit:
        return TOO_LONG
    s.data = data
    s.length = length
    s.headers = headers
    s.transport = transport
    s.size = h.size
    s.next = headers
    s.protocol = protocol
    sum_constants(s, load16(data + field))
    return PASS


cdef void segments_take(SuperPacket* s, Batch* b, uint32_t* place) noexcept nogil:
    cdef uint32_t payload
    while s.next < s.length and b.count < b.capacity:
        payload = min(s.size, s.length - s.next)
        slot_reset(b, b.count)
        b.offset[b.count] = place[0] + HEADROOM
        b.length[b.count] = s.headers + payload
        place[0] += slot_extent(s.headers + payload)
        make_segment(s, slot_packet(b, b.count), payload)
        s.next += payload
        s.index += 1
        b.count += 1


cdef int segments_finish_checksum(
    const VnetHeader* h, uint8_t* packet, uint32_t length
) noexcept nogil:
    cdef uint32_t start = h.checksum_start
    cdef uint32_t field = start + h.checksum_offset
    cdef uint16_t sum
    if not h.flags & VNET_NEEDS_CHECKSUM:
        return PASS
    if start >= length or field + 2 > length:
        return MALFORMED
    sum = <uint16_t>~checksum_fold(checksum_add(0, packet + start, length - start))
    # Zero would say "none" in UDP (RFC 768), and in other protocols the two are equal.
    store16(packet + field, sum if sum else 0xFFFF)
    return PASS


# TCP or UDP, 0 for what is no super-packet of them.
cdef uint8_t protocol_of(const VnetHeader* h, const uint8_t* data, uint32_t length) noexcept nogil:
    cdef uint8_t type = h.type & ~VNET_ECN
    cdef uint8_t version
    if length < 20 or h.size == 0 or not h.flags & VNET_NEEDS_CHECKSUM:
        return 0
    version = data[0] >> 4
    if type == VNET_TCP4:
        return TCP if version == 4 else 0
    if type == VNET_TCP6:
        return TCP if version == 6 else 0
    if type == VNET_UDP and h.type == VNET_UDP:
        return UDP if version == 4 or version == 6 else 0
    return 0


# Whether the transport header begins where it should. Behind IPv6 extension headers that is for the
# kernel to know, which made them.
cdef bint transport_stands(
    const uint8_t* data, uint32_t length, uint8_t protocol, uint32_t transport
) noexcept nogil:
    if transport + (20 if protocol == TCP else 8) > length or length > 0xFFFF + 40:
        return False
    if data[0] >> 4 == 4:
        return transport >= 20 and transport == <uint32_t>(data[0] & 15) * 4 and data[9] == protocol
    return transport > 40 or (transport == 40 and data[6] == protocol)


# Sums of what all segments have in common, so that none has to read what it has just written.
cdef void sum_constants(SuperPacket* s, uint16_t pseudo) noexcept nogil:
    cdef const uint8_t* ip = s.data
    cdef const uint8_t* header = s.data + s.transport
    cdef uint32_t size = s.headers - s.transport
    s.transport_sum = <uint64_t>pseudo + <uint16_t>~htons(<uint16_t>(s.length - s.transport))
    if s.protocol == TCP:              # ports; acknowledgment; window; all from the urgent pointer on
        s.transport_sum = checksum_add(s.transport_sum, header, 4)
        s.transport_sum = checksum_add(s.transport_sum, header + 8, 4)
        s.transport_sum = checksum_add(s.transport_sum, header + 14, 2)
        s.transport_sum = checksum_add(s.transport_sum, header + 18, size - 18)
    else:
        s.transport_sum = checksum_add(s.transport_sum, header, 4)
    if ip[0] >> 4 == 4:
        s.network_sum = checksum_add(load16(ip), ip + 6, 4)
        s.network_sum = checksum_add(s.network_sum, ip + 12, s.transport - 12)


cdef void make_segment(const SuperPacket* s, uint8_t* packet, uint32_t payload) noexcept nogil:
    cdef uint32_t length = s.headers + payload
    cdef uint64_t sum = checksum_copy(s.transport_sum, packet + s.headers, s.data + s.next, payload)
    memcpy(packet, s.data, s.headers)
    if packet[0] >> 4 == 4:
        write_v4(s, packet, length)
    else:
        write16(packet + 4, length - 40)
    if s.protocol == TCP:
        write_tcp(s, packet + s.transport, length, sum)
    else:
        write_udp(packet + s.transport, length - s.transport, sum)


cdef inline void write_v4(const SuperPacket* s, uint8_t* packet, uint32_t length) noexcept nogil:
    cdef uint16_t size = htons(<uint16_t>length)
    cdef uint16_t identification = htons(<uint16_t>(read16(s.data + 4) + s.index))
    store16(packet + 2, size)
    store16(packet + 4, identification)
    store16(packet + 10, <uint16_t>~checksum_fold(s.network_sum + size + identification))


cdef inline void write_tcp(
    const SuperPacket* s, uint8_t* tcp, uint32_t length, uint64_t sum
) noexcept nogil:
    cdef const uint8_t* original = s.data + s.transport
    cdef uint32_t sequence = htonl(read32(original + 4) + s.next - s.headers)
    cdef uint8_t flags = original[13]
    if s.index:
        flags &= ~TCP_CWR
    if s.next + length - s.headers < s.length:
        flags &= ~(TCP_FIN | TCP_PSH)
    memcpy(tcp + 4, &sequence, 4)
    tcp[13] = flags
    sum += sequence
    sum += htons(<uint16_t>(original[12] << 8 | flags))
    sum += htons(<uint16_t>(length - s.transport))
    store16(tcp + TCP_CHECKSUM, <uint16_t>~checksum_fold(sum))


cdef inline void write_udp(uint8_t* udp, uint32_t size, uint64_t sum) noexcept nogil:
    cdef uint16_t folded
    write16(udp + 4, size)
    # The length counts twice: in the header and in the pseudo-header.
    folded = <uint16_t>~checksum_fold(sum + 2 * <uint64_t>htons(<uint16_t>size))
    store16(udp + UDP_CHECKSUM, folded if folded else 0xFFFF)


# The Python face.

def split(const uint8_t[::1] data not None, PacketBatch batch not None, uint32_t limit=0):
    cdef VnetHeader header
    cdef SuperPacket s
    cdef Batch* b = &batch.b
    cdef int verdict
    cdef uint32_t place = b.count * b.stride
    if data.shape[0] <= VNET_HEADER or data.shape[0] > VNET_HEADER + 0xFFFF:
        raise ValueError("a virtio header and a packet are needed")
    if limit == 0 or limit > slot_room(b):
        limit = slot_room(b)
    memcpy(&header, &data[0], VNET_HEADER)
    verdict = segments_begin(
        &s, &header, &data[VNET_HEADER], <uint32_t>data.shape[0] - VNET_HEADER, limit)
    if verdict == PASS:
        segments_take(&s, b, &place)
    return verdict, segments_left(&s)


def finish_checksum(const uint8_t[::1] data not None):
    cdef VnetHeader header
    cdef bytearray copy
    cdef uint8_t[::1] view
    if data.shape[0] <= VNET_HEADER:
        raise ValueError("a virtio header and a packet are needed")
    memcpy(&header, &data[0], VNET_HEADER)
    copy = bytearray(data[VNET_HEADER:])
    view = copy
    if segments_finish_checksum(&header, &view[0], <uint32_t>view.shape[0]) != PASS:
        return None
    return bytes(copy)
