# What the data threads note of a peer for the timers and for roaming: when and how much was sent and
# received, and from where. Inline only: no module to import.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from firezone._ext.atomics cimport (
    add_relaxed_u64, load_acquire_u32, load_relaxed_i64, load_relaxed_u32, store_relaxed_i64,
    store_relaxed_u64, store_release_u32,
)
from firezone._ext.batch cimport Batch, endpoint_equal
from firezone._ext.session_table cimport Peer, SessionTable
from firezone._ext.transport_data cimport DATA_OVERHEAD


# A stamp "stands" while it is greater than the other direction's: what is sent in the very
# nanosecond of the last receipt comes after it, and the other way round.
cdef inline void note_sent(
    const SessionTable* t, Peer* peer, uint64_t size, bint has_data, int64_t now
) noexcept nogil:
    cdef int64_t received = load_relaxed_i64(&peer.received_any)
    cdef int64_t pending = load_relaxed_i64(&peer.unacknowledged_since)
    if t.shared:
        add_relaxed_u64(&peer.sent_bytes, size)
    else:
        store_relaxed_u64(&peer.sent_bytes, peer.sent_bytes + size)
    store_relaxed_i64(&peer.sent_any, max(now, pending if pending <= now + 1 else now))
    if has_data:
        store_relaxed_i64(&peer.sent_data, now)
        if load_relaxed_i64(&peer.unanswered_since) <= received:
            store_relaxed_i64(&peer.unanswered_since, max(now, received + 1))


cdef inline void note_received(Peer* peer, uint32_t length, int64_t now) noexcept nogil:
    cdef int64_t sent = load_relaxed_i64(&peer.sent_any)
    cdef int64_t pending = load_relaxed_i64(&peer.unanswered_since)
    store_relaxed_u64(&peer.received_bytes, peer.received_bytes + length + DATA_OVERHEAD)
    store_relaxed_i64(&peer.received_any, max(now, pending if pending <= now + 1 else now))
    if length:
        store_relaxed_i64(&peer.received_data, now)
        if peer.unacknowledged_since <= sent:
            store_relaxed_i64(&peer.unacknowledged_since, max(now, sent + 1))


# A box for one message: what control has not taken out yet stands, and the next packet tries again.
# The table's mark is set again each time, too, lest control has cleared it without seeing the box.
cdef inline void note_ends(
    SessionTable* t, Peer* peer, const Batch* b, uint32_t slot
) noexcept nogil:
    if b.remote[slot].family == 0 or (
        endpoint_equal(&peer.remote, &b.remote[slot])
        and endpoint_equal(&peer.local, &b.local[slot])
        and not load_relaxed_u32(&peer.moved)
    ):
        return
    if not load_acquire_u32(&peer.moved):
        peer.local = b.local[slot]
        peer.remote = b.remote[slot]
        store_release_u32(&peer.moved, 1)
    store_release_u32(&t.moved, 1)
