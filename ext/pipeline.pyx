"""The order of the stages, up and down, and the loops that run them.

Each data thread owns one direction: `up` from the TUN device to UDP, `down` the other way. It reads
a batch, runs the stages, writes what is PASS, hands what is SLOW to Python through its ring, and
sleeps in poll(2), without timeout, when nothing is left. Around each batch it enters the epoch, by
which Python knows when memory that it has unpublished may be freed.

A slot may be closed and opened again for another peer while packets of the first are in a ring.
Each closing makes a new revision; items carry the one that they were made under, and those older
than the closing of their slot are dropped.
"""

cimport cython
from libc.errno cimport ENODEV
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from firezone._ext.atomics cimport (
    load_acquire_u32,
    load_acquire_u64,
    load_relaxed_u64,
    store_relaxed_u64,
    store_release_u32,
    store_release_u64,
)
from firezone._ext.batch cimport (
    CONSUMED,
    MARK_CONFIRMED,
    NO_PEER,
    OVER_BUDGET,
    PASS,
    RING_FULL,
    SLOW,
    TOO_LONG,
    UNROUTABLE,
    VERDICTS,
    Batch,
    PacketBatch,
    endpoint_tuple,
    slot_extent,
    slot_packet,
    slot_reset,
)
from firezone._ext.batch import Verdict
from firezone._ext.demux cimport Demux, demux_classify
from firezone._ext.epoch cimport epoch_enter, epoch_leave
from firezone._ext.flows cimport DOWN, UP, Flows, flows_lookup, flows_rewrite
from firezone._ext.ip cimport ip_apply_ecn, ip_parse, ip_read_ecn
from firezone._ext.paths cimport Paths, paths_check, paths_prepend
from firezone._ext.ring cimport (
    Ring,
    RingBuffer,
    RingItem,
    item_payload,
    ring_advance,
    ring_front,
    ring_push,
    wake_clear,
    wake_set,
)
from firezone._ext.session cimport Sessions, opened_index, sessions_open, sessions_seal
from firezone._ext.tun cimport Tun, tun_read, tun_write
from firezone._ext.udp cimport UDP_BUFFER_STRIDE, UdpSockets, udp_receive, udp_send, udp_waits

cdef extern from "poll.h" nogil:
    ctypedef struct pollfd "struct pollfd":
        int fd
        short events
        short revents
    enum:
        POLLERR
        POLLHUP
        POLLIN
        POLLNVAL
    int poll(pollfd*, unsigned long, int)

cdef extern from "time.h" nogil:
    ctypedef struct timespec "struct timespec":
        long tv_sec
        long tv_nsec
    enum:
        CLOCK_BOOTTIME
    int clock_gettime(int, timespec*)

cdef enum:
    EVENT_DATAGRAM = 1
    EVENT_MISSED_UP = 2
    EVENT_MISSED_DOWN = 3
    EVENT_UNROUTABLE = 4
    EVENT_CONFIRMED = 5
    INJECT_SEAL = 1
    INJECT_FLOW = 2
    INJECT_DELIVER = 3
    BATCH_UP = 256         # some super-packets' worth; more would leave the cache, and wait longer
    BATCH_DOWN = 512
    BUFFERS_DOWN = 64      # for merged datagrams; memory that is not needed is never touched
    LONGEST_HEADERS = 64   # before a packet and behind it in a datagram: WireGuard, ChannelData
    RING_CAPACITY = 1024
    FIRST_FEW = 4          # misses that a peer may have waiting when all together have too many
    CONFIRMED_RESERVE = 64 # places that only confirmations may take: nobody repeats those

DATAGRAM = EVENT_DATAGRAM
FLOW_MISSED_UP = EVENT_MISSED_UP
FLOW_MISSED_DOWN = EVENT_MISSED_DOWN
UNROUTABLE_PACKET = EVENT_UNROUTABLE
CONFIRMED = EVENT_CONFIRMED


cdef void outbound(PipelineState* p, Batch* b, int64_t now) noexcept nogil:
    begin(p, &p.up, now)
    ip_parse(b)
    ip_read_ecn(b)
    flows_lookup(p.flows, b, UP, now)
    flows_rewrite(p.flows, b)
    seal(p, b, now)
    hand_up_slow(p, &p.up, b, EVENT_MISSED_UP)
    hand_up_unroutable(p, &p.up, b)


cdef void outbound_decided(PipelineState* p, Batch* b, int64_t now) noexcept nogil:
    begin(p, &p.up, now)
    seal(p, b, now)
    hand_up_unroutable(p, &p.up, b)


cdef void seal(PipelineState* p, Batch* b, int64_t now) noexcept nogil:
    paths_check(p.paths, b)
    sessions_seal(p.sessions, b, now)
    paths_prepend(p.paths, b)


cdef void inbound(PipelineState* p, Batch* b, int64_t now) noexcept nogil:
    begin(p, &p.down, now)
    demux_classify(p.demux, b, now)
    hand_up_slow(p, &p.down, b, EVENT_DATAGRAM)
    sessions_open(p.sessions, b, now)
    hand_up_confirmed(p, &p.down, b)
    refuse_long(p, b)
    ip_parse(b)
    ip_apply_ecn(b)
    inbound_opened(p, b, now)


# From here on also what Python injects, as a packet of its peer.
cdef void inbound_opened(PipelineState* p, Batch* b, int64_t now) noexcept nogil:
    flows_lookup(p.flows, b, DOWN, now)
    flows_rewrite(p.flows, b)
    hand_up_slow(p, &p.down, b, EVENT_MISSED_DOWN)


cdef inline void begin(PipelineState* p, Lane* lane, int64_t now) noexcept nogil:
    lane.now = now
    lane.revision = load_acquire_u64(&p.revision)


# After a batch was read.
cdef inline void count_in(Lane* lane, const Batch* b) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t size = 0
    for i in range(b.count):
        size += b.length[i]
    add(&lane.packets_in, b.count)
    add(&lane.bytes_in, size)


# After the batch was written: what became of each slot.
cdef inline void finish(Lane* lane, const Batch* b) noexcept nogil:
    cdef uint32_t i
    for i in range(b.count):
        add(&lane.verdicts[b.verdict[i]], 1)
        if b.verdict[i] == PASS:
            add(&lane.packets_out, 1)
            add(&lane.bytes_out, b.length[i])


# One writer, so that a plain addition will do; readers want whole words.
cdef inline void add(uint64_t* counter, uint64_t amount) noexcept nogil:
    store_relaxed_u64(counter, counter[0] + amount)


cdef inline void refuse_long(PipelineState* p, Batch* b) noexcept nogil:
    cdef uint32_t i
    for i in range(b.count):
        if b.verdict[i] == PASS and b.length[i] > p.mtu:
            b.verdict[i] = TOO_LONG


# To Python.


cdef void hand_up_slow(PipelineState* p, Lane* lane, Batch* b, uint32_t kind) noexcept nogil:
    cdef uint32_t i
    for i in range(b.count):
        if b.verdict[i] != SLOW or b.mark[i] & MARK_HANDED_UP:
            continue
        if b.mark[i] & MARK_DECIDED:
            # Its decision did not last: the table is full, or it was revoked at once.
            b.verdict[i] = OVER_BUDGET
        else:
            hand_up(lane, b, i, kind, kind != EVENT_DATAGRAM)


cdef void hand_up_unroutable(PipelineState* p, Lane* lane, Batch* b) noexcept nogil:
    cdef uint32_t i
    for i in range(b.count):
        # Nobody waits for a keepalive.
        if b.verdict[i] == UNROUTABLE and b.length[i] and b.peer[i] and b.peer[i] <= p.slots:
            hand_up(lane, b, i, EVENT_UNROUTABLE, True)


cdef void hand_up(
    Lane* lane, Batch* b, uint32_t i, uint32_t kind, bint budgeted
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


# Before any miss of the same batch: what waited for the session may then be sent.
cdef void hand_up_confirmed(PipelineState* p, Lane* lane, Batch* b) noexcept nogil:
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


# Fills an empty batch with injected items of one kind. Returns the kind, 0 when none waits.
cdef uint32_t take_injected(PipelineState* p, Lane* lane, Batch* b) noexcept nogil:
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
        if item.revision < load_acquire_u64(&p.closed_at[item.peer]):
            b.verdict[b.count] = NO_PEER
        b.count += 1
        ring_advance(lane.injected)
    return kind


cdef bint injected_up(PipelineState* p, Batch* b, int64_t now) noexcept nogil:
    cdef uint32_t kind = take_injected(p, &p.up, b)
    if kind == INJECT_SEAL:
        outbound_decided(p, b, now)
    elif kind == INJECT_FLOW:
        outbound(p, b, now)
    return kind != 0


cdef bint injected_down(PipelineState* p, Batch* b, int64_t now) noexcept nogil:
    cdef uint32_t kind = take_injected(p, &p.down, b)
    if kind != 0:
        begin(p, &p.down, now)
    if kind == INJECT_FLOW:
        ip_parse(b)
        inbound_opened(p, b, now)
    return kind != 0


# The loops. Each step returns 1 if it had work, 0 if not, -errno if a descriptor is gone.


cdef int up_loop(PipelineState* p, Batch* b) noexcept nogil:
    cdef pollfd sources[2]
    cdef int worked
    cdef bint suspect = False
    watch(&sources[0], p.tun.fd)
    watch(&sources[1], p.up.injected.wake_fd)
    while not load_acquire_u32(&p.stopping):
        epoch_enter(&p.epoch.tx)
        worked = up_once(p, b)
        epoch_leave(&p.epoch.tx)
        if worked < 0:
            return -worked
        if worked == 0:
            # Awake for an error that reading did not clear: it would be so for ever.
            if suspect:
                return ENODEV
            suspect = sleep(&p.up, sources, 2) and sources[0].revents & (POLLERR | POLLHUP) != 0
        else:
            suspect = False
    return 0


cdef int up_once(PipelineState* p, Batch* b) noexcept nogil:
    cdef int injected
    cdef int got
    b.count = 0
    injected = injected_up(p, b, boottime())
    if injected:
        got = up_send(p, b)
        if got < 0:
            return got
    b.count = 0
    got = tun_read(p.tun, b)
    if got <= 0:
        return got if got < 0 else injected
    count_in(&p.up, b)
    outbound(p, b, boottime())
    got = up_send(p, b)
    return got if got < 0 else 1


cdef int up_send(PipelineState* p, Batch* b) noexcept nogil:
    cdef int result = udp_send(p.udp, b)
    finish(&p.up, b)
    return result


cdef int down_loop(PipelineState* p, Batch* b) noexcept nogil:
    cdef pollfd sources[3]
    cdef int worked
    watch(&sources[0], p.udp.fd[0])
    watch(&sources[1], p.udp.fd[1])
    watch(&sources[2], p.down.injected.wake_fd)
    while not load_acquire_u32(&p.stopping):
        epoch_enter(&p.epoch.rx)
        worked = down_once(p, b)
        epoch_leave(&p.epoch.rx)
        if worked < 0:
            return -worked
        if worked == 0:
            sleep(&p.down, sources, 3)
    return 0


cdef int down_once(PipelineState* p, Batch* b) noexcept nogil:
    cdef int worked
    cdef int result
    cdef int which
    b.count = 0
    worked = injected_down(p, b, boottime())
    if worked:
        result = down_write(p, b)
        if result < 0:
            return result
    for which in range(2):
        result = down_receive(p, b, which)
        while udp_waits(p.udp) and result > 0:
            result = down_receive(p, b, which)
        if result < 0:
            return result
        worked |= result
    return worked


cdef int down_receive(PipelineState* p, Batch* b, int which) noexcept nogil:
    cdef int result
    b.count = 0
    result = udp_receive(p.udp, b, which)
    if result <= 0:
        return result
    count_in(&p.down, b)
    inbound(p, b, boottime())
    result = down_write(p, b)
    return result if result < 0 else 1


cdef int down_write(PipelineState* p, Batch* b) noexcept nogil:
    cdef int result = tun_write(p.tun, b)
    finish(&p.down, b)
    return result


cdef inline void watch(pollfd* source, int fd) noexcept nogil:
    source.fd = fd     # poll(2) ignores negative ones
    source.events = POLLIN
    source.revents = 0


# Sleeps until a source is ready; the last one is the eventfd of the ring from Python.
cdef bint sleep(Lane* lane, pollfd* sources, unsigned long count) noexcept nogil:
    if poll(sources, count, -1) <= 0:
        return False
    add(&lane.wakeups, 1)
    if sources[count - 1].revents & POLLIN:
        wake_clear(sources[count - 1].fd)
    return True


cdef inline int64_t boottime() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_BOOTTIME, &t)
    return <int64_t>t.tv_sec * 1_000_000_000 + t.tv_nsec


@cython.final
cdef class Pipeline:
    """See pipeline.pyi."""

    def __cinit__(
        self,
        Sessions sessions not None,
        Flows flows not None,
        Paths paths not None,
        Demux demux not None,
        *,
        uint32_t mtu=1280,
        int wake_fd=-1,
        uint32_t misses_per_peer=32,
        uint32_t misses=256,
        uint32_t misses_per_second=2000,
        uint32_t own_misses_per_second=8000,
        uint32_t burst=256,
    ):
        cdef PipelineState* p = &self.state
        cdef uint32_t slots = sessions.table.capacity
        if flows.table.slots != slots or paths.table.slots != slots:
            raise ValueError("sessions, flows and paths have as many slots")
        self._sessions = sessions
        self._flows = flows
        self._paths = paths
        self._demux = demux
        self._wake_fd = wake_fd
        self._events_up = Ring(RING_CAPACITY, wake_fd)
        self._events_down = Ring(RING_CAPACITY, wake_fd)
        self._injected_up = Ring(RING_CAPACITY)
        self._injected_down = Ring(RING_CAPACITY)
        cdef uint32_t stride = max(2048, (slot_extent(mtu + LONGEST_HEADERS)))
        self._batch_up = PacketBatch(BATCH_UP, stride)
        self._batch_down = PacketBatch(BATCH_DOWN, stride, BUFFERS_DOWN * UDP_BUFFER_STRIDE)
        p.sessions = &sessions.table
        p.flows = &flows.table
        p.paths = &paths.table
        p.demux = &demux.state
        p.epoch = sessions.table.epoch
        p.mtu = mtu
        p.slots = slots
        p.up.events = &self._events_up.ring
        p.down.events = &self._events_down.ring
        p.up.injected = &self._injected_up.ring
        p.down.injected = &self._injected_down.ring
        p.closed_at = <uint64_t*>calloc(slots + 1, sizeof(uint64_t))
        if p.closed_at == NULL:
            raise MemoryError
        if not misses_per_second or not own_misses_per_second or not burst:
            raise ValueError("no misses at all would be no traffic")
        p.up.budget.per_peer = misses_per_peer
        p.up.budget.total = misses
        p.up.budget.interval = 1_000_000_000 // misses_per_second
        p.up.budget.own_interval = 1_000_000_000 // own_misses_per_second
        p.up.budget.burst = burst
        p.down.budget = p.up.budget
        _allocate(&p.up.budget, slots)
        _allocate(&p.down.budget, slots)

    def __dealloc__(self):
        free(self.state.closed_at)
        _release(&self.state.up.budget)
        _release(&self.state.down.budget)

    def outbound(self, PacketBatch batch not None, int64_t now):
        with nogil:
            count_in(&self.state.up, &batch.b)
            outbound(&self.state, &batch.b, now)
            finish(&self.state.up, &batch.b)

    def inbound(self, PacketBatch batch not None, int64_t now):
        with nogil:
            count_in(&self.state.down, &batch.b)
            inbound(&self.state, &batch.b, now)
            finish(&self.state.down, &batch.b)

    def injected_up(self, PacketBatch batch not None, int64_t now):
        cdef bint worked
        batch.b.count = 0
        with nogil:
            worked = injected_up(&self.state, &batch.b, now)
            finish(&self.state.up, &batch.b)
        return worked

    def injected_down(self, PacketBatch batch not None, int64_t now):
        cdef bint worked
        batch.b.count = 0
        with nogil:
            worked = injected_down(&self.state, &batch.b, now)
            finish(&self.state.down, &batch.b)
        return worked

    def attach(
        self, Tun tun not None, UdpSockets udp not None, int wake_up_fd, int wake_down_fd
    ):
        for i, calls in enumerate(self._calls().values()):
            self.state.calls[i] = calls
        self._tun = tun
        self._udp = udp
        self.state.tun = &tun.io
        self.state.udp = &udp.io
        self._injected_up.ring.wake_fd = wake_up_fd
        self._injected_down.ring.wake_fd = wake_down_fd
        store_release_u32(&self.state.stopping, 0)

    def run_up(self):
        cdef int code
        if self.state.tun == NULL:
            raise ValueError("attach descriptors first")
        with nogil:
            code = up_loop(&self.state, &self._batch_up.b)
        return code

    def run_down(self):
        cdef int code
        if self.state.tun == NULL:
            raise ValueError("attach descriptors first")
        with nogil:
            code = down_loop(&self.state, &self._batch_down.b)
        return code

    def stop(self):
        store_release_u32(&self.state.stopping, 1)
        wake_set(self._injected_up.ring.wake_fd)
        wake_set(self._injected_down.ring.wake_fd)

    def seal(self, uint32_t slot, bytes packet not None):
        self._check(slot)
        return self._inject(self._injected_up, INJECT_SEAL, slot, packet)

    def deliver(self, bytes packet not None):
        return self._inject(self._injected_down, INJECT_DELIVER, 0, packet)

    def reinject(self, int direction, uint32_t slot, bytes packet not None):
        if direction == UP:
            return self._inject(self._injected_up, INJECT_FLOW, 0, packet)
        if direction != DOWN:
            raise ValueError("a direction is 0 or 1")
        self._check(slot)
        return self._inject(self._injected_down, INJECT_FLOW, slot, packet)

    def close_slot(self, uint32_t slot):
        self._check(slot)
        if slot:
            store_release_u64(&self.state.closed_at[slot], self.state.revision + 1)
            store_release_u64(&self.state.revision, self.state.revision + 1)

    def poll_event(self):
        cdef int attempt
        cdef tuple event
        for attempt in range(2):
            # In turns, so that neither direction can hold the other one up.
            self._down_first = not self._down_first
            first = &self.state.down if self._down_first else &self.state.up
            second = &self.state.up if self._down_first else &self.state.down
            event = self._take_event(first)
            if event is None:
                event = self._take_event(second)
            if event is not None:
                return event
            # Empty: clear the eventfd, then look again, or a push in between would be overslept.
            wake_clear(self._wake_fd)
        return None

    def counters(self):
        cdef Lane* up = &self.state.up
        cdef Lane* down = &self.state.down
        counted = {
            "tun_read_packets": load_relaxed_u64(&up.packets_in),
            "tun_read_bytes": load_relaxed_u64(&up.bytes_in),
            "udp_sent_packets": load_relaxed_u64(&up.packets_out),
            "udp_sent_bytes": load_relaxed_u64(&up.bytes_out),
            "udp_received_packets": load_relaxed_u64(&down.packets_in),
            "udp_received_bytes": load_relaxed_u64(&down.bytes_in),
            "tun_written_packets": load_relaxed_u64(&down.packets_out),
            "tun_written_bytes": load_relaxed_u64(&down.bytes_out),
            "up_wakeups": load_relaxed_u64(&up.wakeups),
            "down_wakeups": load_relaxed_u64(&down.wakeups),
        }
        counted.update(self._calls())
        for verdict in range(PASS + 1, VERDICTS):
            counted[Verdict(verdict).name.lower()] = (
                load_relaxed_u64(&up.verdicts[verdict]) + load_relaxed_u64(&down.verdicts[verdict])
            )
        return counted

    # Packets or super-packets read and written, buffers filled and messages sent.
    cdef dict _calls(self):
        cdef uint64_t calls[4]
        memcpy(calls, self.state.calls, sizeof(calls))
        if self.state.tun != NULL:
            calls[0] += load_relaxed_u64(&self.state.tun.reader.calls)
            calls[1] += load_relaxed_u64(&self.state.tun.writer.calls)
            calls[2] += load_relaxed_u64(&self.state.udp.incoming.calls)
            calls[3] += load_relaxed_u64(&self.state.udp.outgoing.calls)
        return dict(zip(_CALLS, calls, strict=True))

    cdef bint _inject(self, Ring ring, uint32_t kind, uint32_t slot, bytes packet) except -1:
        cdef RingItem item
        if len(packet) > self.state.mtu:
            return False
        memset(&item, 0, sizeof(RingItem))
        item.kind = kind
        item.peer = slot
        item.length = len(packet)
        item.revision = self.state.revision
        return ring_push(&ring.ring, &item, packet, 0)

    cdef tuple _take_event(self, Lane* lane):
        cdef RingItem* item = ring_front(lane.events)
        cdef tuple event = None
        while item != NULL and event is None:
            if item.kind != EVENT_DATAGRAM and item.kind != EVENT_CONFIRMED:
                _give_back(&lane.budget, item.peer)
            if item.peer == 0 or item.revision >= self.state.closed_at[item.peer]:
                event = _describe(item)
            ring_advance(lane.events)
            item = ring_front(lane.events)
        return event

    cdef int _check(self, uint32_t slot) except -1:
        if slot > self.state.slots:
            raise ValueError("slot out of range")
        return 0


_CALLS = ("tun_read_calls", "tun_write_calls", "udp_receive_calls", "udp_send_calls")


cdef tuple _describe(const RingItem* item):
    cdef object local = endpoint_tuple(&item.local) if item.local.family else None
    cdef object remote = endpoint_tuple(&item.remote) if item.remote.family else None
    cdef bytes payload = (<const char*>item_payload(item))[:item.length]
    return (item.kind, item.peer, item.argument, payload, local, remote)


cdef void _give_back(Budget* budget, uint32_t peer) noexcept:
    store_release_u32(&budget.taken[peer], budget.taken[peer] + 1)
    store_release_u32(&budget.taken_total, budget.taken_total + 1)


cdef int _allocate(Budget* budget, uint32_t slots) except -1:
    budget.added = <uint32_t*>calloc(slots + 1, sizeof(uint32_t))
    budget.taken = <uint32_t*>calloc(slots + 1, sizeof(uint32_t))
    budget.due = <int64_t*>calloc(slots + 1, sizeof(int64_t))
    if budget.added == NULL or budget.taken == NULL or budget.due == NULL:
        raise MemoryError
    return 0


cdef void _release(Budget* budget) noexcept:
    free(budget.added)
    free(budget.taken)
    free(budget.due)
