"""The order of the stages, up and down.

A worker is a pair of data threads, each with one direction: `up` from its queue of the TUN device to
its sockets, `down` the other way. What a thread writes is its own: its lane and, of a peer, what
belongs to its direction. `ext/loops.pyx` runs the stages on them; tests and the simulator run them
on a `PacketBatch`.

With several workers, transport data belongs to the one that its receiver index names, for the sake
of the peer's replay windows. The kernel's filter brings it there; what comes elsewhere, because the
kernel had merged it with other peers' datagrams, is handed over through a ring. On the way up a peer
is any worker's, as nonces are shared out by the run (`ext/session.pyx`); a flow is always the same
worker's, by the filter of the TUN device.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from firezone._ext.atomics cimport (
    load_relaxed_u64,
    store_release_u32,
    store_release_u64,
)
from firezone._ext.batch cimport (
    HANDED_OVER,
    PASS,
    RING_FULL,
    TOO_LONG,
    VERDICTS,
    Batch,
    PacketBatch,
    slot_extent,
    slot_packet,
    slot_room,
    slot_reset,
)
from firezone._ext.batch import Verdict
from firezone._ext.demux cimport Demux, demux_classify
from firezone._ext.flows cimport DOWN, UP, Flows, flows_lookup, flows_rewrite
from firezone._ext.ip cimport ip_apply_ecn, ip_parse, ip_read_ecn
from firezone._ext.lanes cimport (
    EVENT_CONFIRMED,
    EVENT_DATAGRAM,
    EVENT_MISSED_DOWN,
    EVENT_MISSED_UP,
    EVENT_UNROUTABLE,
    INJECT_DELIVER,
    INJECT_FLOW,
    INJECT_SEAL,
    Lane,
    begin,
    count_in,
    finish,
    hand_up_confirmed,
    hand_up_slow,
    hand_up_unroutable,
    take_injected,
)
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
from firezone._ext.session cimport Sessions, sessions_open, sessions_seal
from firezone._ext.steering cimport MAX_WORKERS, worker_of_index, worker_of_packet
from firezone._ext.transport_data cimport message_index
from firezone._ext.tun cimport Tun
from firezone._ext.udp cimport UDP_BUFFER_STRIDE, UdpSockets

cdef enum:
    BATCH_UP = 256         # some super-packets' worth; more would leave the cache, and wait longer
    BATCH_DOWN = 512
    BUFFERS_DOWN = 64      # for merged datagrams; memory that is not needed is never touched
    LONGEST_HEADERS = 64   # before a packet and behind it in a datagram: WireGuard, ChannelData
    HANDED_CAPACITY = 512

DATAGRAM = EVENT_DATAGRAM
FLOW_MISSED_UP = EVENT_MISSED_UP
FLOW_MISSED_DOWN = EVENT_MISSED_DOWN
UNROUTABLE_PACKET = EVENT_UNROUTABLE
CONFIRMED = EVENT_CONFIRMED
WORKERS = MAX_WORKERS


cdef void outbound(Worker* w, Batch* b, int64_t now) noexcept nogil:
    begin(w.up, now)
    ip_parse(b, w.shared.pass_fragments)
    ip_read_ecn(b)
    flows_lookup(w.shared.flows, b, UP, now)
    flows_rewrite(w.shared.flows, b)
    seal(w, b, now)
    hand_up_slow(w.up, b, EVENT_MISSED_UP)
    hand_up_unroutable(w.up, b)


cdef void outbound_decided(Worker* w, Batch* b, int64_t now) noexcept nogil:
    begin(w.up, now)
    seal(w, b, now)
    hand_up_unroutable(w.up, b)


cdef void seal(Worker* w, Batch* b, int64_t now) noexcept nogil:
    paths_check(w.shared.paths, b)
    sessions_seal(w.shared.sessions, b, now)
    paths_prepend(w.shared.paths, b)


cdef void inbound(Worker* w, Batch* b, int64_t now) noexcept nogil:
    begin(w.down, now)
    demux_classify(w.demux, b, now)
    hand_up_slow(w.down, b, EVENT_DATAGRAM)
    if w.shared.workers > 1:
        hand_over(w, b)
    inbound_owned(w, b, now)


# From here on also what other workers received.
cdef void inbound_owned(Worker* w, Batch* b, int64_t now) noexcept nogil:
    sessions_open(w.shared.sessions, b, now)
    hand_up_confirmed(w.down, b)
    refuse_long(b, w.shared.mtu)
    ip_parse(b, w.shared.pass_fragments)
    ip_apply_ecn(b)
    inbound_opened(w, b, now)


# From here on also what Python injects, as a packet of its peer.
cdef void inbound_opened(Worker* w, Batch* b, int64_t now) noexcept nogil:
    flows_lookup(w.shared.flows, b, DOWN, now)
    flows_rewrite(w.shared.flows, b)
    hand_up_slow(w.down, b, EVENT_MISSED_DOWN)


cdef inline void refuse_long(Batch* b, uint32_t mtu) noexcept nogil:
    cdef uint32_t i
    for i in range(b.count):
        if b.verdict[i] == PASS and b.length[i] > mtu:
            b.verdict[i] = TOO_LONG


# Through rings.


cdef bint injected_up(Worker* w, Batch* b, int64_t now) noexcept nogil:
    cdef uint32_t kind = take_injected(w.up, b)
    if kind == INJECT_SEAL:
        outbound_decided(w, b, now)
    elif kind == INJECT_FLOW:
        outbound(w, b, now)
    return kind != 0


cdef bint injected_down(Worker* w, Batch* b, int64_t now) noexcept nogil:
    cdef uint32_t kind = take_injected(w.down, b)
    if kind != 0:
        begin(w.down, now)
    if kind == INJECT_FLOW:
        ip_parse(b, w.shared.pass_fragments)
        inbound_opened(w, b, now)
    return kind != 0


cdef bint taken_over(Worker* w, Batch* b, int64_t now) noexcept nogil:
    cdef uint32_t i
    for i in range(w.shared.workers):
        if w.taken_over[i] != NULL:
            take_over(w.taken_over[i], b)
    if b.count == 0:
        return False
    begin(w.down, now)
    inbound_owned(w, b, now)
    return True


# PASS slots: transport data of other workers' peers goes to them.
cdef void hand_over(Worker* w, Batch* b) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t owner
    for i in range(b.count):
        if b.verdict[i] != PASS:
            continue
        owner = worker_of_index(message_index(b, i), w.shared.workers)
        if owner != w.number:
            b.verdict[i] = HANDED_OVER if push_over(w.handed_over[owner], b, i) else RING_FULL


cdef bint push_over(RingBuffer* ring, const Batch* b, uint32_t i) noexcept nogil:
    cdef RingItem item
    memset(&item, 0, sizeof(RingItem))
    item.length = b.length[i]
    item.argument = b.ecn[i]
    item.local = b.local[i]
    item.remote = b.remote[i]
    return ring_push(ring, &item, slot_packet(b, i), 0)


# Fills the batch with what one other worker handed over.
cdef void take_over(RingBuffer* ring, Batch* b) noexcept nogil:
    cdef RingItem* item = ring_front(ring)
    cdef uint32_t i
    while item != NULL and b.count < b.capacity:
        i = b.count
        slot_reset(b, i)
        if item.length > slot_room(b):
            b.verdict[i] = TOO_LONG
        else:
            memcpy(slot_packet(b, i), item_payload(item), item.length)
            b.length[i] = item.length
        b.ecn[i] = <uint8_t>item.argument
        b.local[i] = item.local
        b.remote[i] = item.remote
        b.count += 1
        ring_advance(ring)
        item = ring_front(ring)


@cython.final
cdef class Pipeline:
    """See pipeline.pyi."""

    def __cinit__(
        self,
        Sessions sessions not None,
        Flows flows not None,
        Paths paths not None,
        *demuxes,
        uint32_t mtu=1280,
        int wake_fd=-1,
        uint32_t misses_per_peer=32,
        uint32_t misses=256,
        uint32_t misses_per_second=2000,
        uint32_t own_misses_per_second=8000,
        uint32_t burst=256,
        bint pass_fragments=False,
    ):
        cdef PipelineState* p = &self.state
        cdef uint32_t slots = sessions.table.capacity
        if flows.table.slots != slots or paths.table.slots != slots:
            raise ValueError("sessions, flows and paths have as many slots")
        if not 1 <= len(demuxes) <= MAX_WORKERS:
            raise ValueError("there are 1 to 16 workers, each with a demultiplexer")
        self._sessions = sessions
        self._flows = flows
        self._paths = paths
        self._demuxes = demuxes
        self._wake_fd = wake_fd
        self._lanes_up, self._lanes_down, self._lanes = [], [], []
        self.batches_up, self.batches_down = [], []
        self._between = []
        self._tuns, self._sockets = [None] * len(demuxes), [None] * len(demuxes)
        p.sessions = &sessions.table
        p.flows = &flows.table
        p.paths = &paths.table
        p.epoch = sessions.table.epoch
        p.mtu = mtu
        p.pass_fragments = pass_fragments
        p.workers = <uint32_t>len(demuxes)
        sessions.table.shared = p.workers > 1
        p.slots.count = slots
        p.slots.closed_at = <uint64_t*>calloc(slots + 1, sizeof(uint64_t))
        if p.slots.closed_at == NULL:
            raise MemoryError
        budget = {
            "misses_per_peer": misses_per_peer,
            "misses": misses,
            "misses_per_second": misses_per_second,
            "own_misses_per_second": own_misses_per_second,
            "burst": burst,
        }
        for number in range(p.workers):
            self._add_worker(number, demuxes[number], budget)
        self._connect()

    def __dealloc__(self):
        free(self.state.slots.closed_at)

    @property
    def workers(self):
        return self.state.workers

    def outbound(self, PacketBatch batch not None, int64_t now, uint32_t worker=0):
        cdef Worker* w = self._worker(worker)
        with nogil:
            count_in(w.up, &batch.b)
            outbound(w, &batch.b, now)
            finish(w.up, &batch.b)

    def inbound(self, PacketBatch batch not None, int64_t now, uint32_t worker=0):
        cdef Worker* w = self._worker(worker)
        with nogil:
            count_in(w.down, &batch.b)
            inbound(w, &batch.b, now)
            finish(w.down, &batch.b)

    def injected_up(self, PacketBatch batch not None, int64_t now, uint32_t worker=0):
        cdef Worker* w = self._worker(worker)
        cdef bint worked
        batch.b.count = 0
        with nogil:
            worked = injected_up(w, &batch.b, now)
            finish(w.up, &batch.b)
        return worked

    def injected_down(self, PacketBatch batch not None, int64_t now, uint32_t worker=0):
        cdef Worker* w = self._worker(worker)
        cdef bint worked
        batch.b.count = 0
        with nogil:
            worked = injected_down(w, &batch.b, now)
            finish(w.down, &batch.b)
        return worked

    def taken_over(self, PacketBatch batch not None, int64_t now, uint32_t worker=0):
        cdef Worker* w = self._worker(worker)
        cdef bint worked
        batch.b.count = 0
        with nogil:
            worked = taken_over(w, &batch.b, now)
            finish(w.down, &batch.b)
        return worked

    def attach(
        self,
        Tun tun not None,
        UdpSockets udp not None,
        int wake_up_fd,
        int wake_down_fd,
        uint32_t worker=0,
    ):
        cdef Worker* w = self._worker(worker)
        cdef uint32_t i
        for i, calls in enumerate(self._calls(worker)):
            w.calls[i] = calls
        self._tuns[worker] = tun
        self._sockets[worker] = udp
        w.tun = &tun.io
        w.udp = &udp.io
        (<Lane>self._lanes_up[worker]).wake_by(wake_up_fd)
        (<Lane>self._lanes_down[worker]).wake_by(wake_down_fd)
        for i in range(self.state.workers):
            if w.taken_over[i] != NULL:
                w.taken_over[i].wake_fd = wake_down_fd
        store_release_u32(&self.state.stopping, 0)

    def stop(self):
        cdef Lane lane
        store_release_u32(&self.state.stopping, 1)
        for lane in self._lanes:
            wake_set(lane.state.injected.wake_fd)

    def seal(self, uint32_t slot, bytes packet not None):
        self._check(slot)
        return self._inject(self._lanes_up[self._owner(slot)], INJECT_SEAL, slot, packet)

    def deliver(self, bytes packet not None):
        return self._inject(self._lanes_down[0], INJECT_DELIVER, 0, packet)

    def reinject(self, int direction, uint32_t slot, bytes packet not None):
        cdef uint32_t worker
        if direction == UP:
            worker = worker_of_packet(packet, <uint32_t>len(packet), self.state.workers)
            return self._inject(self._lanes_up[worker], INJECT_FLOW, 0, packet)
        if direction != DOWN:
            raise ValueError("a direction is 0 or 1")
        self._check(slot)
        return self._inject(self._lanes_down[self._owner(slot)], INJECT_FLOW, slot, packet)

    def close_slot(self, uint32_t slot):
        cdef Slots* slots = &self.state.slots
        self._check(slot)
        if slot:
            store_release_u64(&slots.closed_at[slot], slots.revision + 1)
            store_release_u64(&slots.revision, slots.revision + 1)

    def poll_event(self):
        cdef uint32_t count = 2 * self.state.workers
        cdef uint32_t i
        cdef int attempt
        cdef tuple event
        for attempt in range(2):
            # In turns, so that no lane can hold the others up.
            self._turn = (self._turn + 1) % count
            for i in range(count):
                event = (<Lane>self._lanes[(self._turn + i) % count]).take_event()
                if event is not None:
                    return event
            # Empty: clear the eventfd, then look again, or a push in between would be overslept.
            wake_clear(self._wake_fd)
        return None

    def counters(self):
        cdef uint32_t number
        counted = dict.fromkeys(_COUNTERS, 0)
        for number in range(self.state.workers):
            for name, value in self.counters_of(number).items():
                counted[name] += value
        return counted

    def counters_of(self, uint32_t worker):
        cdef Worker* w = self._worker(worker)
        cdef uint32_t verdict
        values = [
            load_relaxed_u64(&w.up.packets_in),
            load_relaxed_u64(&w.up.bytes_in),
            load_relaxed_u64(&w.up.packets_out),
            load_relaxed_u64(&w.up.bytes_out),
            load_relaxed_u64(&w.down.packets_in),
            load_relaxed_u64(&w.down.bytes_in),
            load_relaxed_u64(&w.down.packets_out),
            load_relaxed_u64(&w.down.bytes_out),
            load_relaxed_u64(&w.up.wakeups),
            load_relaxed_u64(&w.down.wakeups),
            load_relaxed_u64(&w.up.polled),
            load_relaxed_u64(&w.down.polled),
            *self._calls(worker),
        ]
        for verdict in range(PASS + 1, VERDICTS):
            values.append(
                load_relaxed_u64(&w.up.verdicts[verdict])
                + load_relaxed_u64(&w.down.verdicts[verdict])
            )
        return dict(zip(_COUNTERS, values, strict=True))

    # Packets or super-packets read and written, buffers filled and messages sent.
    cdef list _calls(self, uint32_t number):
        cdef Worker* w = &self.workers[number]
        cdef uint64_t calls[CALLS]
        memcpy(calls, w.calls, sizeof(calls))
        if w.tun != NULL:
            calls[0] += load_relaxed_u64(&w.tun.reader.calls)
            calls[1] += load_relaxed_u64(&w.tun.writer.calls)
            calls[2] += load_relaxed_u64(&w.udp.incoming.calls)
            calls[3] += load_relaxed_u64(&w.udp.outgoing.calls)
        return [calls[0], calls[1], calls[2], calls[3]]

    cdef int _add_worker(self, uint32_t number, Demux demux, dict budget) except -1:
        cdef Worker* w = &self.workers[number]
        cdef uint32_t stride = max(2048, slot_extent(self.state.mtu + LONGEST_HEADERS))
        cdef Lane up = Lane(self.state.slots.count, self._wake_fd, **budget)
        cdef Lane down = Lane(self.state.slots.count, self._wake_fd, **budget)
        self._lanes_up.append(up)
        self._lanes_down.append(down)
        self._lanes += [up, down]
        self.batches_up.append(PacketBatch(BATCH_UP, stride))
        self.batches_down.append(
            PacketBatch(BATCH_DOWN, stride, BUFFERS_DOWN * UDP_BUFFER_STRIDE))
        up.state.slots = down.state.slots = &self.state.slots
        w.shared = &self.state
        w.number = number
        w.up = &up.state
        w.down = &down.state
        w.demux = &demux.state
        return 0

    # A ring from each worker to each other.
    cdef int _connect(self) except -1:
        cdef uint32_t giver
        cdef uint32_t taker
        cdef Ring ring
        for giver in range(self.state.workers):
            for taker in range(self.state.workers):
                if giver == taker:
                    continue
                ring = Ring(HANDED_CAPACITY)
                self._between.append(ring)
                self.workers[giver].handed_over[taker] = &ring.ring
                self.workers[taker].taken_over[giver] = &ring.ring
        return 0

    cdef bint _inject(self, Lane lane, uint32_t kind, uint32_t slot, bytes packet) except -1:
        return len(packet) <= self.state.mtu and lane.inject(kind, slot, packet)

    # The worker that has the slot's peer; any one if there is none.
    cdef uint32_t _owner(self, uint32_t slot) noexcept:
        cdef SessionTable* sessions = self.state.sessions
        if slot == 0 or sessions.peers[slot] == NULL:
            return 0
        return worker_of_index(sessions.peers[slot].tunnel_id << 8, self.state.workers)

    cdef int _check(self, uint32_t slot) except -1:
        if slot > self.state.slots.count:
            raise ValueError("slot out of range")
        return 0

    cdef Worker* _worker(self, uint32_t number) except NULL:
        if number >= self.state.workers:
            raise ValueError("no such worker")
        return &self.workers[number]


def worker_of(bytes packet not None, uint32_t workers):
    """The worker whose flow an IP packet from the TUN device is of. See pipeline.pyi."""
    if not 1 <= workers <= MAX_WORKERS:
        raise ValueError("there are 1 to 16 workers")
    return worker_of_packet(packet, <uint32_t>len(packet), workers)


_COUNTERS = (
    "tun_read_packets",
    "tun_read_bytes",
    "udp_sent_packets",
    "udp_sent_bytes",
    "udp_received_packets",
    "udp_received_bytes",
    "tun_written_packets",
    "tun_written_bytes",
    "up_wakeups",
    "down_wakeups",
    "up_polls",
    "down_polls",
    "tun_read_calls",
    "tun_write_calls",
    "udp_receive_calls",
    "udp_send_calls",
    *(Verdict(verdict).name.lower() for verdict in range(PASS + 1, VERDICTS)),
)
