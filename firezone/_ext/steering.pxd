# Which worker has what. Inline only: no module to import. `firezone/shell/steering.py` tells the
# kernel the same, by programs of its socket and TUN filters.
#
# Transport data belongs to the worker that its receiver index names: that one alone has the replay
# windows of its peers. A packet from the TUN device belongs to any worker, but all of a flow to one.
from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    MAX_WORKERS = 16
    SPREAD = 0x9E3779B1    # an odd number near 2**32 / golden ratio
    TCP = 6
    UDP = 17
    FRAGMENT_HEADER = 44


# By the lowest byte of the tunnel id: a filter of a socket loads bytes, but not little-endian words.
cdef inline uint32_t worker_of_index(uint32_t local_index, uint32_t workers) noexcept nogil:
    return (local_index >> 8 & 0xFF) % workers


# By addresses, protocol and, unless there are options before them, ports. Fragments have none: all of
# two addresses are one flow (ip_parse).
cdef inline uint32_t worker_of_packet(
    const uint8_t* packet, uint32_t length, uint32_t workers
) noexcept nogil:
    cdef uint32_t mixed = 0
    cdef uint32_t is_fragment
    cdef uint32_t protocol
    cdef uint32_t ports
    cdef uint32_t place
    if length >= 20 and packet[0] >> 4 == 4:
        for place in range(12, 20, 4):
            mixed = mix(mixed, word_at(packet + place))
        is_fragment = word_at(packet + 4) & 0x3FFF
        protocol = FRAGMENT_HEADER if is_fragment else packet[9]
        ports = 20 if packet[0] == 0x45 else 0
    elif length >= 40 and packet[0] >> 4 == 6:
        for place in range(8, 40, 4):
            mixed = mix(mixed, word_at(packet + place))
        protocol = packet[6]
        ports = 40
    else:
        return 0
    mixed = mix(mixed, protocol)
    if ports and (protocol == TCP or protocol == UDP):
        if length < ports + 4:
            return 0
        mixed = mix(mixed, word_at(packet + ports))
    # A product's low bits know nothing of the factors' high ones.
    return (mix(mixed, mixed >> 16) >> 16) % workers


cdef inline uint32_t mix(uint32_t mixed, uint32_t word) noexcept nogil:
    return (mixed ^ word) * <uint32_t>SPREAD


cdef inline uint32_t word_at(const uint8_t* p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]
