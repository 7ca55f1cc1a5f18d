"""The rings of the data threads to and from Python, and the budgets of what may wait in them."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from firezone._ext.atomics cimport (
    load_acquire_u32,
    load_acquire_u64,
    store_release_u32,
)
from firezone._ext.batch cimport (
    MARK_CONFIRMED,
    NO_PEER,
    OVER_BUDGET,
    RING_FULL,
    SLOW,
    UNROUTABLE,
    Batch,
    endpoint_tuple,
    slot_packet,
    slot_reset,
)
from firezone._ext.ring cimport (
    Ring,
    RingItem,
    item_payload,
    ring_advance,
    ring_front,
    ring_push,
)
from firezone._ext.transport_data cimport opened_index

cdef enum:
    RING_CAPACITY = 1024
    FIRST_FEW = 4          # misses that a peer may have waiting when all together have too many
    CONFIRMED_RESERVE = 64 # places that only confirmations may take: nobody repeats those


# To Python.


cdef void hand_up_slow(LaneState* lane, Batch* b, uint32_t kind) noexcept nogil:
    cdef uint32_t i
    for i in range(b.count):
        if b.verdict[i] != SLOW or b.mark[i] & MARK_HANDED_UP:
            continue
        if b.mark[i] & MARK_DECIDED:
            # Its decision did not last: the table is full, or it was revoked at once.
            b.verdict[i] = OVER_BUDGET
        else:
            hand_up(lane, b, i, kind, kind != EVENT_DATAGRAM)


cdef void hand_up_unroutable(LaneState* lane, Batch* b) noexcept nogil:
    cdef uint32_t i
    for i in range(b.count):
        # Nobody waits for a keepalive.
        if b.verdict[i] == UNROUTABLE and b.length[i] and 0 < b.peer[i] <= lane.slots.count:
            hand_up(lane, b, i, EVENT_UNROUTABLE, True)


cdef void hand_up(
    LaneState* lane, Batch* b, uint32_t i, uint32_t kind, bint budgeted
) noexcept nogil:
    cdef RingItem item
    if budgeted and not budget_allows(&lane.budget, b.peer[i], lane.now):
        b.verdict[i] = OVER_BUDGET
        return
    memset(&item, 0, sizeof(RingItem))
    item.kind = kind
    item.peer = b.peer[i]
    item.length = b.length[i]
    item.revision = lane.revision
    item.local = b.local[i]
    item.remote = b.remote[i]
    # Charged first: Python may take it, and give the charge back, at any moment after the push.
    if budgeted:
        budget_charge(&lane.budget, b.peer[i], lane.now)
    if ring_push(lane.events, &item, slot_packet(b, i), CONFIRMED_RESERVE):
        b.mark[i] |= MARK_HANDED_UP
        return
    b.verdict[i] = RING_FULL
    if budgeted:
        budget_refund(&lane.budget, b.peer[i])


cdef void hand_up_confirmed(LaneState* lane, Batch* b) noexcept nogil:
    cdef uint32_t i
    cdef RingItem item
    for i in range(b.count):
        if not b.mark[i] & MARK_CONFIRMED:
            continue
        memset(&item, 0, sizeof(RingItem))
        item.kind = EVENT_CONFIRMED
        item.peer = b.peer[i]
        item.argument = opened_index(b, i)
        item.revision = lane.revision
        ring_push(lane.events, &item, slot_packet(b, i), 0)


# What waits is bounded for each peer and in total; what comes in a second, for each peer. Peer 0 is
# the host itself: it may use the whole total. The first few of a peer may exceed the total, so that
# the others cannot keep it out, however many they are.
cdef inline bint budget_allows(const Budget* budget, uint32_t peer, int64_t now) noexcept nogil:
    cdef uint32_t total = budget.added_total - load_acquire_u32(&budget.taken_total)
    cdef uint32_t waiting = budget.added[peer] - load_acquire_u32(&budget.taken[peer])
    if total >= budget.total and (waiting >= FIRST_FEW or total >= RING_CAPACITY // 4 * 3):
        return False
    if peer and waiting >= budget.per_peer:
        return False
    return budget.due[peer] - now < budget.burst * budget_interval(budget, peer)


# `due` is when the peer will have waited for all that it has used, were it to use it evenly.
cdef inline void budget_charge(Budget* budget, uint32_t peer, int64_t now) noexcept nogil:
    budget.added[peer] += 1
    budget.added_total += 1
    budget.due[peer] = max(budget.due[peer], now) + budget_interval(budget, peer)


cdef inline void budget_refund(Budget* budget, uint32_t peer) noexcept nogil:
    budget.added[peer] -= 1
    budget.added_total -= 1
    budget.due[peer] -= budget_interval(budget, peer)


cdef inline int64_t budget_interval(const Budget* budget, uint32_t peer) noexcept nogil:
    return budget.interval if peer else budget.own_interval


# From Python.


cdef uint32_t take_injected(LaneState* lane, Batch* b) noexcept nogil:
    cdef RingItem* item
    cdef uint32_t kind = 0
    while b.count < b.capacity:
        item = ring_front(lane.injected)
        if item == NULL or (kind != 0 and item.kind != kind):
            break
        kind = item.kind
        slot_reset(b, b.count)
        memcpy(slot_packet(b, b.count), item_payload(item), item.length)
        b.length[b.count] = item.length
        b.peer[b.count] = item.peer
        if kind == INJECT_FLOW:
            b.mark[b.count] = MARK_DECIDED
        if item.revision < load_acquire_u64(&lane.slots.closed_at[item.peer]):
            b.verdict[b.count] = NO_PEER
        b.count += 1
        ring_advance(lane.injected)
    return kind


@cython.final
cdef class Lane:
    def __cinit__(
        self,
        uint32_t slots,
        int wake_fd,
        *,
        uint32_t misses_per_peer,
        uint32_t misses,
        uint32_t misses_per_second,
        uint32_t own_misses_per_second,
        uint32_t burst,
    ):
        cdef Budget* budget = &self.state.budget
        if not misses_per_second or not own_misses_per_second or not burst:
            raise ValueError("no misses at all would be no traffic")
        self._events = Ring(RING_CAPACITY, wake_fd)
        self._injected = Ring(RING_CAPACITY)
        self.state.events = &self._events.ring
        self.state.injected = &self._injected.ring
        budget.per_peer = misses_per_peer
        budget.total = misses
        budget.interval = 1_000_000_000 // misses_per_second
        budget.own_interval = 1_000_000_000 // own_misses_per_second
        budget.burst = burst
        budget.added = <uint32_t*>calloc(slots + 1, sizeof(uint32_t))
        budget.taken = <uint32_t*>calloc(slots + 1, sizeof(uint32_t))
        budget.due = <int64_t*>calloc(slots + 1, sizeof(int64_t))
        if budget.added == NULL or budget.taken == NULL or budget.due == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.state.budget.added)
        free(self.state.budget.taken)
        free(self.state.budget.due)

    cdef void wake_by(self, int fd) noexcept:
        self._injected.ring.wake_fd = fd

    cdef bint inject(self, uint32_t kind, uint32_t slot, bytes packet) except -1:
        cdef RingItem item
        memset(&item, 0, sizeof(RingItem))
        item.kind = kind
        item.peer = slot
        item.length = <uint32_t>len(packet)
        item.revision = self.state.slots.revision
        return ring_push(&self._injected.ring, &item, packet, 0)

    cdef tuple take_event(self):
        cdef LaneState* lane = &self.state
        cdef RingItem* item = ring_front(lane.events)
        cdef tuple event = None
        while item != NULL and event is None:
            if item.kind != EVENT_DATAGRAM and item.kind != EVENT_CONFIRMED:
                _give_back(&lane.budget, item.peer)
            if item.peer == 0 or item.revision >= lane.slots.closed_at[item.peer]:
                event = _describe(item)
            ring_advance(lane.events)
            item = ring_front(lane.events)
        return event


cdef tuple _describe(const RingItem* item):
    cdef object local = endpoint_tuple(&item.local) if item.local.family else None
    cdef object remote = endpoint_tuple(&item.remote) if item.remote.family else None
    cdef bytes payload = (<const char*>item_payload(item))[:item.length]
    return (item.kind, item.peer, item.argument, payload, local, remote)


cdef void _give_back(Budget* budget, uint32_t peer) noexcept:
    store_release_u32(&budget.taken[peer], budget.taken[peer] + 1)
    store_release_u32(&budget.taken_total, budget.taken_total + 1)
