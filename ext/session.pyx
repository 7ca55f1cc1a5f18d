"""WireGuard transport data: sessions, their nonces and replay windows (WireGuard paper 5.4.6).

A receiver index leads to its keypair in constant time: the upper 24 bits are the peer's tunnel id,
found in a table of two levels; the lower 8 number the peer's sessions, of which slot index % 8
keeps the newest. The keypair in the send slot seals. A keypair of ours as initiator takes that slot
when it is installed; one of ours as responder only when a packet has come in under it, because
until then the initiator may not have it. The slot never goes back to an older keypair.

Sending ends at `send_until` or at the last nonce, receiving at `receive_until`. A counter is
accepted once, and only within 8128 of the greatest one (RFC 6479); it is looked up before the tag is
computed and marked after the tag has verified, so that forged packets cannot use counters up.

Threads: TX seals and owns nonces, RX opens and owns windows, each also its stamps of activity. Where
a peer has several TX (`shared`), each takes the nonces of a run of packets at once, by an atomic
addition, and of their stamps the last one written stands, which is as good to timers. The
control thread publishes by release stores, and what it unpublishes is freed when no thread can
hold it any more (`session_memory.pxd`).
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from firezone._ext.aead cimport (
    AEAD_KEY, AEAD_TAG, AeadItem, aead_open_batch, aead_seal_batch,
)
from firezone._ext.atomics cimport (
    add_relaxed_u64, load_acquire_pointer, load_acquire_u32, load_relaxed_i64, load_relaxed_u32,
    load_relaxed_u64, store_relaxed_u32, store_relaxed_u64, store_release_pointer,
    store_release_u32, swap_pointer,
)
from firezone._ext.batch cimport (
    BAD_TAG, CONSUMED, EXPIRED, MALFORMED, MARK_CONFIRMED, NO_PEER, PASS, REPLAYED, TOO_LONG,
    UNROUTABLE, WRONG_INDEX, Batch, PacketBatch, endpoint_tuple, slot_packet,
)
from firezone._ext.epoch cimport (
    EpochMark, epoch_enter, epoch_leave, epoch_mark, epoch_passed, reader_down, reader_up,
)
from firezone._ext.replay_window cimport window_allows, window_mark
from firezone._ext.replay_window cimport WINDOW as REPLAY_WINDOW
from firezone._ext.session_activity cimport note_ends, note_received, note_sent
from firezone._ext.session_memory cimport (
    IS_KEYPAIR, IS_LEAF, IS_PEER, memory_free, memory_free_retired, memory_new, memory_reclaim,
    memory_retire,
)
from firezone._ext.session_table cimport (
    KEYPAIRS, Keypair, Leaf, Peer, SessionTable, peer_of, slot_of,
)
from firezone._ext.transport_data cimport (
    DATA_HEADER, DATA_OVERHEAD, TRANSPORT_DATA, read32, read64, write32, write64,
)

cdef extern from "time.h" nogil:
    ctypedef struct timespec "struct timespec":
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec*, timespec*)

cdef enum:
    CHUNK = 64             # packets whose AEAD work is handed over at once
    NAP = 20_000           # ns between two looks at the threads, about half a batch

# The whitepaper's 2^64 - 2^13 - 1. A counter of this value is neither sent nor accepted.
cdef uint64_t LAST_COUNTER = <uint64_t>0xFFFFFFFFFFFFDFFF
REJECT_AFTER_MESSAGES = LAST_COUNTER
WINDOW = REPLAY_WINDOW


# Sealing.

cdef void sessions_seal(SessionTable* t, Batch* b, int64_t now) noexcept nogil:
    cdef AeadItem items[CHUNK]
    cdef size_t count = 0
    cdef uint32_t slot = 0
    cdef uint32_t size
    cdef uint32_t end
    while slot < b.count:
        end = end_of_run(b, slot, &size)
        if count + size > CHUNK:
            aead_seal_batch(items, count)
            count = 0
        if size:
            count += seal_run(t, b, slot, end, size, now, items + count)
        slot = end
    aead_seal_batch(items, count)


# The PASS slots from `slot` to before the end are of one peer, and not more than a chunk.
cdef inline uint32_t end_of_run(const Batch* b, uint32_t slot, uint32_t* size) noexcept nogil:
    cdef uint32_t peer = 0
    size[0] = 0
    while slot < b.count and size[0] < CHUNK:
        if b.verdict[slot] == PASS:
            if size[0] and b.peer[slot] != peer:
                break
            peer = b.peer[slot]
            size[0] += 1
        slot += 1
    return slot


cdef bint sessions_can_seal(SessionTable* t, uint32_t peer, int64_t now) noexcept nogil:
    cdef Peer* p = peer_of(t, peer)
    return p != NULL and sending_keypair(p, now) != NULL


# Everything but the AEAD. Returns how many items are to be sealed.
cdef size_t seal_run(
    SessionTable* t, Batch* b, uint32_t slot, uint32_t end, uint32_t size, int64_t now,
    AeadItem* items,
) noexcept nogil:
    cdef Peer* peer = peer_of(t, first_peer(b, slot))
    cdef Keypair* keypair = sending_keypair(peer, now) if peer != NULL else NULL
    cdef uint64_t counter = LAST_COUNTER
    cdef uint64_t sent = 0
    cdef bint has_data = False
    cdef size_t count = 0
    if keypair != NULL:
        counter = take_counters(t, keypair, size)
    for slot in range(slot, end):
        if b.verdict[slot] != PASS:
            continue
        if counter >= LAST_COUNTER:
            b.verdict[slot] = UNROUTABLE
        elif seal_slot(t, b, slot, keypair, counter, &items[count]):
            counter += 1
            count += 1
            sent += b.length[slot]
            has_data = has_data or b.length[slot] > DATA_OVERHEAD
    if count:
        if not t.shared:
            store_relaxed_u64(&keypair.send_counter, counter)
        note_sent(t, peer, sent, has_data, now)
    return count


cdef inline uint32_t first_peer(const Batch* b, uint32_t slot) noexcept nogil:
    while b.verdict[slot] != PASS:
        slot += 1
    return b.peer[slot]


# The first of as many nonces that nobody else uses. Of several TX each takes its own by the run, so
# that what a peer receives out of order is little against its window. They stop at LAST_COUNTER:
# behind it are more than all of them together can take before they see it.
cdef inline uint64_t take_counters(
    const SessionTable* t, Keypair* keypair, uint32_t size
) noexcept nogil:
    if t.shared:
        return add_relaxed_u64(&keypair.send_counter, size)
    return keypair.send_counter


# Header and length; the counter is used if this is True.
cdef bint seal_slot(
    SessionTable* t, Batch* b, uint32_t slot, Keypair* keypair, uint64_t counter, AeadItem* item
) noexcept nogil:
    cdef uint8_t* packet = slot_packet(b, slot)
    cdef uint32_t length = padded_length(t, b.length[slot])
    if (b.offset[slot] < DATA_HEADER
            or <uint64_t>b.offset[slot] + length + AEAD_TAG > b.arena_size):
        b.verdict[slot] = TOO_LONG
        return False
    # The arena still holds what was there before: other peers' packets.
    memset(packet + b.length[slot], 0, length - b.length[slot])
    item.key = keypair.send_key
    item.src = item.dst = packet
    item.counter = counter
    item.length = length
    write32(packet - 16, TRANSPORT_DATA)
    write32(packet - 12, keypair.remote_index)
    write64(packet - 8, counter)
    b.offset[slot] -= DATA_HEADER
    b.length[slot] = length + DATA_OVERHEAD
    return True


cdef inline uint32_t padded_length(const SessionTable* t, uint32_t length) noexcept nogil:
    cdef uint32_t limit = load_relaxed_u32(&t.pad_below)
    if length >= limit:
        return length
    return min((length + 15) & ~<uint32_t>15, limit)


cdef inline Keypair* sending_keypair(Peer* peer, int64_t now) noexcept nogil:
    cdef Keypair* keypair = <Keypair*>load_acquire_pointer(&peer.send)
    if (keypair == NULL or now >= keypair.send_until
            or load_relaxed_u64(&keypair.send_counter) >= LAST_COUNTER):
        return NULL
    return keypair


# Opening.

# What is known of a message between the look-up and the verdict.
ctypedef struct Opening:
    uint32_t slot
    Peer* peer
    Keypair* keypair


cdef void sessions_open(SessionTable* t, Batch* b, int64_t now) noexcept nogil:
    cdef AeadItem items[CHUNK]
    cdef Opening openings[CHUNK]
    cdef size_t count = 0
    cdef uint32_t slot
    for slot in range(b.count):
        if b.verdict[slot] != PASS:
            continue
        b.verdict[slot] = look_up(t, b, slot, now, &items[count], &openings[count])
        if b.verdict[slot] == PASS:
            count += 1
            if count == CHUNK:
                finish_opening(t, b, items, openings, count, now)
                count = 0
    finish_opening(t, b, items, openings, count, now)


cdef int look_up(
    SessionTable* t, Batch* b, uint32_t slot, int64_t now, AeadItem* item, Opening* opening
) noexcept nogil:
    cdef uint8_t* message = slot_packet(b, slot)
    if b.length[slot] < DATA_OVERHEAD or read32(message) != TRANSPORT_DATA:
        return MALFORMED
    cdef uint32_t index = read32(message + 4)
    cdef Peer* peer = peer_of(t, slot_of(t, index >> 8))
    if peer == NULL or peer.tunnel_id != index >> 8:
        return NO_PEER
    cdef Keypair* keypair = <Keypair*>load_acquire_pointer(&peer.keypairs[index % KEYPAIRS])
    if keypair == NULL or keypair.local_index != index:
        return WRONG_INDEX
    item.counter = read64(message + 8)
    if now >= keypair.receive_until or item.counter >= LAST_COUNTER:
        return EXPIRED
    if not window_allows(&keypair.received, item.counter):
        return REPLAYED
    item.key = keypair.receive_key
    item.src = item.dst = message + DATA_HEADER
    item.length = b.length[slot] - DATA_OVERHEAD
    opening.slot = slot
    opening.peer = peer
    opening.keypair = keypair
    return PASS


cdef void finish_opening(
    SessionTable* t, Batch* b, AeadItem* items, Opening* openings, size_t count, int64_t now
) noexcept nogil:
    cdef size_t i
    cdef uint32_t slot
    cdef Opening* o
    aead_open_batch(items, count)
    for i in range(count):
        o = &openings[i]
        slot = o.slot
        if not window_allows(&o.keypair.received, items[i].counter):
            b.verdict[slot] = REPLAYED           # twice in one batch
        elif not items[i].ok:
            b.verdict[slot] = BAD_TAG
        else:
            window_mark(&o.keypair.received, items[i].counter)
            b.peer[slot] = o.peer.slot
            b.offset[slot] += DATA_HEADER
            b.length[slot] = items[i].length
            if items[i].length == 0:
                b.verdict[slot] = CONSUMED
            note_received(o.peer, <uint32_t>items[i].length, now)
            note_ends(t, o.peer, b, slot)
            if confirm(o.peer, o.keypair):
                b.mark[slot] |= MARK_CONFIRMED


# True if this packet, the first of a responder's keypair, moved the send slot to it.
cdef inline bint confirm(Peer* peer, Keypair* keypair) noexcept nogil:
    if keypair.confirmed:
        return False
    keypair.confirmed = True
    return not keypair.initiator and take_send_slot(peer, keypair)


# The control thread and RX may both be here: the newer keypair wins, whoever comes first.
cdef bint take_send_slot(Peer* peer, Keypair* keypair) noexcept nogil:
    cdef Keypair* present
    while True:
        present = <Keypair*>load_acquire_pointer(&peer.send)
        if present != NULL and present.created_at > keypair.created_at:
            return False
        if swap_pointer(&peer.send, present, keypair):
            return True


# The control thread's side.

@cython.final
cdef class Sessions:
    def __cinit__(self, uint32_t capacity=16384):
        if not 1 <= capacity <= 1 << 24:
            raise ValueError("capacity must be 1 to 2**24 peers")
        self.table.capacity = capacity
        self.table.epoch = &self._epoch
        # calloc leaves pages untouched until somebody uses them.
        self.table.peers = <Peer**>calloc(capacity + 1, sizeof(Peer*))
        self.table.leaves = <Leaf**>calloc(1 << 16, sizeof(Leaf*))
        if self.table.peers == NULL or self.table.leaves == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef uint32_t slot
        memory_free_retired(&self._memory)
        if self.table.peers != NULL:
            for slot in range(1, self.table.capacity + 1):
                if self.table.peers[slot] != NULL:
                    memory_free(&self._memory, &self.table.peers[slot].retired)
        if self.table.leaves != NULL:
            for slot in range(1 << 16):
                if self.table.leaves[slot] != NULL:
                    memory_free(&self._memory, &self.table.leaves[slot].retired)
        free(self.table.peers)
        free(self.table.leaves)

    @property
    def capacity(self):
        return self.table.capacity

    @property
    def memory(self):
        return self._memory.bytes

    def __len__(self):
        return self._peers

    def add_peer(self, uint32_t slot, uint32_t tunnel_id):
        if not 1 <= slot <= self.table.capacity:
            raise ValueError("no such slot")
        if tunnel_id >= 1 << 24:
            raise ValueError("a tunnel id has 24 bits")
        if self.table.peers[slot] != NULL:
            raise ValueError("the slot is taken")
        if slot_of(&self.table, tunnel_id):
            raise ValueError("the tunnel id is taken")
        cdef Leaf* leaf = self._leaf(tunnel_id)
        cdef Peer* peer = <Peer*>memory_new(&self._memory, sizeof(Peer), IS_PEER)
        peer.slot = slot
        peer.tunnel_id = tunnel_id
        leaf.used += 1
        self._peers += 1
        store_release_pointer(&self.table.peers[slot], peer)
        store_release_u32(&leaf.slots[tunnel_id & 0xFF], slot)
        self._reclaim()

    def remove_peer(self, uint32_t slot):
        cdef Peer* peer = self._peer(slot)
        cdef Leaf** place = &self.table.leaves[peer.tunnel_id >> 8]
        cdef Leaf* leaf = place[0]
        store_release_u32(&leaf.slots[peer.tunnel_id & 0xFF], 0)
        store_release_pointer(&self.table.peers[slot], NULL)
        leaf.used -= 1
        self._peers -= 1
        if leaf.used == 0:
            store_release_pointer(place, NULL)
            memory_retire(&self._memory, &self._epoch, &leaf.retired)
        memory_retire(&self._memory, &self._epoch, &peer.retired)
        self._reclaim()

    def install_keypair(
        self, uint32_t slot, uint32_t local_index, uint32_t remote_index,
        bytes send_key not None, bytes receive_key not None, bint initiator,
        int64_t created_at, int64_t send_until, int64_t receive_until,
    ):
        cdef Peer* peer = self._peer(slot)
        if local_index >> 8 != peer.tunnel_id:
            raise ValueError("the local index is not of the peer's tunnel id")
        if len(send_key) != AEAD_KEY or len(receive_key) != AEAD_KEY:
            raise ValueError("a key has 32 bytes")
        cdef Keypair* keypair = <Keypair*>memory_new(&self._memory, sizeof(Keypair), IS_KEYPAIR)
        keypair.retired.owner = peer
        memcpy(keypair.send_key, <const char*>send_key, AEAD_KEY)
        memcpy(keypair.receive_key, <const char*>receive_key, AEAD_KEY)
        keypair.local_index = local_index
        keypair.remote_index = remote_index
        keypair.initiator = initiator
        keypair.created_at = created_at
        keypair.send_until = send_until
        keypair.receive_until = receive_until
        self._replace(peer, local_index % KEYPAIRS, keypair)
        self._reclaim()

    def remove_keypair(self, uint32_t slot, uint32_t local_index):
        cdef Peer* peer = self._peer(slot)
        cdef Keypair* keypair = peer.keypairs[local_index % KEYPAIRS]
        if keypair != NULL and keypair.local_index == local_index:
            self._replace(peer, local_index % KEYPAIRS, NULL)
        self._reclaim()

    def activity(self, uint32_t slot):
        cdef Peer* peer = self._peer(slot)
        cdef Keypair* send = <Keypair*>load_acquire_pointer(&peer.send)
        return (
            load_relaxed_i64(&peer.sent_any),
            load_relaxed_i64(&peer.sent_data),
            load_relaxed_i64(&peer.received_any),
            load_relaxed_i64(&peer.received_data),
            load_relaxed_i64(&peer.unanswered_since),
            load_relaxed_i64(&peer.unacknowledged_since),
            send.local_index if send != NULL else 0,
            load_relaxed_u64(&send.send_counter) if send != NULL else 0,
        )

    def traffic(self, uint32_t slot):
        cdef Peer* peer = self._peer(slot)
        return load_relaxed_u64(&peer.received_bytes), load_relaxed_u64(&peer.sent_bytes)

    def moved(self):
        cdef uint32_t slot
        cdef Peer* peer
        cdef list found = []
        if not load_acquire_u32(&self.table.moved):
            return found
        store_release_u32(&self.table.moved, 0)
        for slot in range(1, self.table.capacity + 1):
            peer = self.table.peers[slot]
            if peer != NULL and load_acquire_u32(&peer.moved):
                found.append((slot, endpoint_tuple(&peer.local), endpoint_tuple(&peer.remote)))
                store_release_u32(&peer.moved, 0)
        return found

    def pad_below(self, uint32_t length):
        store_relaxed_u32(&self.table.pad_below, length)

    def current_index(self, uint32_t slot):
        cdef Keypair* send = <Keypair*>load_acquire_pointer(&self._peer(slot).send)
        return send.local_index if send != NULL else 0

    def local_indices(self, uint32_t slot):
        cdef Peer* peer = self._peer(slot)
        cdef int i
        return [peer.keypairs[i].local_index for i in range(KEYPAIRS) if peer.keypairs[i] != NULL]

    def advance_send_counter(self, uint32_t slot, uint64_t counter):
        cdef Keypair* send = <Keypair*>load_acquire_pointer(&self._peer(slot).send)
        if send == NULL or counter < send.send_counter:
            raise ValueError("a nonce must not be used twice")
        store_relaxed_u64(&send.send_counter, counter)

    def reclaim(self):
        return self._reclaim()

    def settle(self, int64_t timeout=1_000_000_000):
        cdef EpochMark mark = epoch_mark(&self._epoch)
        cdef timespec nap
        nap.tv_sec = 0
        nap.tv_nsec = NAP
        while not epoch_passed(&self._epoch, mark):
            if timeout <= 0:
                return False
            with nogil:
                nanosleep(&nap, NULL)
            timeout -= NAP
        return True

    def seal(self, PacketBatch batch not None, int64_t now):
        with nogil:
            epoch_enter(&self._epoch, reader_up(0))
            sessions_seal(&self.table, &batch.b, now)
            epoch_leave(&self._epoch, reader_up(0))

    def open(self, PacketBatch batch not None, int64_t now):
        with nogil:
            epoch_enter(&self._epoch, reader_down(0))
            sessions_open(&self.table, &batch.b, now)
            epoch_leave(&self._epoch, reader_down(0))

    cdef Peer* _peer(self, uint32_t slot) except NULL:
        if slot > self.table.capacity or self.table.peers[slot] == NULL:
            raise KeyError(slot)
        return self.table.peers[slot]

    cdef Leaf* _leaf(self, uint32_t tunnel_id) except NULL:
        cdef Leaf** place = &self.table.leaves[tunnel_id >> 8]
        if place[0] == NULL:
            store_release_pointer(place, memory_new(&self._memory, sizeof(Leaf), IS_LEAF))
        return place[0]

    # The control thread alone changes the slots, so reading its own stores needs no order.
    cdef void _replace(self, Peer* peer, uint32_t place, Keypair* keypair) noexcept:
        cdef Keypair* old = peer.keypairs[place]
        cdef bint sends = keypair != NULL and keypair.initiator
        store_release_pointer(&peer.keypairs[place], keypair)
        if old != NULL:
            swap_pointer(&peer.send, old, keypair if sends else NULL)
            memory_retire(&self._memory, &self._epoch, &old.retired)
        if sends:
            take_send_slot(peer, keypair)

    cdef Py_ssize_t _reclaim(self) noexcept:
        return memory_reclaim(&self._memory, &self._epoch)
