# The entries of the flow table, and the lists in which Python finds them again.
#
# An entry never moves, so the counters that a data thread keeps in it survive every growth of the
# table. Each live entry stands in two doubly linked lists: that of its group, newest first, and
# that of the tick at which it may have ended. Inline only: no module to import.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from firezone._ext.batch cimport Tuple
from firezone._ext.ip cimport Rewrite

cdef enum:
    BY_GROUP = 0
    BY_TICK = 1
    CHUNK_BITS = 14
    CHUNK_ENTRIES = 16384  # 2 MiB of entries: a huge page

ctypedef struct FlowLink:
    uint32_t next          # number of an entry; 0 = none
    uint32_t previous

ctypedef struct FlowList:
    uint32_t first
    uint32_t last

# 128 bytes. The first 64 are the key and who decided it, the others what packets change.
ctypedef struct FlowEntry:
    Tuple key
    uint32_t origin        # direction << 31 | the peer it came from (DOWN)
    uint32_t slot          # the peer out (UP), else whose revocation ends it
    uint32_t group
    uint32_t generation    # of the group when it was decided
    uint32_t key_life      # of the peer it came from, then
    uint32_t slot_life
    int64_t expires_at     # 0 = never
    int64_t idle_timeout   # 0 = none
    int64_t last_seen      # data thread
    uint64_t packets       # data thread
    uint64_t bytes         # data thread
    FlowLink link[2]
    uint8_t action
    uint8_t rewrites
    uint8_t tcp_flags      # data thread: seen so far
    uint8_t bucket         # of the tick that it waits for
    uint8_t is_live        # Python: it stands in the lists
    uint8_t _pad[3]

# Entries by number. A chunk is there before the first of its numbers is in the index. Rewrites are
# apart, because many flows have none.
ctypedef struct FlowEntries:
    FlowEntry** chunks
    Rewrite** rewrites


cdef inline uint32_t key_slot(const FlowEntry* entry) noexcept nogil:
    return entry.origin & 0x7FFFFFFF


cdef inline FlowEntry* entry_at(const FlowEntries* e, uint32_t number) noexcept nogil:
    return &e.chunks[number >> CHUNK_BITS][number & (CHUNK_ENTRIES - 1)]


cdef inline Rewrite* rewrite_at(const FlowEntries* e, uint32_t number) noexcept nogil:
    return &e.rewrites[number >> CHUNK_BITS][number & (CHUNK_ENTRIES - 1)]


cdef inline void list_push(
    const FlowEntries* e, FlowList* l, uint32_t number, int which
) noexcept:
    cdef FlowLink* link = &entry_at(e, number).link[which]
    link.next = l.first
    link.previous = 0
    if l.first:
        entry_at(e, l.first).link[which].previous = number
    else:
        l.last = number
    l.first = number


cdef inline void list_remove(
    const FlowEntries* e, FlowList* l, uint32_t number, int which
) noexcept:
    cdef FlowLink link = entry_at(e, number).link[which]
    if link.previous:
        entry_at(e, link.previous).link[which].next = link.next
    else:
        l.first = link.next
    if link.next:
        entry_at(e, link.next).link[which].previous = link.previous
    else:
        l.last = link.previous
