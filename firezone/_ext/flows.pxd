# The flow table: what was decided about each direction of each flow.
#
# Open addressing with linear probing. `tags` holds 32 bits of each key's hash, so that a probe
# touches an entry only where the tag matches. Python alone writes; one data thread per direction
# reads, and keeps the entry's counters. An entry is written whole before its tag is published, and
# its place is used again only after both threads have passed a quiescent point.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from firezone._ext.batch cimport Batch, Tuple
from firezone._ext.epoch cimport Epoch, EpochMark
from firezone._ext.ip cimport Rewrite
from firezone._ext.session cimport Sessions

cdef enum:
    UP = 0
    DOWN = 1
    FLOW_DROP = 0
    FLOW_FORWARD = 1
    FLOW_SLOW = 2
    TAG_EMPTY = 0
    TAG_REMOVED = 1        # a probe goes on past it
    FLOW_PROBES = 128      # places that one key may stand in

ctypedef struct FlowEntry:
    Tuple key
    uint32_t key_slot      # the peer it came from (DOWN)
    uint32_t slot          # the peer out (UP), else whose revocation ends it
    uint32_t group
    uint32_t generation    # of the group when it was decided
    uint32_t key_life      # of key_slot, then
    uint32_t slot_life
    uint8_t action
    uint8_t rewrites
    uint8_t tcp_flags      # data thread: seen so far
    uint8_t _pad[5]
    int64_t expires_at     # 0 = never
    int64_t idle_timeout   # 0 = none
    int64_t last_seen      # data thread
    uint64_t packets
    uint64_t bytes
    EpochMark removed      # Python: when its tag became TAG_REMOVED
    Rewrite rewrite

ctypedef struct FlowSide:
    uint32_t* tags
    FlowEntry* entries
    uint32_t mask
    uint32_t live
    uint32_t cursor        # of the sweep

ctypedef struct FlowTable:
    FlowSide side[2]       # by direction
    uint64_t key0
    uint64_t key1
    uint32_t slots
    uint32_t* generation   # by group
    uint32_t* life         # by slot: times that the slot was closed
    const Epoch* epoch

# PASS slots: finds the flow by tuple and, on the way DOWN, peer. FORWARD sets the flow column and,
# on the way UP, the peer; DROP becomes REFUSED; a miss or stale entry becomes SLOW.
cdef void flows_lookup(FlowTable* t, Batch* b, int direction, int64_t now) noexcept nogil

# PASS slots: gives the packets the addresses and ports that their flow's entry says.
cdef void flows_rewrite(FlowTable* t, Batch* b, int direction) noexcept nogil


cdef class Flows:
    cdef FlowTable table
    cdef Epoch _own_epoch
    cdef Sessions _sessions
    cdef uint32_t _per_group
    cdef uint32_t* _in_group
    cdef int _check(self, uint32_t slot) except -1
    cdef uint32_t _decide(self, FlowEntry* entry, tuple key, rewrite) except 0
    cdef FlowEntry* _find(self, tuple key, int* direction, uint32_t* place) except? NULL
    cdef FlowEntry* _place(self, FlowSide* side, uint32_t tag_hash, uint32_t* place) noexcept
    cdef void _remove(self, FlowSide* side, uint32_t place) noexcept
    cdef int _sweep_place(
        self, FlowSide* side, int direction, uint32_t place, int64_t now, list ended
    ) except -1
