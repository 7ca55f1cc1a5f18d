# What passes between a data thread and Python: events up, injected packets down, and how many may
# wait for a decision. Each thread has a lane of its own.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from firezone._ext.atomics cimport load_acquire_u64, store_relaxed_u64
from firezone._ext.batch cimport PASS, VERDICTS, Batch
from firezone._ext.ring cimport Ring, RingBuffer

cdef enum:
    MARK_DECIDED = 4       # Python has seen it as a miss: it must not come up as one again
    MARK_HANDED_UP = 8     # a copy is in the ring to Python
    EVENT_DATAGRAM = 1
    EVENT_MISSED_UP = 2
    EVENT_MISSED_DOWN = 3
    EVENT_UNROUTABLE = 4
    EVENT_CONFIRMED = 5
    INJECT_SEAL = 1
    INJECT_FLOW = 2
    INJECT_DELIVER = 3

# A slot may be closed and opened again for another peer while packets of the first are in a ring.
# Each closing makes a new revision; items carry the one that they were made under, and those older
# than the closing of their slot are dropped.
ctypedef struct Slots:
    uint32_t count
    uint64_t revision      # counts closed slots
    uint64_t* closed_at    # by slot: the revision that closed it

# Packets that wait for Python's decision: one thread adds, Python takes away.
ctypedef struct Budget:
    uint32_t* added        # by slot, ever
    uint32_t* taken
    uint32_t added_total
    uint32_t taken_total
    uint32_t per_peer      # that may wait
    uint32_t total
    int64_t* due           # by slot
    int64_t interval       # ns between the misses of a peer, in the long run
    int64_t own_interval   # and of the host itself
    int64_t burst          # misses that may come at once

# Written by its data thread alone, but for the budget.
ctypedef struct LaneState:
    uint64_t packets_in
    uint64_t bytes_in
    uint64_t packets_out
    uint64_t bytes_out
    uint64_t wakeups
    uint64_t polled        # work that came before the thread slept
    uint64_t verdicts[VERDICTS]
    RingBuffer* events     # to Python
    RingBuffer* injected   # from Python
    const Slots* slots
    uint64_t revision      # of the slots, when the batch began
    int64_t now            # of the batch
    Budget budget

# The packets of the batch that want Python. What finds no room is dropped by name.
cdef void hand_up_slow(LaneState* lane, Batch* b, uint32_t kind) noexcept nogil
cdef void hand_up_unroutable(LaneState* lane, Batch* b) noexcept nogil

# Before any miss of the same batch: what waited for the session may then be sent.
cdef void hand_up_confirmed(LaneState* lane, Batch* b) noexcept nogil

# Fills an empty batch with injected items of one kind. Returns the kind, 0 when none waits.
cdef uint32_t take_injected(LaneState* lane, Batch* b) noexcept nogil


# A batch begins.
cdef inline void begin(LaneState* lane, int64_t now) noexcept nogil:
    lane.now = now
    lane.revision = load_acquire_u64(&lane.slots.revision)


# After a batch was read.
cdef inline void count_in(LaneState* lane, const Batch* b) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t size = 0
    for i in range(b.count):
        size += b.length[i]
    add(&lane.packets_in, b.count)
    add(&lane.bytes_in, size)


# After the batch was written: what became of each slot.
cdef inline void finish(LaneState* lane, const Batch* b) noexcept nogil:
    cdef uint32_t i
    for i in range(b.count):
        add(&lane.verdicts[b.verdict[i]], 1)
        if b.verdict[i] == PASS:
            add(&lane.packets_out, 1)
            add(&lane.bytes_out, b.length[i])


# One writer, so that a plain addition will do; readers want whole words.
cdef inline void add(uint64_t* counter, uint64_t amount) noexcept nogil:
    store_relaxed_u64(counter, counter[0] + amount)


# A lane with its memory, as Python has it.
cdef class Lane:
    cdef LaneState state
    cdef Ring _events
    cdef Ring _injected
    cdef void wake_by(self, int fd) noexcept
    cdef bint inject(self, uint32_t kind, uint32_t slot, bytes packet) except -1
    cdef tuple take_event(self)
