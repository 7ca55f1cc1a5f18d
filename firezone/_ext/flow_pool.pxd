# The memory of the flow table's entries: numbers that are free, and those that become so.
#
# Entries come in chunks, which stay until the table goes. A number that was retired is free again
# once no reader can hold it: what is retired waits for the mark of those before it to pass. Python
# alone is here. Inline only: no module to import.
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from firezone._ext.epoch cimport Epoch, EpochMark, epoch_mark, epoch_passed
from firezone._ext.flow_index cimport FIRST_NUMBER
from firezone._ext.flow_lists cimport CHUNK_ENTRIES, FlowEntries, FlowEntry, entry_at
from firezone._ext.ip cimport Rewrite

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void**, size_t, size_t)

cdef extern from "sys/mman.h" nogil:
    enum:
        MADV_HUGEPAGE
    int madvise(void*, size_t, int)

# Entries that no reader should find any more, linked by their first link.
ctypedef struct FlowChain:
    uint32_t first
    uint32_t last

ctypedef struct FlowPool:
    uint32_t chunks        # how many there may be
    uint32_t fresh         # numbers from here on were never used
    uint32_t free
    FlowChain retired      # since the mark
    FlowChain waiting      # for the mark to pass
    EpochMark mark


# False without memory. `e` is all zeros.
cdef inline bint pool_init(FlowPool* p, FlowEntries* e, uint32_t capacity) noexcept:
    # One chunk more than full, for those that wait to be used again.
    p.chunks = (capacity + FIRST_NUMBER - 1) // CHUNK_ENTRIES + 2
    p.fresh = FIRST_NUMBER
    e.chunks = <FlowEntry**>calloc(p.chunks, sizeof(FlowEntry*))
    e.rewrites = <Rewrite**>calloc(p.chunks, sizeof(Rewrite*))
    return e.chunks != NULL and e.rewrites != NULL


cdef inline void pool_free(FlowPool* p, FlowEntries* e) noexcept:
    cdef uint32_t i
    for i in range(p.chunks):
        if e.chunks != NULL:
            free(e.chunks[i])
        if e.rewrites != NULL:
            free(e.rewrites[i])
    free(e.chunks)
    free(e.rewrites)


# The number of an entry that nobody uses, 0 if there is no memory.
cdef inline uint32_t pool_take(FlowPool* p, FlowEntries* e) noexcept:
    cdef uint32_t number = p.free
    if number != 0:
        p.free = entry_at(e, number).link[0].next
        return number
    if not pool_extend(p, e):
        return 0
    p.fresh += 1
    return p.fresh - 1


# Makes sure that the chunk of the next fresh number is there.
cdef inline bint pool_extend(FlowPool* p, FlowEntries* e) noexcept:
    cdef uint32_t chunk = p.fresh // CHUNK_ENTRIES
    cdef size_t size = CHUNK_ENTRIES * sizeof(FlowEntry)
    cdef void* memory = NULL
    if chunk >= p.chunks:
        return False
    if e.chunks[chunk] != NULL:
        return True
    if posix_memalign(&memory, size if chunk else 64, size):
        return False
    # The first stays small in a table that does; what is looked up all over many chunks needs few
    # entries of the processor's address cache.
    if chunk:
        madvise(memory, size, MADV_HUGEPAGE)
    e.chunks[chunk] = <FlowEntry*>memory
    return True


# Makes sure that an entry of this number has a place for its rewrite.
cdef inline bint pool_extend_rewrites(FlowEntries* e, uint32_t number) noexcept:
    cdef uint32_t chunk = number // CHUNK_ENTRIES
    if e.rewrites[chunk] == NULL:
        e.rewrites[chunk] = <Rewrite*>calloc(CHUNK_ENTRIES, sizeof(Rewrite))
    return e.rewrites[chunk] != NULL


cdef inline void pool_retire(FlowPool* p, FlowEntries* e, uint32_t number) noexcept:
    cdef FlowEntry* entry = entry_at(e, number)
    entry.link[0].next = p.retired.first
    if p.retired.first == 0:
        p.retired.last = number
    p.retired.first = number


# What has waited until no reader can hold it becomes free; what was retired since waits.
cdef inline void pool_recycle(FlowPool* p, FlowEntries* e, Epoch* epoch) noexcept:
    cdef int turn
    for turn in range(2):
        if p.waiting.first and epoch_passed(epoch, p.mark):
            entry_at(e, p.waiting.last).link[0].next = p.free
            p.free = p.waiting.first
            p.waiting.first = 0
        if p.waiting.first == 0 and p.retired.first:
            p.waiting = p.retired
            p.retired.first = 0
            p.mark = epoch_mark(epoch)
