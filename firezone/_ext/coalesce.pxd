# Packets of one flow into the super-packets that a TUN device takes.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from firezone._ext.batch cimport Batch
from firezone._ext.vnet cimport VnetHeader

cdef enum:
    COALESCE_BUCKETS = 256
    COALESCE_HEADERS = 128 # bytes that the headers of a super-packet take at most

# One thing to write: a packet, or several of one flow.
ctypedef struct Item:
    uint32_t first         # slots, linked by Coalescer.following
    uint32_t last
    uint32_t count
    uint32_t total         # bytes: headers once, and all payloads
    uint32_t headers
    uint32_t size          # payload bytes of each packet but the last
    uint32_t sequence      # TCP: of the packet that may follow
    uint32_t older         # the next item in the bucket
    uint16_t id            # IPv4: of the last packet
    uint8_t id_step        # ... and what the next one adds to it
    uint8_t transport      # where the TCP or UDP header begins
    uint8_t protocol
    uint8_t open           # packets may be appended
    uint8_t verified       # the checksums of the first packet are right

ctypedef struct Coalescer:
    Item* items
    uint32_t* following    # by slot
    uint32_t capacity      # slots of the largest batch
    uint32_t count
    uint32_t bucket[COALESCE_BUCKETS]

# PASS slots: what to write, in order, as `items`. Merges TCP or UDP only where allowed.
cdef void coalesce(Coalescer* c, const Batch* b, bint tcp, bint udp) noexcept nogil

# The headers of an item with several packets: at most COALESCE_HEADERS bytes. Returns how many.
cdef uint32_t coalesce_headers(
    const Item* item, const Batch* b, VnetHeader* h, uint8_t* headers
) noexcept nogil

cdef int coalescer_allocate(Coalescer* c, uint32_t capacity) except -1
cdef void coalescer_release(Coalescer* c) noexcept
