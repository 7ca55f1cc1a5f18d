# The index of the flow table: from 32 bits of a key's hash to the number of its entry.
#
# Open addressing with linear probing. A place is one word, hash and number, so a reader sees it
# whole, and the index can be moved to another size without a look at the entries. Python alone
# writes; the data threads read the index that is published. Inline only: no module to import.
#
# A move copies the places one after the other into the next index, a few at a time. Until all are
# copied, what changes below the point reached changes in both. Then the next one is published, and
# the old one freed when no reader can hold it.
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from firezone._ext.atomics cimport load_acquire_u64, store_release_pointer, store_release_u64
from firezone._ext.epoch cimport Epoch, EpochMark, epoch_mark, epoch_passed

cdef enum:
    PLACE_EMPTY = 0
    PLACE_REMOVED = 1      # a probe goes on past it
    FIRST_NUMBER = 2       # so that no word of an entry is one of these
    SMALLEST_INDEX = 256
    MOVED_PER_INSTALL = 32

ctypedef struct FlowIndex:
    uint64_t* places
    uint32_t mask
    uint32_t used          # places that are not empty
    void* memory
    FlowIndex* next_retired
    EpochMark retired

ctypedef struct FlowIndexes:
    FlowIndex* current     # published; a reader loads it once per batch
    FlowIndex* next        # NULL while nothing is moved
    uint32_t moved         # places of `current` that are copied
    FlowIndex* old         # not freed yet


cdef inline uint64_t index_word(uint32_t tag, uint32_t number) noexcept nogil:
    return <uint64_t>tag << 32 | number


cdef inline uint32_t word_tag(uint64_t word) noexcept nogil:
    return <uint32_t>(word >> 32)


cdef inline uint32_t word_number(uint64_t word) noexcept nogil:
    return <uint32_t>word


# `size` is a power of two. NULL without memory. The pages come into being as they are used.
cdef inline FlowIndex* index_new(uint32_t size) noexcept:
    cdef FlowIndex* index = <FlowIndex*>calloc(1, sizeof(FlowIndex))
    if index == NULL:
        return NULL
    index.memory = calloc(<size_t>size * 8 + 64, 1)
    if index.memory == NULL:
        free(index)
        return NULL
    index.places = <uint64_t*>(<uint64_t>index.memory + 63 & ~<uint64_t>63)
    index.mask = size - 1
    return index


cdef inline void index_free(FlowIndex* index) noexcept:
    if index != NULL:
        free(index.memory)
        free(index)


# The next place of a probe that stands at `place` and has this tag. True if there is one, false at
# the end of the run. Begin with `place[0] = tag & mask`, go on with the place after.
cdef inline bint index_probe(
    const FlowIndex* index, uint32_t tag, uint32_t* place, uint32_t* number
) noexcept nogil:
    cdef uint32_t i = place[0]
    cdef uint64_t word
    while True:
        word = load_acquire_u64(&index.places[i])
        if word == PLACE_EMPTY:
            return False
        if word_tag(word) == tag and word != PLACE_REMOVED:
            place[0] = i
            number[0] = word_number(word)
            return True
        i = (i + 1) & index.mask


# Puts a word that is not there yet into the first place for it, which it returns. There is always
# one: the caller keeps an eighth of the places empty.
cdef inline uint32_t index_put(FlowIndex* index, uint64_t word) noexcept:
    cdef uint32_t i = word_tag(word) & index.mask
    while index.places[i] > PLACE_REMOVED:
        i = (i + 1) & index.mask
    index.used += index.places[i] == PLACE_EMPTY
    store_release_u64(&index.places[i], word)
    return i


# The place of a word that is there.
cdef inline uint32_t index_place(const FlowIndex* index, uint64_t word) noexcept:
    cdef uint32_t i = word_tag(word) & index.mask
    while index.places[i] != word:
        i = (i + 1) & index.mask
    return i


# Takes a word out. At the end of a run nothing stands behind it that a probe must find, so it and
# the removed ones before it become empty.
cdef inline void index_clear(FlowIndex* index, uint32_t place) noexcept:
    if index.places[(place + 1) & index.mask] != PLACE_EMPTY:
        store_release_u64(&index.places[place], PLACE_REMOVED)
        return
    while True:
        store_release_u64(&index.places[place], PLACE_EMPTY)
        index.used -= 1
        place = (place - 1) & index.mask
        if index.places[place] != PLACE_REMOVED:
            return


# The current index and the next one together.


# A new word.
cdef inline void indexes_put(FlowIndexes* x, uint64_t word) noexcept:
    cdef uint32_t place = index_put(x.current, word)
    if x.next != NULL and place < x.moved:
        index_put(x.next, word)


# Another word with the same hash in the place of one: a look-up finds the one or the other.
cdef inline void indexes_swap(FlowIndexes* x, uint64_t word, uint64_t new) noexcept:
    cdef uint32_t place = index_place(x.current, word)
    store_release_u64(&x.current.places[place], new)
    if x.next != NULL and place < x.moved:
        x.next.places[index_place(x.next, word)] = new


cdef inline void indexes_clear(FlowIndexes* x, uint64_t word) noexcept:
    cdef uint32_t place = index_place(x.current, word)
    index_clear(x.current, place)
    if x.next != NULL and place < x.moved:
        index_clear(x.next, index_place(x.next, word))


# Whether a word more can be put. False only if there was no memory for a larger index.
cdef inline bint indexes_have_room(const FlowIndexes* x) noexcept:
    return x.current.used < x.current.mask // 8 * 7


# Begins a move when five eighths of the places are used, or when there are far too many. The next
# index has room for what is installed before the move has ended.
cdef inline void indexes_resize_if_due(FlowIndexes* x, uint32_t live) noexcept:
    cdef uint32_t size = x.current.mask + 1
    cdef uint32_t meanwhile = size // MOVED_PER_INSTALL
    if x.next != NULL:
        return
    if x.current.used <= size // 8 * 5 and (size == SMALLEST_INDEX or live > size // 16):
        return
    size = SMALLEST_INDEX
    while live + meanwhile > size // 2:
        size *= 2
    x.next = index_new(size)
    x.moved = 0


# Copies that many places.
cdef inline void indexes_move(FlowIndexes* x, uint32_t limit, Epoch* epoch) noexcept:
    cdef FlowIndex* current = x.current
    cdef uint64_t word
    if x.next == NULL:
        return
    while limit and x.moved <= current.mask:
        word = current.places[x.moved]
        if word > PLACE_REMOVED:
            index_put(x.next, word)
        x.moved += 1
        limit -= 1
    if x.moved > current.mask:
        store_release_pointer(&x.current, x.next)
        x.next = NULL
        current.retired = epoch_mark(epoch)
        current.next_retired = x.old
        x.old = current


# Newer marks are not passed before older ones.
cdef inline void indexes_reclaim(FlowIndexes* x, Epoch* epoch) noexcept:
    cdef FlowIndex* index
    while x.old != NULL and epoch_passed(epoch, x.old.retired):
        index = x.old
        x.old = index.next_retired
        index_free(index)


cdef inline void indexes_free(FlowIndexes* x) noexcept:
    cdef FlowIndex* index
    while x.old != NULL:
        index = x.old
        x.old = index.next_retired
        index_free(index)
    index_free(x.next)
    index_free(x.current)
