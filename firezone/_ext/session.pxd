# WireGuard sessions: who owns a transport data message, and its sealing and opening.
#
# Threads: TX seals, RX opens, control (Python) publishes and frees. A peer has one RX; it has one TX,
# too, unless the table is `shared`. A keypair's fields above "TX" are set before it is published.
# Plain words are read and written by their owner alone; those that another thread reads are accessed
# by relaxed atomics.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from firezone._ext.batch cimport Batch, Endpoint
from firezone._ext.epoch cimport Epoch, EpochMark

cdef enum:
    KEYPAIRS = 8           # per peer: slot = local index modulo 8
    WINDOW_WORDS = 128     # replay window: a ring of 8192 bits (RFC 6479)
    DATA_HEADER = 16       # type, receiver index, counter
    DATA_OVERHEAD = 32     # the header and the tag

# Links what is unpublished until no thread can hold it. First member of what can be retired.
ctypedef struct Retired:
    Retired* next
    EpochMark mark
    void* owner            # of a keypair: its Peer
    uint32_t kind

ctypedef struct Keypair:
    Retired retired
    uint8_t send_key[32]
    uint8_t receive_key[32]
    int64_t created_at
    int64_t send_until
    int64_t receive_until
    uint32_t local_index
    uint32_t remote_index
    uint8_t initiator
    uint8_t _pad_set[63]
    uint64_t send_counter  # TX: the next nonce
    uint8_t _pad_tx[56]
    uint64_t receive_next  # RX: one more than the greatest counter accepted
    uint8_t confirmed      # RX: something has arrived under it
    uint8_t _pad_rx[7]
    uint64_t window[WINDOW_WORDS]

ctypedef struct Peer:
    Retired retired
    uint32_t slot
    uint32_t tunnel_id
    Keypair* keypairs[KEYPAIRS]
    Keypair* send          # control and RX, by compare and swap
    uint8_t _pad_set[16]
    int64_t sent_any       # TX; of several the last one's
    int64_t sent_data
    int64_t unanswered_since
    uint64_t sent_bytes
    uint8_t _pad_tx[32]
    int64_t received_any   # RX
    int64_t received_data
    int64_t unacknowledged_since
    uint64_t received_bytes
    uint8_t _pad_rx[32]
    Endpoint local         # RX, while `moved` is 0: the ends of the last message that had others
    Endpoint remote
    uint32_t moved         # set by RX, cleared by control: both have changed since it looked
    uint8_t _pad_moved[20]

# 256 tunnel ids that share their upper 16 bits: the peer's slot of each, 0 = nobody's.
ctypedef struct Leaf:
    Retired retired
    uint32_t used
    uint32_t slots[256]

ctypedef struct SessionTable:
    uint32_t capacity      # slots 1 to capacity
    Peer** peers           # by slot
    Leaf** leaves          # by tunnel id >> 8
    Epoch* epoch           # of the data threads; other tables free by it, too
    uint32_t pad_below     # plaintexts are padded to 16 bytes, but not beyond this length; 0 = never
    uint32_t moved         # set by RX, cleared by control: some peer's `moved` is set
    bint shared            # several TX; set before there are any

# PASS slots: seals the packet in place for the peer of its peer column: offset and length then
# cover the whole message. Without a usable keypair the slot becomes UNROUTABLE and its packet stays
# as it was. An empty packet is a keepalive. The caller has entered the epoch as tx.
cdef void sessions_seal(SessionTable* t, Batch* b, int64_t now) noexcept nogil

# PASS slots: opens the transport data message in place; peer, offset and length then say whose
# packet it is and where. Keepalives become CONSUMED. MARK_CONFIRMED (also on a keepalive) tells that
# a keypair of ours as responder has taken the send slot. The caller has entered the epoch as rx.
cdef void sessions_open(SessionTable* t, Batch* b, int64_t now) noexcept nogil

# True if sessions_seal would find a keypair for the peer.
cdef bint sessions_can_seal(SessionTable* t, uint32_t peer, int64_t now) noexcept nogil


# The receiver index of a slot that holds transport data.
cdef inline uint32_t message_index(const Batch* b, uint32_t slot) noexcept nogil:
    return read32(b.arena + b.offset[slot] + 4)


# The same once sessions_open has opened it: the header stands before the packet.
cdef inline uint32_t opened_index(const Batch* b, uint32_t slot) noexcept nogil:
    return read32(b.arena + b.offset[slot] - 12)


cdef inline uint32_t read32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16 | <uint32_t>p[3] << 24)


# Not for two Python threads at once. The data threads may run meanwhile, on `table`.
cdef class Sessions:
    cdef SessionTable table
    cdef Epoch _epoch
    cdef Retired* _fading       # unpublished, but a thread may still see it or put it back
    cdef Retired* _dead         # nobody can find it, but a thread may still be reading
    cdef Retired** _fading_end
    cdef Retired** _dead_end
    cdef size_t _bytes
    cdef size_t _peers
    cdef Peer* _peer(self, uint32_t slot) except NULL
    cdef Leaf* _leaf(self, uint32_t tunnel_id) except NULL
    cdef void* _new(self, size_t size, uint32_t kind) except NULL
    cdef void _replace(self, Peer* peer, uint32_t place, Keypair* keypair) noexcept
    cdef void _retire(self, Retired* item) noexcept
    cdef Py_ssize_t _reclaim(self) noexcept
    cdef Retired* _free(self, Retired* item) noexcept
