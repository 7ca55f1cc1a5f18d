"""IPv4 and IPv6 headers (RFC 791, RFC 8200), TCP, UDP and ICMP behind them.

`locate` is the one walk over the headers: it checks every length and says where the transport
header is. Parsing fills a Tuple from there; rewriting changes what stands there. Checksums are
never computed anew but mended (RFC 1624 equation 3), so what arrived damaged leaves damaged.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from firezone._ext.batch cimport (
    Batch, FRAGMENT, MALFORMED, PASS, PacketBatch, Tuple, slot_packet,
)

cdef enum:
    ICMP = 1
    TCP = 6
    UDP = 17
    ROUTING = 43
    FRAGMENT_HEADER = 44
    AH = 51
    ICMPV6 = 58
    NO_NEXT_HEADER = 59
    DESTINATION_OPTIONS = 60
    MOBILITY = 135
    HIP = 139
    SHIM6 = 140
    MAX_EXTENSIONS = 16    # more serve only to hide the transport header
    MAX_PACKET = 65575     # IPv6, without jumbograms

cdef enum:
    CE = 3

# Where the parts of a packet are.
ctypedef struct Layout:
    uint32_t end           # of the packet, as its IP header says
    uint32_t transport     # offset of the transport header
    uint8_t protocol
    uint8_t family
    bint echo              # an ICMP echo request or reply


cdef void ip_parse(Batch* b, bint fragments) noexcept nogil:
    cdef uint32_t slot
    for slot in range(b.count):
        if b.verdict[slot] == PASS:
            b.verdict[slot] = ip_parse_packet(
                slot_packet(b, slot), &b.length[slot], &b.tuple[slot], fragments)


cdef int ip_parse_packet(
    const uint8_t* packet, uint32_t* length, Tuple* tuple, bint fragments
) noexcept nogil:
    cdef Layout layout
    cdef int verdict = locate(packet, length[0], &layout)
    memset(tuple, 0, sizeof(Tuple))
    if verdict != PASS and not (verdict == FRAGMENT and fragments):
        return verdict
    length[0] = layout.end
    tuple.family = layout.family
    tuple.protocol = FRAGMENT_HEADER if verdict == FRAGMENT else layout.protocol
    if layout.family == 4:
        memcpy(tuple.source, packet + 12, 4)
        memcpy(tuple.destination, packet + 16, 4)
    else:
        memcpy(tuple.source, packet + 8, 16)
        memcpy(tuple.destination, packet + 24, 16)
    if verdict == FRAGMENT:
        return PASS
    cdef const uint8_t* transport = packet + layout.transport
    if layout.protocol == TCP or layout.protocol == UDP:
        tuple.source_port = read16(transport)
        tuple.destination_port = read16(transport + 2)
        if layout.protocol == TCP:
            tuple.tcp_flags = transport[13]
    elif layout.echo:
        tuple.source_port = tuple.destination_port = read16(transport + 4)
    return PASS


cdef int ip_rewrite(uint8_t* packet, uint32_t length, const Rewrite* r) noexcept nogil:
    cdef Layout layout
    if locate(packet, length, &layout) != PASS:
        return IP_MALFORMED
    if r.fields & (REWRITE_SOURCE | REWRITE_DESTINATION) and r.family != layout.family:
        return IP_FAMILY
    cdef bint ports = layout.protocol == TCP or layout.protocol == UDP
    if r.fields & (REWRITE_SOURCE_PORT | REWRITE_DESTINATION_PORT) and not (ports or layout.echo):
        return IP_PROTOCOL
    cdef uint8_t* transport = packet + layout.transport
    cdef uint32_t in_addresses = rewrite_addresses(packet, layout.family, r)
    cdef uint32_t in_ports = 0
    if ports:
        if r.fields & REWRITE_SOURCE_PORT:
            in_ports += replace16(transport, r.source_port)
        if r.fields & REWRITE_DESTINATION_PORT:
            in_ports += replace16(transport + 2, r.destination_port)
    elif r.fields & REWRITE_SOURCE_PORT:
        in_ports = replace16(transport + 4, r.source_port)
    elif r.fields & REWRITE_DESTINATION_PORT:
        in_ports = replace16(transport + 4, r.destination_port)
    if layout.family == 4:
        mend(packet + 10, in_addresses)
    mend_transport(transport, &layout, in_addresses, in_ports)
    return IP_OK


cdef void ip_read_ecn(Batch* b) noexcept nogil:
    cdef uint32_t slot
    for slot in range(b.count):
        if b.verdict[slot] == PASS and b.length[slot] >= 2:
            b.ecn[slot] = inner_ecn(slot_packet(b, slot))


cdef void ip_apply_ecn(Batch* b) noexcept nogil:
    cdef uint32_t slot
    cdef uint8_t* packet
    for slot in range(b.count):
        if b.verdict[slot] == PASS and b.ecn[slot] == CE and b.length[slot] >= 20:
            packet = slot_packet(b, slot)
            if inner_ecn(packet) != 0:
                mark_congestion(packet)


# The walk. Returns PASS, MALFORMED or FRAGMENT.
cdef int locate(const uint8_t* packet, uint32_t length, Layout* layout) noexcept nogil:
    cdef int verdict
    if length >= 20 and packet[0] >> 4 == 4:
        verdict = locate_v4(packet, length, layout)
    elif length >= 40 and packet[0] >> 4 == 6:
        verdict = locate_v6(packet, length, layout)
    else:
        return MALFORMED
    return verdict if verdict != PASS else check_transport(packet, layout)


cdef int locate_v4(const uint8_t* packet, uint32_t length, Layout* layout) noexcept nogil:
    cdef uint32_t header = (packet[0] & 15) * 4
    layout.family = 4
    layout.end = read16(packet + 2)
    layout.transport = header
    layout.protocol = packet[9]
    if header < 20 or layout.end < header or layout.end > length:
        return MALFORMED
    if read16(packet + 6) & 0x3FFF:    # more fragments, or an offset
        return FRAGMENT
    if layout.protocol != AH:
        return PASS
    return skip_header(packet, layout, (packet[header + 1] + 2) * 4 if room(layout, 8) else 0)


cdef int locate_v6(const uint8_t* packet, uint32_t length, Layout* layout) noexcept nogil:
    cdef uint32_t headers = 0
    cdef uint32_t size
    cdef int verdict
    layout.family = 6
    layout.end = 40 + read16(packet + 4)
    layout.transport = 40
    layout.protocol = packet[6]
    if layout.end > length:
        return MALFORMED
    if layout.protocol == 0:           # hop-by-hop options stand first or nowhere
        headers = 1
        if not room(layout, 8):
            return MALFORMED
        verdict = skip_header(packet, layout, (packet[41] + 1) * 8)
        if verdict != PASS:
            return verdict
    while is_extension(layout.protocol):
        headers += 1
        if headers > MAX_EXTENSIONS or not room(layout, 8):
            return MALFORMED
        if layout.protocol == FRAGMENT_HEADER:
            if read16(packet + layout.transport + 2) & 0xFFF9:
                return FRAGMENT        # atomic ones (RFC 6946) are whole
            size = 8
        elif layout.protocol == AH:
            size = (packet[layout.transport + 1] + 2) * 4
        else:
            size = (packet[layout.transport + 1] + 1) * 8
        verdict = skip_header(packet, layout, size)
        if verdict != PASS:
            return verdict
    return MALFORMED if layout.protocol == 0 else PASS


cdef int check_transport(const uint8_t* packet, Layout* layout) noexcept nogil:
    cdef const uint8_t* transport = packet + layout.transport
    cdef uint32_t size
    layout.echo = False
    if layout.protocol == TCP:
        if not room(layout, 20):
            return MALFORMED
        size = (transport[12] >> 4) * 4
        return PASS if size >= 20 and room(layout, size) else MALFORMED
    if layout.protocol == UDP:
        if not room(layout, 8):
            return MALFORMED
        size = read16(transport + 4)
        return PASS if size >= 8 and room(layout, size) else MALFORMED
    if layout.protocol == (ICMP if layout.family == 4 else ICMPV6):
        if not room(layout, 8):
            return MALFORMED
        if layout.family == 4:
            layout.echo = (transport[0] == 8 or transport[0] == 0) and transport[1] == 0
        else:
            layout.echo = (transport[0] == 128 or transport[0] == 129) and transport[1] == 0
    return PASS


cdef inline bint is_extension(uint8_t protocol) noexcept nogil:
    return (protocol == ROUTING or protocol == FRAGMENT_HEADER or protocol == AH
            or protocol == DESTINATION_OPTIONS or protocol == MOBILITY or protocol == HIP
            or protocol == SHIM6)


cdef inline bint room(const Layout* layout, uint32_t size) noexcept nogil:
    return layout.end - layout.transport >= size


cdef inline int skip_header(const uint8_t* packet, Layout* layout, uint32_t size) noexcept nogil:
    if size == 0 or not room(layout, size):
        return MALFORMED
    layout.protocol = packet[layout.transport]
    layout.transport += size
    return PASS


# Checksum arithmetic: a change is the sum of ~old and new words, for mend() to fold in.

cdef uint32_t rewrite_addresses(uint8_t* packet, uint8_t family, const Rewrite* r) noexcept nogil:
    cdef uint32_t size = 4 if family == 4 else 16
    cdef uint8_t* source = packet + (12 if family == 4 else 8)
    cdef uint32_t change = 0
    if r.fields & REWRITE_SOURCE:
        change += replace(source, r.source, size)
    if r.fields & REWRITE_DESTINATION:
        change += replace(source + size, r.destination, size)
    return change


cdef void mend_transport(
    uint8_t* transport, const Layout* layout, uint32_t in_addresses, uint32_t in_ports
) noexcept nogil:
    if layout.protocol == TCP:
        mend(transport + 16, in_addresses + in_ports)
    elif layout.protocol == UDP:
        if read16(transport + 6) == 0:
            return                     # none was made (RFC 768, RFC 6935)
        mend(transport + 6, in_addresses + in_ports)
        if read16(transport + 6) == 0:
            write16(transport + 6, 0xFFFF)
    elif layout.family == 4 and layout.protocol == ICMP:
        mend(transport + 2, in_ports)  # ICMPv4 covers no pseudo-header
        if in_ports != 0 and transport[0] == 0 and read16(transport + 2) == 0:
            # An echo reply may be all zeros, and then only 0xFFFF is right; it always verifies.
            write16(transport + 2, 0xFFFF)
    elif layout.family == 6 and layout.protocol == ICMPV6:
        mend(transport + 2, in_addresses + in_ports)


cdef inline uint32_t replace(uint8_t* old, const uint8_t* new, uint32_t size) noexcept nogil:
    cdef uint32_t change = 0
    cdef uint32_t i
    for i in range(0, size, 2):
        change += replace16(old + i, read16(new + i))
    return change


cdef inline uint32_t replace16(uint8_t* old, uint16_t new) noexcept nogil:
    cdef uint32_t change = <uint16_t>~read16(old) + <uint32_t>new
    write16(old, new)
    return change


cdef inline void mend(uint8_t* checksum, uint32_t change) noexcept nogil:
    if change == 0:
        return
    cdef uint32_t total = <uint16_t>~read16(checksum) + change
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    write16(checksum, <uint16_t>~total)


cdef inline uint8_t inner_ecn(const uint8_t* packet) noexcept nogil:
    if packet[0] >> 4 == 4:
        return packet[1] & 3
    if packet[0] >> 4 == 6:
        return packet[1] >> 4 & 3
    return 0


cdef inline void mark_congestion(uint8_t* packet) noexcept nogil:
    if packet[0] >> 4 == 4:
        mend(packet + 10, replace16(packet, read16(packet) | CE))
    else:
        packet[1] |= CE << 4


cdef inline uint16_t read16(const uint8_t* p) noexcept nogil:
    return <uint16_t>(p[0] << 8 | p[1])


cdef inline void write16(uint8_t* p, uint16_t value) noexcept nogil:
    p[0] = value >> 8
    p[1] = value & 0xFF


# The Python face.

def parse(PacketBatch batch not None, bint fragments=False):
    with nogil:
        ip_parse(&batch.b, fragments)


def five_tuple(bytes packet not None, bint fragments=False):
    cdef Tuple t
    cdef uint32_t length = <uint32_t>min(len(packet), MAX_PACKET)
    if ip_parse_packet(packet, &length, &t, fragments) != PASS:
        return None
    cdef Py_ssize_t size = 4 if t.family == 4 else 16
    return (
        t.protocol,
        <bytes>(<const char*>t.source)[:size],
        <bytes>(<const char*>t.destination)[:size],
        t.source_port,
        t.destination_port,
    )


def read_ecn(PacketBatch batch not None):
    with nogil:
        ip_read_ecn(&batch.b)


def apply_ecn(PacketBatch batch not None):
    with nogil:
        ip_apply_ecn(&batch.b)


def rewrite(packet, source=None, destination=None, source_port=None, destination_port=None):
    cdef Rewrite r
    fill_rewrite(&r, source, destination, source_port, destination_port)
    cdef bytearray copy = bytearray(packet)
    cdef uint8_t[::1] view
    cdef int code = IP_MALFORMED
    if copy:
        view = copy
        code = ip_rewrite(&view[0], <uint32_t>len(copy), &r)
    if code == IP_FAMILY:
        raise ValueError("the new address is of the other family")
    if code == IP_PROTOCOL:
        raise ValueError("the packet has no ports")
    if code != IP_OK:
        raise ValueError("not an IP packet that can be rewritten")
    return bytes(copy)


def rewrite_batch(
    PacketBatch batch not None,
    source=None, destination=None, source_port=None, destination_port=None,
):
    cdef Rewrite r
    cdef Batch* b = &batch.b
    cdef uint32_t slot
    fill_rewrite(&r, source, destination, source_port, destination_port)
    with nogil:
        for slot in range(b.count):
            if b.verdict[slot] == PASS:
                if ip_rewrite(slot_packet(b, slot), b.length[slot], &r) != IP_OK:
                    b.verdict[slot] = MALFORMED


cdef int fill_rewrite(
    Rewrite* r, bytes source, bytes destination, source_port, destination_port
) except -1:
    memset(r, 0, sizeof(Rewrite))
    if source is not None:
        r.fields |= REWRITE_SOURCE
        r.family = fill_address(r.source, source)
    if destination is not None:
        r.fields |= REWRITE_DESTINATION
        if source is not None and len(source) != len(destination):
            raise ValueError("addresses of two families")
        r.family = fill_address(r.destination, destination)
    if source_port is not None:
        r.fields |= REWRITE_SOURCE_PORT
        r.source_port = source_port
    if destination_port is not None:
        r.fields |= REWRITE_DESTINATION_PORT
        r.destination_port = destination_port
    return 0


cdef int fill_address(uint8_t* place, bytes address) except -1:
    if len(address) not in (4, 16):
        raise ValueError("an address has 4 or 16 bytes")
    memcpy(place, <const char*>address, len(address))
    return 4 if len(address) == 4 else 6
