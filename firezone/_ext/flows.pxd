# The flow table: what was decided about each direction of each flow.
#
# Entries stay where they are; an index of hashes leads to them, and only the index grows. Python
# alone writes; one data thread per direction reads, and keeps the counters of the entries. An entry
# is written whole before its number is published, and its memory is used again only after both
# threads have passed a quiescent point; so is an index that was replaced.
from libc.stdint cimport int64_t, uint32_t

from firezone._ext.batch cimport Batch
from firezone._ext.epoch cimport Epoch
from firezone._ext.flow_lists cimport FlowEntry, FlowList
from firezone._ext.flow_pool cimport FlowPool
from firezone._ext.flow_table cimport FlowTable
from firezone._ext.ip cimport Rewrite
from firezone._ext.session cimport Sessions

cdef enum:
    UP = 0
    DOWN = 1
    FLOW_DROP = 0
    FLOW_FORWARD = 1
    FLOW_SLOW = 2
    BUCKETS = 256          # of the ticks to come

# PASS slots: finds the flow by tuple and, on the way DOWN, peer. FORWARD sets the flow column and,
# on the way UP, the peer; DROP becomes REFUSED; a miss or stale entry becomes SLOW.
cdef void flows_lookup(FlowTable* t, Batch* b, int direction, int64_t now) noexcept nogil

# PASS slots: gives the packets the addresses and ports that their flow's entry says.
cdef void flows_rewrite(FlowTable* t, Batch* b) noexcept nogil


cdef class Flows:
    cdef FlowTable table
    cdef Epoch _own_epoch
    cdef Sessions _sessions
    cdef uint32_t _capacity
    cdef uint32_t _live
    cdef uint32_t _per_group
    cdef uint32_t* _in_group
    cdef FlowList* _groups
    cdef FlowList _ticks[BUCKETS]
    cdef int64_t _tick
    cdef int64_t _swept         # the last tick whose entries were looked at
    cdef dict _revoked          # groups that may hold entries of older generations
    cdef FlowPool _pool

    cdef int _check(self, uint32_t slot) except -1
    cdef uint32_t _find(self, const FlowEntry* key) noexcept
    cdef bint _add(self, const FlowEntry* entry, const Rewrite* rewrite) noexcept
    cdef bint _replace(
        self, uint32_t number, const FlowEntry* entry, const Rewrite* rewrite
    ) noexcept
    cdef bint _renew(
        self, uint32_t number, const FlowEntry* entry, const Rewrite* rewrite
    ) noexcept
    cdef uint32_t _write(self, const FlowEntry* entry, const Rewrite* rewrite) noexcept
    cdef void _unlist(self, uint32_t number) noexcept
    cdef void _enlist(self, uint32_t number) noexcept
    cdef void _schedule(self, uint32_t number) noexcept
    cdef void _forget(self, uint32_t number) noexcept
    cdef void _recycle(self) noexcept
    cdef uint32_t _sweep_group(self, uint32_t group, uint32_t limit, list ended) except? 0
    cdef uint32_t _sweep_tick(
        self, int64_t tick, int64_t now, uint32_t limit, list ended
    ) except? 0
