# PacketBatch: one arena and columns. The unit that every kernel works on.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef enum:
    HEADROOM = 64          # bytes kept free before a packet: WireGuard and ChannelData headers
    TAILROOM = 32          # bytes kept free after it: the tag
    FLOW_NONE = 0xFFFFFFFF

# The fate of a slot. PASS goes on, SLOW goes to Python, everything else is a named drop.
cpdef enum Verdict:
    PASS = 0
    SLOW = 1               # to the control layer as it is (STUN, handshakes, flow misses)
    CONSUMED = 2           # done with: a keepalive, an injected order
    MALFORMED = 3          # not the IP packet or message its header claims
    FRAGMENT = 4
    TOO_LONG = 5
    REFUSED = 6            # the flow's entry says DROP
    UNROUTABLE = 7         # no usable session or path: the packet goes to Python
    NO_PEER = 8            # receiver index of nobody
    WRONG_INDEX = 9        # receiver index of a session we do not have
    EXPIRED = 10           # keypair past REJECT_AFTER_TIME
    REPLAYED = 11
    BAD_TAG = 12
    BAD_MAC1 = 13
    UNKNOWN_CHANNEL = 14
    UNKNOWN_FORMAT = 15
    RING_FULL = 16         # the slow path could not take it
    OVER_BUDGET = 17       # the peer has too many misses waiting in the slow path
    SEND_FAILED = 18
    WRITE_FAILED = 19
    HANDED_OVER = 20       # transport data of another worker's peer: it goes on there
    VERDICTS = 21

# An address and port as the kernels compare it. family is 4 or 6 (0 = unset); v4 fills address[0:4].
ctypedef struct Endpoint:
    uint8_t address[16]
    uint16_t port          # host order
    uint8_t family
    uint8_t _pad

# The parsed 5-tuple. Unused bytes are zero, so keys compare with memcmp. 40 bytes.
ctypedef struct Tuple:
    uint8_t source[16]     # v4 in the first four bytes
    uint8_t destination[16]
    uint16_t source_port   # host order; ICMP echo: the identifier, in both ports
    uint16_t destination_port
    uint8_t protocol
    uint8_t family
    uint8_t tcp_flags      # not part of the identity
    uint8_t _pad

ctypedef struct Batch:
    uint8_t* arena         # page-aligned
    size_t arena_size      # at least capacity * stride
    uint32_t capacity
    uint32_t stride        # between slots as slot_reset places them
    uint32_t count
    uint32_t* offset       # of the packet's first byte, from the arena's start
    uint32_t* length
    uint32_t* peer         # slot of the peer; 0 = nobody
    uint32_t* flow         # index into the flow table, or FLOW_NONE
    uint8_t* verdict
    uint8_t* ecn           # outer ECN bits
    uint8_t* mark          # MARK_ bits
    Tuple* tuple
    Endpoint* local
    Endpoint* remote

cdef enum:
    MARK_CONFIRMED = 1     # first packet of a responder's keypair: tell Python
    MARK_PAST_FLOWS = 2    # made by us or already decided: no flow lookup

cdef class PacketBatch:
    cdef Batch b
    cdef int _check(self, Py_ssize_t slot) except -1


# Where a slot's packet begins.
cdef inline uint8_t* slot_packet(const Batch* b, uint32_t slot) noexcept nogil:
    return b.arena + b.offset[slot]


# Bytes that a slot can hold where slot_reset places it, with headroom and tailroom left free.
cdef inline uint32_t slot_room(const Batch* b) noexcept nogil:
    return b.stride - HEADROOM - TAILROOM


# Bytes of the arena that a packet of this length takes, with headroom and tailroom. Packets that
# are laid one after the other by it stay in front of where slot_reset would place them.
cdef inline uint32_t slot_extent(uint32_t length) noexcept nogil:
    return (HEADROOM + length + TAILROOM + 63) & ~<uint32_t>63


# Makes a slot fresh: an empty packet of nobody behind the headroom, verdict PASS.
cdef inline void slot_reset(Batch* b, uint32_t slot) noexcept nogil:
    b.offset[slot] = slot * b.stride + HEADROOM
    b.length[slot] = 0
    b.peer[slot] = 0
    b.flow[slot] = FLOW_NONE
    b.verdict[slot] = PASS
    b.ecn[slot] = 0
    b.mark[slot] = 0
    memset(&b.tuple[slot], 0, sizeof(Tuple))
    memset(&b.local[slot], 0, sizeof(Endpoint))
    memset(&b.remote[slot], 0, sizeof(Endpoint))


cdef inline bint endpoint_equal(const Endpoint* a, const Endpoint* b) noexcept nogil:
    return a.port == b.port and a.family == b.family and memcmp(a.address, b.address, 16) == 0


# Two multiplications (the finaliser of splitmix64), seeded by a secret of the table. Good enough
# for tables whose keys strangers cannot choose; others want a keyed hash of full strength.
cdef inline uint64_t endpoint_hash(const Endpoint* e, uint64_t secret) noexcept nogil:
    cdef uint64_t low
    cdef uint64_t high
    memcpy(&low, e.address, 8)
    memcpy(&high, e.address + 8, 8)
    low ^= secret ^ (<uint64_t>e.port << 16 | e.family)
    low = (low ^ low >> 30) * <uint64_t>0xBF58476D1CE4E5B9
    low = ((low ^ low >> 27) + high) * <uint64_t>0x94D049BB133111EB
    return low ^ low >> 31


# (family 4 or 6, packed address, port): the Python face of an Endpoint; unset is (0, b"", 0).
cdef inline tuple endpoint_tuple(const Endpoint* e):
    cdef Py_ssize_t size = 4 if e.family == 4 else 16 if e.family == 6 else 0
    return (e.family, <bytes>(<const char*>e.address)[:size], e.port)


cdef inline int endpoint_set(Endpoint* e, int family, bytes packed, int port) except -1:
    if not ((family == 4 and len(packed) == 4) or (family == 6 and len(packed) == 16)):
        raise ValueError("not an address of its family")
    if not 0 <= port <= 0xFFFF:
        raise ValueError("port out of range")
    memset(e, 0, sizeof(Endpoint))
    memcpy(e.address, <const char*>packed, len(packed))
    e.family = family
    e.port = port
    return 0


# Sets an Endpoint to such a tuple. TypeError or ValueError for what is none.
cdef inline int endpoint_parse(Endpoint* e, object endpoint) except -1:
    family, packed, port = endpoint
    return endpoint_set(e, family, packed, port)
