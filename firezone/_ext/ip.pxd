# IP packets: headers to 5-tuples, addresses and ports rewritten, ECN bits carried over.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from firezone._ext.batch cimport Batch, Tuple

cdef enum:
    REWRITE_SOURCE = 1
    REWRITE_DESTINATION = 2
    REWRITE_SOURCE_PORT = 4
    REWRITE_DESTINATION_PORT = 8

# What ip_rewrite answers.
cdef enum:
    IP_OK = 0
    IP_MALFORMED = -1      # not an IP packet, or a fragment
    IP_FAMILY = -2         # new address of the other family
    IP_PROTOCOL = -3       # a new port, but the packet has no ports

# New addresses and ports of a packet. `fields` (REWRITE_ bits) says which count.
# An ICMP echo has one identifier: source_port if that is set, else destination_port.
ctypedef struct Rewrite:
    uint8_t source[16]     # v4 in the first four bytes
    uint8_t destination[16]
    uint16_t source_port   # host order
    uint16_t destination_port
    uint8_t family         # 4 or 6: of the new addresses
    uint8_t fields
    uint8_t _pad[2]

# PASS slots: checks the headers, fills the tuple column, cuts the length to what the IP header
# says. Sets MALFORMED or FRAGMENT on what must not go on. With `fragments`, those go on: all of two
# addresses are one flow, of protocol 44 (RFC 8200's header for them) and without ports.
cdef void ip_parse(Batch* b, bint fragments) noexcept nogil

# One packet: fills `tuple`, cuts `length`. Returns PASS, MALFORMED or FRAGMENT.
cdef int ip_parse_packet(
    const uint8_t* packet, uint32_t* length, Tuple* tuple, bint fragments
) noexcept nogil

# Changes a packet in place and mends its checksums (RFC 1624). Returns an IP_ code; the packet is
# untouched unless that is IP_OK. UDP without a checksum stays without one.
cdef int ip_rewrite(uint8_t* packet, uint32_t length, const Rewrite* r) noexcept nogil

# PASS slots on the way out: the packet's own ECN bits become the outer ones (the ecn column).
cdef void ip_read_ecn(Batch* b) noexcept nogil

# PASS slots on the way in, after ip_parse: an outer CE marks an inner ECT packet CE.
cdef void ip_apply_ecn(Batch* b) noexcept nogil
