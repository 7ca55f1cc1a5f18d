"""The flow table: one lookup decides forward, rewrite, drop or slow path.

A look-up hashes the key (SipHash-1-3, keyed, since strangers choose keys), probes the index and
compares the entry. A batch is looked up in three passes, so that the memory of many flows is
fetched at once: hash and fetch the index, fetch the entries, decide.

The index is copied to one of another size, a few places with each new entry, when it is five
eighths full; the readers see it when it is complete.

An entry waits in the list of a tick, the next at which it may have ended. A sweep looks at the
lists of the ticks that have passed: what has ended goes, what was used goes to a later tick. After
a revocation the group's own list leads to its older entries, which are at its end.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from firezone._ext.atomics cimport (
    load_acquire_pointer, load_relaxed_i64, load_relaxed_u8, load_relaxed_u64, store_relaxed_i64,
    store_relaxed_u8, store_relaxed_u64, store_release_u32,
)
from firezone._ext.batch cimport (
    FLOW_NONE, MALFORMED, MARK_PAST_FLOWS, PASS, REFUSED, SLOW, Batch, PacketBatch, slot_packet,
)
from firezone._ext.flow_index cimport (
    FIRST_NUMBER, MOVED_PER_INSTALL, SMALLEST_INDEX, FlowIndex, index_new, index_probe,
    indexes_clear, indexes_free, indexes_have_room, indexes_move, indexes_put, indexes_reclaim,
    indexes_resize_if_due, indexes_swap,
)
from firezone._ext.flow_lists cimport (
    BY_GROUP, BY_TICK, FlowEntries, entry_at, key_slot, list_push, list_remove, rewrite_at,
)
from firezone._ext.flow_pool cimport (
    pool_extend_rewrites, pool_free, pool_init, pool_recycle, pool_retire, pool_take,
)
from firezone._ext.flow_table cimport IDENTITY, find, hash_key, is_stale, word_of
from firezone._ext.flow_values cimport (
    counters_tuple, entry_tuple, parse_direction, parse_key, parse_rewrite,
)
from firezone._ext.ip cimport IP_OK, ip_rewrite

cdef extern from *:
    void prefetch "__builtin_prefetch" (const void*) noexcept nogil

cdef enum:
    LOOKED_UP_AT_ONCE = 64

ctypedef struct Lookup:
    uint32_t slot
    uint32_t tag


cdef void flows_lookup(FlowTable* t, Batch* b, int direction, int64_t now) noexcept nogil:
    cdef const FlowIndex* index = <const FlowIndex*>load_acquire_pointer(&t.indexes.current)
    cdef Lookup lookups[LOOKED_UP_AT_ONCE]
    cdef uint32_t next_slot = 0
    cdef uint32_t count = 0
    cdef uint32_t i
    while next_slot < b.count:
        count = hash_keys(t, index, b, direction, &next_slot, lookups)
        for i in range(count):
            fetch_entry(t, index, lookups[i].tag)
        for i in range(count):
            decide(t, index, b, &lookups[i], direction, now)


cdef void flows_rewrite(FlowTable* t, Batch* b) noexcept nogil:
    cdef uint32_t i
    for i in range(b.count):
        if b.verdict[i] != PASS or b.flow[i] == FLOW_NONE:
            continue
        if entry_at(&t.entries, b.flow[i]).rewrites and ip_rewrite(
            slot_packet(b, i), b.length[i], rewrite_at(&t.entries, b.flow[i])
        ) != IP_OK:
            b.verdict[i] = MALFORMED


# Hashes the next packets that need a look-up, and fetches their places. Neighbours are often of one
# flow, which is hashed once.
cdef inline uint32_t hash_keys(
    const FlowTable* t,
    const FlowIndex* index,
    const Batch* b,
    int direction,
    uint32_t* next_slot,
    Lookup* lookups,
) noexcept nogil:
    cdef uint32_t count = 0
    cdef uint32_t i = next_slot[0]
    cdef Lookup* last = NULL
    while i < b.count and count < LOOKED_UP_AT_ONCE:
        if b.verdict[i] == PASS and not b.mark[i] & MARK_PAST_FLOWS:
            lookups[count].slot = i
            if last != NULL and same_flow(b, last.slot, i):
                lookups[count].tag = last.tag
            else:
                lookups[count].tag = hash_key(t, &b.tuple[i], origin_of(b, i, direction))
                prefetch(&index.places[lookups[count].tag & index.mask])
            last = &lookups[count]
            count += 1
        i += 1
    next_slot[0] = i
    return count


cdef inline bint same_flow(const Batch* b, uint32_t i, uint32_t j) noexcept nogil:
    return b.peer[i] == b.peer[j] and memcmp(&b.tuple[i], &b.tuple[j], IDENTITY) == 0


cdef inline void fetch_entry(
    const FlowTable* t, const FlowIndex* index, uint32_t tag
) noexcept nogil:
    cdef uint32_t place = tag & index.mask
    cdef uint32_t number = 0
    cdef const FlowEntry* entry
    if index_probe(index, tag, &place, &number):
        entry = entry_at(&t.entries, number)
        prefetch(entry)
        prefetch(&entry.expires_at)


cdef inline void decide(
    FlowTable* t, const FlowIndex* index, Batch* b, const Lookup* l, int direction, int64_t now
) noexcept nogil:
    cdef uint32_t i = l.slot
    cdef uint32_t number = find(t, index, l.tag, &b.tuple[i], origin_of(b, i, direction))
    cdef FlowEntry* entry
    if number == 0:
        b.verdict[i] = SLOW
        return
    entry = entry_at(&t.entries, number)
    if entry.action == FLOW_SLOW or is_stale(t, entry, now):
        b.verdict[i] = SLOW
        return
    account(entry, b.tuple[i].tcp_flags, b.length[i], now)
    if entry.action == FLOW_DROP:
        b.verdict[i] = REFUSED
        return
    b.flow[i] = number
    if direction == UP:
        b.peer[i] = entry.slot


cdef inline void account(FlowEntry* e, uint8_t flags, uint32_t length, int64_t now) noexcept nogil:
    store_relaxed_u64(&e.packets, e.packets + 1)
    store_relaxed_u64(&e.bytes, e.bytes + length)
    store_relaxed_i64(&e.last_seen, now)
    store_relaxed_u8(&e.tcp_flags, e.tcp_flags | flags)


cdef inline uint32_t origin_of(const Batch* b, uint32_t i, int direction) noexcept nogil:
    return <uint32_t>1 << 31 | b.peer[i] if direction == DOWN else 0


@cython.final
cdef class Flows:
    """See flows.pyi."""

    def __cinit__(
        self,
        bytes secret not None,
        Sessions sessions=None,
        uint32_t capacity=1 << 21,
        uint32_t slots=16384,
        uint32_t per_group=1 << 16,
        int64_t tick=1_000_000_000,
    ):
        cdef FlowTable* t = &self.table
        if len(secret) != 16:
            raise ValueError("the secret of a flow table has 16 bytes")
        if not 0 < capacity <= 1 << 24 or not 0 < slots < 1 << 24 or tick <= 0:
            raise ValueError("capacity, slots or tick out of range")
        memcpy(&t.key0, <const char*>secret, 8)
        memcpy(&t.key1, <const char*>secret + 8, 8)
        self._sessions = sessions
        self._capacity = capacity
        self._per_group = per_group
        self._tick = tick
        self._revoked = {}
        t.epoch = &self._own_epoch if sessions is None else sessions.table.epoch
        t.slots = slots
        t.indexes.current = index_new(SMALLEST_INDEX)
        t.generation = <uint32_t*>calloc(slots + 1, sizeof(uint32_t))
        t.life = <uint32_t*>calloc(slots + 1, sizeof(uint32_t))
        self._in_group = <uint32_t*>calloc(slots + 1, sizeof(uint32_t))
        self._groups = <FlowList*>calloc(slots + 1, sizeof(FlowList))
        if not pool_init(&self._pool, &t.entries, capacity) or not (
            t.indexes.current and t.generation and t.life and self._in_group and self._groups
        ):
            raise MemoryError

    def __dealloc__(self):
        pool_free(&self._pool, &self.table.entries)
        indexes_free(&self.table.indexes)
        free(self.table.generation)
        free(self.table.life)
        free(self._in_group)
        free(self._groups)

    def __len__(self):
        return self._live

    @property
    def capacity(self):
        return self._capacity

    @property
    def places(self):
        return self.table.indexes.current.mask + 1

    def install(
        self,
        tuple key not None,
        uint8_t action,
        uint32_t slot,
        uint32_t group,
        int64_t expires_at,
        int64_t idle_timeout,
        rewrite,
        int64_t now,
    ):
        cdef FlowTable* t = &self.table
        cdef FlowEntry entry
        cdef Rewrite changes
        cdef uint32_t number
        if action > FLOW_SLOW or slot > t.slots or group > t.slots:
            raise ValueError("action, slot or group out of range")
        memset(&entry, 0, sizeof(FlowEntry))
        memset(&changes, 0, sizeof(Rewrite))
        parse_key(key, &entry)
        self._check(key_slot(&entry))
        if rewrite is not None:
            parse_rewrite(rewrite, entry.key.family, &changes)
            entry.rewrites = changes.fields != 0
        entry.action = action
        entry.slot = slot
        entry.group = group
        entry.generation = t.generation[group]
        entry.key_life = t.life[key_slot(&entry)]
        entry.slot_life = t.life[slot]
        entry.expires_at = expires_at
        entry.idle_timeout = idle_timeout
        entry.last_seen = now
        if self._live == 0:
            self._swept = now // self._tick
        indexes_resize_if_due(&t.indexes, self._live)
        indexes_move(&t.indexes, MOVED_PER_INSTALL, t.epoch)
        number = self._find(&entry)
        if number == 0:
            return self._add(&entry, &changes)
        return self._renew(number, &entry, &changes) or self._replace(number, &entry, &changes)

    def remove(self, tuple key not None):
        cdef FlowEntry wanted
        cdef uint32_t number
        parse_key(key, &wanted)
        number = self._find(&wanted)
        if number == 0:
            return None
        counters = counters_tuple(entry_at(&self.table.entries, number))
        self._forget(number)
        return counters

    def entry(self, tuple key not None):
        cdef FlowEntry wanted
        cdef uint32_t number
        parse_key(key, &wanted)
        number = self._find(&wanted)
        return None if number == 0 else entry_tuple(&self.table.entries, number)

    def bump(self, uint32_t group):
        self._check(group)
        store_release_u32(&self.table.generation[group], self.table.generation[group] + 1)
        if self._groups[group].first:
            self._revoked[group] = None

    def close_slot(self, uint32_t slot):
        self._check(slot)
        if slot == 0:
            raise ValueError("slot 0 is nobody's")
        store_release_u32(&self.table.life[slot], self.table.life[slot] + 1)
        self.bump(slot)

    def sweep(self, int64_t now, uint32_t limit=4096):
        cdef uint32_t left = limit
        cdef uint32_t done
        cdef int64_t until = now // self._tick
        cdef uint32_t group
        ended = []
        self._recycle()
        indexes_resize_if_due(&self.table.indexes, self._live)
        indexes_move(&self.table.indexes, limit, self.table.epoch)
        while self._revoked and left:
            group = next(iter(self._revoked))
            done = self._sweep_group(group, left, ended)
            if done < left:
                del self._revoked[group]
            left -= done
        # After a long pause each list is looked at once.
        self._swept = max(self._swept, until - BUCKETS)
        while self._swept < until and left:
            done = self._sweep_tick(self._swept + 1, now, left, ended)
            if done == left:
                break
            left -= done
            self._swept += 1
        return ended

    def next_sweep(self):
        cdef int64_t tick
        if self._revoked or self.table.indexes.next != NULL:
            return 0
        for tick in range(self._swept + 1, self._swept + BUCKETS + 1):
            if self._ticks[tick % BUCKETS].first:
                return tick * self._tick
        return None

    def entries(self):
        cdef uint32_t number
        for number in range(FIRST_NUMBER, self._pool.fresh):
            if entry_at(&self.table.entries, number).is_live:
                yield entry_tuple(&self.table.entries, number)

    def lookup(self, PacketBatch batch not None, int direction, int64_t now):
        parse_direction(direction)
        with nogil:
            flows_lookup(&self.table, &batch.b, direction, now)

    def rewrite(self, PacketBatch batch not None):
        with nogil:
            flows_rewrite(&self.table, &batch.b)

    cdef int _check(self, uint32_t slot) except -1:
        if slot > self.table.slots:
            raise ValueError("slot out of range")
        return 0

    cdef uint32_t _find(self, const FlowEntry* key) noexcept:
        cdef uint32_t tag = hash_key(&self.table, &key.key, key.origin)
        return find(&self.table, self.table.indexes.current, tag, &key.key, key.origin)

    # Adding, replacing, forgetting.

    cdef bint _add(self, const FlowEntry* entry, const Rewrite* rewrite) noexcept:
        cdef uint32_t number
        if self._live >= self._capacity or self._in_group[entry.group] >= self._per_group:
            return False
        number = self._write(entry, rewrite) if indexes_have_room(&self.table.indexes) else 0
        if number == 0:
            return False
        indexes_put(&self.table.indexes, word_of(&self.table, number))
        self._enlist(number)
        return True

    # The same decision again: in place, so that what a data thread counts meanwhile is not lost.
    cdef bint _renew(
        self, uint32_t number, const FlowEntry* entry, const Rewrite* rewrite
    ) noexcept:
        cdef FlowEntry* old = entry_at(&self.table.entries, number)
        if (old.action != entry.action or old.slot != entry.slot or old.group != entry.group
                or old.rewrites != entry.rewrites):
            return False
        if old.rewrites and memcmp(
            rewrite_at(&self.table.entries, number), rewrite, sizeof(Rewrite)
        ) != 0:
            return False
        self._unlist(number)
        store_relaxed_i64(&old.expires_at, entry.expires_at)
        store_relaxed_i64(&old.idle_timeout, entry.idle_timeout)
        store_relaxed_i64(&old.last_seen, entry.last_seen)
        store_release_u32(&old.key_life, entry.key_life)
        store_release_u32(&old.slot_life, entry.slot_life)
        store_release_u32(&old.generation, entry.generation)
        self._enlist(number)
        return True

    # Another decision: another entry in the same place of the index, so that a look-up finds the
    # one or the other.
    cdef bint _replace(
        self, uint32_t number, const FlowEntry* entry, const Rewrite* rewrite
    ) noexcept:
        cdef FlowEntry* old = entry_at(&self.table.entries, number)
        cdef FlowEntry* new
        cdef uint32_t fresh
        if old.group != entry.group and self._in_group[entry.group] >= self._per_group:
            return False
        fresh = self._write(entry, rewrite)
        if fresh == 0:
            return False
        new = entry_at(&self.table.entries, fresh)
        new.packets = load_relaxed_u64(&old.packets)
        new.bytes = load_relaxed_u64(&old.bytes)
        new.tcp_flags = load_relaxed_u8(&old.tcp_flags)
        indexes_swap(
            &self.table.indexes, word_of(&self.table, number), word_of(&self.table, fresh))
        self._unlist(number)
        self._enlist(fresh)
        pool_retire(&self._pool, &self.table.entries, number)
        return True

    # An entry that nobody can find yet; its number, 0 if there is no room.
    cdef uint32_t _write(self, const FlowEntry* entry, const Rewrite* rewrite) noexcept:
        cdef FlowEntries* entries = &self.table.entries
        cdef uint32_t number
        if self._pool.free == 0:
            self._recycle()
        number = pool_take(&self._pool, entries)
        if number == 0:
            return 0
        memcpy(entry_at(entries, number), entry, sizeof(FlowEntry))
        if entry.rewrites:
            if not pool_extend_rewrites(entries, number):
                pool_retire(&self._pool, entries, number)
                return 0
            memcpy(rewrite_at(entries, number), rewrite, sizeof(Rewrite))
        return number

    cdef void _forget(self, uint32_t number) noexcept:
        indexes_clear(&self.table.indexes, word_of(&self.table, number))
        self._unlist(number)
        pool_retire(&self._pool, &self.table.entries, number)

    cdef void _enlist(self, uint32_t number) noexcept:
        cdef FlowEntry* entry = entry_at(&self.table.entries, number)
        list_push(&self.table.entries, &self._groups[entry.group], number, BY_GROUP)
        self._schedule(number)
        entry.is_live = True
        self._in_group[entry.group] += 1
        self._live += 1

    cdef void _unlist(self, uint32_t number) noexcept:
        cdef FlowEntry* entry = entry_at(&self.table.entries, number)
        list_remove(&self.table.entries, &self._groups[entry.group], number, BY_GROUP)
        list_remove(&self.table.entries, &self._ticks[entry.bucket], number, BY_TICK)
        entry.is_live = False
        self._in_group[entry.group] -= 1
        self._live -= 1

    # Into the list of the tick at which it may have ended; one that lies too far ahead, or never
    # ends by itself, into the furthest there is.
    cdef void _schedule(self, uint32_t number) noexcept:
        cdef FlowEntry* entry = entry_at(&self.table.entries, number)
        cdef int64_t tick = self._swept + BUCKETS - 1
        if entry.expires_at:
            tick = min(tick, _tick_after(entry.expires_at, self._tick))
        if entry.idle_timeout:
            tick = min(tick, _tick_after(
                load_relaxed_i64(&entry.last_seen) + entry.idle_timeout, self._tick))
        entry.bucket = <uint8_t>max(tick, self._swept + 1)
        list_push(&self.table.entries, &self._ticks[entry.bucket], number, BY_TICK)

    cdef void _recycle(self) noexcept:
        pool_recycle(&self._pool, &self.table.entries, self.table.epoch)
        indexes_reclaim(&self.table.indexes, self.table.epoch)

    # Looks at the group's entries of older generations; how many.
    cdef uint32_t _sweep_group(self, uint32_t group, uint32_t limit, list ended) except? 0:
        cdef uint32_t generation = self.table.generation[group]
        cdef uint32_t done
        cdef uint32_t number
        for done in range(limit):
            number = self._groups[group].last
            if number == 0 or entry_at(&self.table.entries, number).generation == generation:
                return done
            ended.append(entry_tuple(&self.table.entries, number))
            self._forget(number)
        return limit

    # Looks at the entries that may have ended at a tick; how many.
    cdef uint32_t _sweep_tick(
        self, int64_t tick, int64_t now, uint32_t limit, list ended
    ) except? 0:
        cdef FlowList* waiting = &self._ticks[tick % BUCKETS]
        cdef FlowEntry* entry
        cdef uint32_t done
        cdef uint32_t number
        for done in range(limit):
            number = waiting.last
            if number == 0:
                return done
            entry = entry_at(&self.table.entries, number)
            if is_stale(&self.table, entry, now):
                ended.append(entry_tuple(&self.table.entries, number))
                self._forget(number)
            else:
                list_remove(&self.table.entries, waiting, number, BY_TICK)
                self._schedule(number)
        return limit


cdef inline int64_t _tick_after(int64_t deadline, int64_t tick) noexcept:
    return (deadline - 1) // tick + 1
