# The peers and keypairs of WireGuard sessions, and how they are found. Inline only: no module to
# import.
#
# Threads: TX seals, RX opens, control (Python) publishes and frees. A peer has one RX; it has one TX,
# too, unless the table is `shared`. A keypair's fields above "TX" are set before it is published.
# Plain words are read and written by their owner alone; those that another thread reads are accessed
# by relaxed atomics.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from firezone._ext.atomics cimport load_acquire_pointer, load_acquire_u32
from firezone._ext.batch cimport Endpoint
from firezone._ext.epoch cimport Epoch, EpochMark
from firezone._ext.replay_window cimport ReplayWindow

cdef enum:
    KEYPAIRS = 8           # per peer: slot = local index modulo 8

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
    ReplayWindow received  # RX
    uint8_t confirmed      # RX: something has arrived under it
    uint8_t _pad_rx[7]

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


cdef inline Peer* peer_of(SessionTable* t, uint32_t slot) noexcept nogil:
    if slot == 0 or slot > t.capacity:
        return NULL
    return <Peer*>load_acquire_pointer(&t.peers[slot])


cdef inline uint32_t slot_of(SessionTable* t, uint32_t tunnel_id) noexcept nogil:
    cdef Leaf* leaf = <Leaf*>load_acquire_pointer(&t.leaves[tunnel_id >> 8])
    return 0 if leaf == NULL else load_acquire_u32(&leaf.slots[tunnel_id & 0xFF])
