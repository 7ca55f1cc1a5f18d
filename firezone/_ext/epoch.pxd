# When may memory that a data thread could still be reading be freed?
#
# Each data thread counts its batches: the counter is odd within a batch, even outside (asleep in
# the kernel, or not running at all). The control thread unpublishes a pointer, takes a mark, and
# frees once the mark has passed: each thread was outside at the mark, or has moved on since.
# The full fences on both sides make sure that a thread that the mark saw outside will see the
# pointer gone. Inline only: no module to import.
from libc.stdint cimport uint8_t, uint64_t

from firezone._ext.atomics cimport fence_full, load_acquire_u64, store_release_u64

ctypedef struct Epoch:
    uint64_t tx            # the "up" thread's counter
    uint8_t _pad_tx[56]    # a cache line each
    uint64_t rx            # the "down" thread's counter
    uint8_t _pad_rx[56]

ctypedef struct EpochMark:
    uint64_t tx
    uint64_t rx


# A data thread, before it touches shared tables: `epoch_enter(&epoch.tx)`.
cdef inline void epoch_enter(uint64_t* counter) noexcept nogil:
    store_release_u64(counter, counter[0] + 1)
    fence_full()


# A data thread, when it holds no pointer of the tables any more; before it sleeps, too.
cdef inline void epoch_leave(uint64_t* counter) noexcept nogil:
    store_release_u64(counter, counter[0] + 1)


# The control thread, after it has unpublished something.
cdef inline EpochMark epoch_mark(const Epoch* epoch) noexcept nogil:
    cdef EpochMark mark
    fence_full()
    mark.tx = load_acquire_u64(&epoch.tx)
    mark.rx = load_acquire_u64(&epoch.rx)
    return mark


# True once no data thread can hold what was unpublished before the mark. Older marks pass first.
cdef inline bint epoch_passed(const Epoch* epoch, EpochMark mark) noexcept nogil:
    if mark.tx & 1 and load_acquire_u64(&epoch.tx) == mark.tx:
        return False
    return not (mark.rx & 1 and load_acquire_u64(&epoch.rx) == mark.rx)
