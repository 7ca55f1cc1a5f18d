"""What receive offload does, for the packets of a batch on their way to a TUN device.

Packets of a flow that differ only in what counts up are merged: TCP segments with payload and
nothing but ACK and PSH set, the same acknowledgment, window and options, in sequence; UDP datagrams
with a checksum. All but the last have the same size; a shorter one, or PSH, ends the item. Equal
must be, too, what Linux compares before it merges: TOS, TTL and DF, or traffic class, flow label
and hop limit; IPv4 identifications count up, or stand still where DF makes them meaningless
(RFC 6864).

A packet is only ever appended to the newest item of its flow, and items are written in the order
of their first packets, so the order within a flow stays. What cannot be understood, and so could
belong to any flow, closes all items. Checksums are verified before a merge, because the kernel will
make new ones: what is damaged is passed on as it is, by itself.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from firezone._ext.batch cimport PASS, Batch, PacketBatch, slot_packet
from firezone._ext.vnet cimport (
    TCP, TCP_ACK, TCP_CHECKSUM, TCP_PSH, UDP, UDP_CHECKSUM, VNET_HEADER, VNET_NEEDS_CHECKSUM,
    VNET_TCP4, VNET_TCP6, VNET_UDP, VnetHeader, checksum_add, checksum_fold, load16, pseudo_sum,
    read16, read32, store16, write16, write_header_checksum,
)

cdef enum:
    NONE = 0xFFFFFFFF
    ICMP = 1
    ICMPV6 = 58
    MAX_TOTAL = 0xFFFF
    MAX_DATAGRAMS = 64     # UDP_MAX_SEGMENTS of kernels before 6.9
    MAX_PACKETS = 512      # of an item: the system takes 1024 vectors at once
    MAX_LOOKS = 16         # items that are looked at for one packet: strangers choose the flows
    ID_UNKNOWN = 2
    DF = 0x4000

cdef enum Kind:
    ALONE                  # belongs to no flow
    BARRIER                # may belong to any
    IN_FLOW

# What is seen of one packet.
ctypedef struct Seen:
    const uint8_t* packet
    uint32_t length
    uint32_t headers
    uint32_t payload
    uint32_t transport
    uint8_t protocol
    bint mergeable         # by itself


cdef void coalesce(Coalescer* c, const Batch* b, bint tcp, bint udp) noexcept nogil:
    cdef Seen seen
    cdef uint32_t slot
    cdef uint32_t bucket
    cdef Item* item
    cdef Kind kind
    c.count = 0
    forget_flows(c)
    for slot in range(b.count):
        if b.verdict[slot] != PASS:
            continue
        kind = look(slot_packet(b, slot), b.length[slot], &seen)
        if not (tcp if seen.protocol == TCP else udp):
            seen.mergeable = False
        if kind == IN_FLOW:
            bucket = bucket_of(&seen)
            item = newest(c, b, bucket, &seen)
            if item != NULL and item.open and fits(item, b, &seen):
                append(c, item, slot, &seen)
            else:
                begin(c, slot, &seen, bucket)
        else:
            if kind == BARRIER:
                forget_flows(c)
            begin(c, slot, &seen, NONE)


cdef uint32_t coalesce_headers(
    const Item* item, const Batch* b, VnetHeader* h, uint8_t* headers
) noexcept nogil:
    cdef uint8_t* transport = headers + item.transport
    cdef const uint8_t* last = slot_packet(b, item.last)
    cdef bint v4
    memcpy(headers, slot_packet(b, item.first), item.headers)
    v4 = headers[0] >> 4 == 4
    h.flags = VNET_NEEDS_CHECKSUM
    h.header = item.headers
    h.size = item.size
    h.checksum_start = item.transport
    if v4:
        write16(headers + 2, item.total)
        write_header_checksum(headers, item.transport)
    else:
        write16(headers + 4, item.total - 40)
    if item.protocol == TCP:
        h.type = VNET_TCP4 if v4 else VNET_TCP6
        h.checksum_offset = TCP_CHECKSUM
        transport[13] |= last[item.transport + 13] & TCP_PSH
    else:
        h.type = VNET_UDP
        h.checksum_offset = UDP_CHECKSUM
        write16(transport + 4, item.total - item.transport)
    store16(
        transport + h.checksum_offset,
        checksum_fold(pseudo_sum(headers, item.protocol, item.transport, item.total)))
    return item.headers


# Looking at one packet.


cdef Kind look(const uint8_t* packet, uint32_t length, Seen* seen) noexcept nogil:
    memset(seen, 0, sizeof(Seen))
    seen.packet = packet
    seen.length = length
    if length >= 20 and packet[0] == 0x45:
        if read16(packet + 2) != length or read16(packet + 6) & 0x3FFF:
            return BARRIER             # trailing bytes, or a fragment
        seen.protocol = packet[9]
        seen.transport = 20
        if seen.protocol == ICMP:
            return ALONE
    elif length >= 40 and packet[0] >> 4 == 6:
        if <uint32_t>read16(packet + 4) + 40 != length:
            return BARRIER
        seen.protocol = packet[6]
        seen.transport = 40
        if seen.protocol == ICMPV6:
            return ALONE
    else:
        return BARRIER
    if seen.protocol == TCP:
        return look_at_tcp(seen)
    return look_at_udp(seen) if seen.protocol == UDP else BARRIER


cdef Kind look_at_tcp(Seen* seen) noexcept nogil:
    cdef const uint8_t* tcp = seen.packet + seen.transport
    cdef uint32_t size
    if seen.length < seen.transport + 20:
        return BARRIER
    size = (tcp[12] >> 4) * 4
    if size < 20 or seen.length < seen.transport + size:
        return BARRIER
    seen.headers = seen.transport + size
    seen.payload = seen.length - seen.headers
    seen.mergeable = seen.payload > 0 and tcp[13] & ~TCP_PSH == TCP_ACK
    return IN_FLOW


cdef Kind look_at_udp(Seen* seen) noexcept nogil:
    cdef const uint8_t* udp = seen.packet + seen.transport
    if seen.length < seen.transport + 8:
        return BARRIER
    seen.headers = seen.transport + 8
    seen.payload = seen.length - seen.headers
    seen.mergeable = (
        seen.payload > 0 and read16(udp + 4) == 8 + seen.payload and load16(udp + 6) != 0)
    return IN_FLOW


cdef bint checksums_right(const Seen* seen) noexcept nogil:
    cdef uint64_t sum
    if seen.transport == 20 and checksum_fold(checksum_add(0, seen.packet, 20)) != 0xFFFF:
        return False
    sum = pseudo_sum(seen.packet, seen.protocol, seen.transport, seen.length)
    sum = checksum_add(sum, seen.packet + seen.transport, seen.length - seen.transport)
    return checksum_fold(sum) == 0xFFFF


# Finding the flow's newest item.


cdef inline void forget_flows(Coalescer* c) noexcept nogil:
    memset(c.bucket, 0xFF, sizeof(c.bucket))


# Addresses and ports; a few bits of them will do.
cdef inline uint32_t bucket_of(const Seen* seen) noexcept nogil:
    cdef uint32_t end = 20 if seen.transport == 20 else 40
    cdef const uint8_t* p = seen.packet
    cdef uint32_t mixed = read32(p + end - 4) * <uint32_t>0x9E3779B1
    mixed ^= read32(p + (12 if end == 20 else 20)) * <uint32_t>0x85EBCA77
    mixed ^= read32(p + seen.transport) * <uint32_t>0xC2B2AE3D
    return (mixed ^ mixed >> 15) >> 8 & (COALESCE_BUCKETS - 1)


# If its item is too far down the bucket it counts as new, which costs a merge and nothing else.
cdef Item* newest(Coalescer* c, const Batch* b, uint32_t bucket, const Seen* seen) noexcept nogil:
    cdef uint32_t at = c.bucket[bucket]
    cdef uint32_t looks = 0
    while at != NONE and looks < MAX_LOOKS:
        if same_flow(&c.items[at], slot_packet(b, c.items[at].first), seen):
            return &c.items[at]
        at = c.items[at].older
        looks += 1
    return NULL


cdef inline bint same_flow(const Item* item, const uint8_t* first, const Seen* seen) noexcept nogil:
    cdef uint32_t addresses = 12 if seen.transport == 20 else 8
    return (
        item.protocol == seen.protocol and item.transport == seen.transport
        # The ports stand behind the addresses.
        and memcmp(
            first + addresses, seen.packet + addresses, seen.transport + 4 - addresses) == 0)


# Merging.


cdef void begin(Coalescer* c, uint32_t slot, const Seen* seen, uint32_t bucket) noexcept nogil:
    cdef Item* item = &c.items[c.count]
    memset(item, 0, sizeof(Item))
    item.first = item.last = slot
    item.count = 1
    item.total = seen.length
    item.headers = seen.headers
    item.size = seen.payload
    item.transport = seen.transport
    item.protocol = seen.protocol
    item.open = seen.mergeable
    c.following[slot] = NONE
    if item.open:
        item.id_step = ID_UNKNOWN
        item.id = read16(seen.packet + 4)
        if seen.protocol == TCP:
            item.sequence = read32(seen.packet + seen.transport + 4) + seen.payload
            item.open = not seen.packet[seen.transport + 13] & TCP_PSH
    if bucket != NONE:
        item.older = c.bucket[bucket]
        c.bucket[bucket] = c.count
    c.count += 1


cdef void append(Coalescer* c, Item* item, uint32_t slot, const Seen* seen) noexcept nogil:
    c.following[item.last] = slot
    c.following[slot] = NONE
    item.last = slot
    item.count += 1
    item.total += seen.payload
    item.sequence += seen.payload
    if seen.transport == 20:
        item.id_step = read16(seen.packet + 4) != item.id
        item.id = read16(seen.packet + 4)
    if seen.payload < item.size:
        item.open = False
    elif seen.protocol == TCP and seen.packet[seen.transport + 13] & TCP_PSH:
        item.open = False


# Whether the packet may be appended. An item whose first packet is damaged is closed for good.
cdef bint fits(Item* item, const Batch* b, const Seen* seen) noexcept nogil:
    cdef const uint8_t* first = slot_packet(b, item.first)
    cdef Seen opening
    if not seen.mergeable or seen.payload > item.size or item.total + seen.payload > MAX_TOTAL:
        return False
    if item.count == <uint32_t>(MAX_DATAGRAMS if seen.protocol == UDP else MAX_PACKETS):
        return False
    if not (same_network_header(item, first, seen) and same_transport_header(item, first, seen)):
        return False
    if not item.verified:
        look(first, b.length[item.first], &opening)
        item.verified = item.open = checksums_right(&opening)
    return item.open and checksums_right(seen)


cdef bint same_network_header(
    const Item* item, const uint8_t* first, const Seen* seen
) noexcept nogil:
    cdef const uint8_t* packet = seen.packet
    cdef uint16_t step
    if seen.transport == 40:           # traffic class, flow label, hop limit
        return memcmp(first, packet, 4) == 0 and first[7] == packet[7]
    if first[1] != packet[1] or first[8] != packet[8] or load16(first + 6) != load16(packet + 6):
        return False
    step = <uint16_t>(read16(packet + 4) - item.id)
    if item.id_step != ID_UNKNOWN:
        return step == item.id_step
    return step == 1 or (step == 0 and read16(packet + 6) & DF != 0)


cdef bint same_transport_header(
    const Item* item, const uint8_t* first, const Seen* seen
) noexcept nogil:
    cdef const uint8_t* old = first + item.transport
    cdef const uint8_t* new = seen.packet + seen.transport
    if seen.protocol == UDP:
        return True
    return (
        seen.headers == item.headers and read32(new + 4) == item.sequence
        and memcmp(old + 8, new + 8, 4) == 0               # acknowledgment
        and old[12] == new[12]                             # data offset; the flags are known
        and load16(old + 14) == load16(new + 14)           # window
        and memcmp(old + 18, new + 18, item.headers - item.transport - 18) == 0)


cdef int coalescer_allocate(Coalescer* c, uint32_t capacity) except -1:
    c.capacity = capacity
    c.items = <Item*>calloc(capacity, sizeof(Item))
    c.following = <uint32_t*>calloc(capacity, sizeof(uint32_t))
    if c.items == NULL or c.following == NULL:
        raise MemoryError
    return 0


cdef void coalescer_release(Coalescer* c) noexcept:
    free(c.items)
    free(c.following)


# The Python face.

def merge(PacketBatch batch not None, bint tcp=True, bint udp=True):
    cdef Coalescer c
    cdef uint32_t i
    merged = []
    memset(&c, 0, sizeof(c))
    try:
        coalescer_allocate(&c, batch.b.capacity)
        with nogil:
            coalesce(&c, &batch.b, tcp, udp)
        for i in range(c.count):
            merged.append(_written(&c, &c.items[i], &batch.b))
    finally:
        coalescer_release(&c)
    return merged


cdef bytes _written(const Coalescer* c, const Item* item, const Batch* b):
    cdef VnetHeader h
    cdef uint8_t headers[COALESCE_HEADERS]
    cdef uint32_t slot = item.first
    cdef uint32_t size
    cdef const uint8_t* packet
    memset(&h, 0, sizeof(VnetHeader))
    if item.count == 1:
        packet = slot_packet(b, slot)
        return bytes(VNET_HEADER) + packet[:b.length[slot]]
    size = coalesce_headers(item, b, &h, headers)
    pieces = [(<const uint8_t*>&h)[:VNET_HEADER], headers[:size]]
    while slot != NONE:
        packet = slot_packet(b, slot)
        pieces.append(packet[item.headers:b.length[slot]])
        slot = c.following[slot]
    return b"".join(pieces)
