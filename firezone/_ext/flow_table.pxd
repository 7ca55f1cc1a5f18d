# What the data threads see of the flow table, and how they find an entry in it. Inline only: no module
# to import.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from firezone._ext.atomics cimport load_acquire_u32, load_relaxed_i64
from firezone._ext.batch cimport Tuple
from firezone._ext.epoch cimport Epoch
from firezone._ext.flow_index cimport FlowIndex, FlowIndexes, index_probe, index_word
from firezone._ext.flow_lists cimport FlowEntries, FlowEntry, entry_at, key_slot

cdef extern from "siphash.h" nogil:
    uint64_t siphash13(uint64_t, uint64_t, const uint64_t*, uint32_t) noexcept

cdef enum:
    IDENTITY = 38          # bytes of a Tuple that tell flows apart

ctypedef struct FlowTable:
    FlowIndexes indexes
    FlowEntries entries
    uint64_t key0
    uint64_t key1
    uint32_t slots
    uint32_t* generation   # by group
    uint32_t* life         # by slot: times that the slot was closed
    Epoch* epoch


cdef inline uint32_t hash_key(const FlowTable* t, const Tuple* key, uint32_t origin) noexcept nogil:
    cdef uint64_t words[6]
    words[4] = 0
    memcpy(words, key, IDENTITY)
    words[5] = origin
    return <uint32_t>siphash13(t.key0, t.key1, words, 6)


cdef inline uint32_t find(
    const FlowTable* t, const FlowIndex* index, uint32_t tag, const Tuple* key, uint32_t origin
) noexcept nogil:
    cdef uint32_t place = tag & index.mask
    cdef uint32_t number = 0
    cdef const FlowEntry* entry
    while index_probe(index, tag, &place, &number):
        entry = entry_at(&t.entries, number)
        if entry.origin == origin and memcmp(&entry.key, key, IDENTITY) == 0:
            return number
        place = (place + 1) & index.mask
    return 0


# Whether what was decided no longer holds.
cdef inline bint is_stale(const FlowTable* t, const FlowEntry* e, int64_t now) noexcept nogil:
    cdef int64_t until
    # First: who renews an entry stores it last.
    if load_acquire_u32(&e.generation) != load_acquire_u32(&t.generation[e.group]):
        return True
    if load_acquire_u32(&e.slot_life) != load_acquire_u32(&t.life[e.slot]):
        return True
    if load_acquire_u32(&e.key_life) != load_acquire_u32(&t.life[key_slot(e)]):
        return True
    until = load_relaxed_i64(&e.expires_at)
    if until and now >= until:
        return True
    until = load_relaxed_i64(&e.idle_timeout)
    return until != 0 and now - load_relaxed_i64(&e.last_seen) >= until


# Hash and number of a live entry, as the index has them.
cdef inline uint64_t word_of(const FlowTable* t, uint32_t number) noexcept nogil:
    cdef const FlowEntry* entry = entry_at(&t.entries, number)
    return index_word(hash_key(t, &entry.key, entry.origin), number)
