# When may memory that a data thread could still be reading be freed?
#
# The control thread has a clock of its own. It unpublishes a pointer, takes a mark, which moves the
# clock on, and frees once the mark has passed. Each data thread notes the clock when a batch begins,
# and that it is outside when it ends (asleep in the kernel, or not running at all). So a mark has
# passed when no thread is in a batch that began before it. The full fences on both sides make sure
# that a thread that the control thread saw outside will see the pointer gone. Inline only: no module
# to import.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from firezone._ext.atomics cimport (
    fence_full, load_acquire_u64, load_relaxed_u64, store_relaxed_u64, store_release_u64,
)

cdef enum:
    READERS = 32           # data threads: an "up" and a "down" for each worker
    OUTSIDE = 0

# A cache line for each thread.
ctypedef struct Reader:
    uint64_t since         # one more than the clock when its batch began, or OUTSIDE
    uint8_t _pad[56]

# All zeros is a fresh one.
ctypedef struct Epoch:
    uint64_t clock         # control thread
    uint8_t _pad[56]
    Reader readers[READERS]

ctypedef uint64_t EpochMark


# The numbers of a worker's threads.
cdef inline uint32_t reader_up(uint32_t worker) noexcept nogil:
    return worker * 2


cdef inline uint32_t reader_down(uint32_t worker) noexcept nogil:
    return worker * 2 + 1


# A data thread, before it touches shared tables.
cdef inline void epoch_enter(Epoch* epoch, uint32_t reader) noexcept nogil:
    store_release_u64(&epoch.readers[reader].since, load_relaxed_u64(&epoch.clock) + 1)
    fence_full()


# A data thread, when it holds no pointer of the tables any more; before it sleeps, too.
cdef inline void epoch_leave(Epoch* epoch, uint32_t reader) noexcept nogil:
    store_release_u64(&epoch.readers[reader].since, OUTSIDE)


# The control thread, after it has unpublished something.
cdef inline EpochMark epoch_mark(Epoch* epoch) noexcept nogil:
    fence_full()
    store_relaxed_u64(&epoch.clock, epoch.clock + 1)
    fence_full()
    return epoch.clock


# True once no data thread can hold what was unpublished before the mark. Older marks pass first.
cdef inline bint epoch_passed(const Epoch* epoch, EpochMark mark) noexcept nogil:
    cdef int i
    cdef uint64_t since
    for i in range(READERS):
        since = load_acquire_u64(&epoch.readers[i].since)
        if since != OUTSIDE and since <= mark:
            return False
    return True
