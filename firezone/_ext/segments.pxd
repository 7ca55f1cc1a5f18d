# Super-packets of a TUN device into the packets they stand for: TCP and UDP segmentation.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from firezone._ext.batch cimport Batch
from firezone._ext.vnet cimport VnetHeader

# A super-packet and how far it has been split. All zero is one that has been split to its end.
ctypedef struct SuperPacket:
    const uint8_t* data
    uint32_t length
    uint32_t headers       # bytes before the payload
    uint32_t transport     # where the TCP or UDP header begins
    uint32_t size          # payload bytes of each segment but the last
    uint32_t next          # offset of the payload that no segment has yet
    uint32_t index         # of the segment to come
    uint64_t network_sum   # IPv4: of the header without length, identification and checksum
    uint64_t transport_sum # of pseudo-header and header without what differs between segments
    uint8_t protocol

# Looks a super-packet over, whose bytes must stay until it is split. PASS; MALFORMED, also for
# what is no super-packet; TOO_LONG if its segments would be longer than `limit`.
cdef int segments_begin(
    SuperPacket* s, const VnetHeader* h, const uint8_t* data, uint32_t length, uint32_t limit
) noexcept nogil

# Appends segments until all are out or the batch is full. `place` is where the arena is free, and
# moves on. The limit of the beginning is at most slot_room.
cdef void segments_take(SuperPacket* s, Batch* b, uint32_t* place) noexcept nogil

# Completes the checksum of a packet that is none, where the header asks for it. PASS or MALFORMED.
cdef int segments_finish_checksum(
    const VnetHeader* h, uint8_t* packet, uint32_t length
) noexcept nogil


cdef inline bint segments_left(const SuperPacket* s) noexcept nogil:
    return s.next < s.length
