# PacketBatch: one arena and columns. The unit that every kernel works on.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

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
    VERDICTS = 20

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
    uint8_t* arena         # capacity * stride bytes, 64-byte aligned
    uint32_t capacity
    uint32_t stride
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
