"""The flow table: one lookup decides forward, rewrite, drop or slow path."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from firezone._ext.atomics cimport (
    load_acquire_u32,
    load_relaxed_i64,
    load_relaxed_u8,
    load_relaxed_u32,
    load_relaxed_u64,
    store_relaxed_i64,
    store_relaxed_u8,
    store_relaxed_u64,
    store_release_u32,
)
from firezone._ext.batch cimport (
    MALFORMED,
    MARK_PAST_FLOWS,
    PASS,
    REFUSED,
    SLOW,
    FLOW_NONE,
    Batch,
    PacketBatch,
    Tuple,
    slot_packet,
)
from firezone._ext.epoch cimport epoch_mark, epoch_passed
from firezone._ext.ip cimport (
    IP_OK,
    REWRITE_DESTINATION,
    REWRITE_DESTINATION_PORT,
    REWRITE_SOURCE,
    REWRITE_SOURCE_PORT,
    Rewrite,
    ip_rewrite,
)
from firezone._ext.session cimport Sessions

cdef extern from "siphash.h" nogil:
    uint64_t siphash13(uint64_t, uint64_t, const uint64_t*, uint32_t) noexcept

cdef enum:
    IDENTITY = 38          # bytes of a Tuple that tell flows apart


@cython.final
cdef class Flows:
    """See flows.pyi."""

    def __cinit__(
        self,
        bytes secret not None,
        Sessions sessions=None,
        uint32_t capacity=65536,
        uint32_t slots=16384,
        uint32_t per_group=16384,
    ):
        cdef FlowTable* t = &self.table
        cdef int direction
        if len(secret) != 16:
            raise ValueError("the secret of a flow table has 16 bytes")
        if capacity < 16 or capacity & (capacity - 1) or capacity > 1 << 24:
            raise ValueError("the capacity of a flow table is a power of two")
        if not 0 < slots < 1 << 24:
            raise ValueError("slots out of range")
        memcpy(&t.key0, <const char*>secret, 8)
        memcpy(&t.key1, <const char*>secret + 8, 8)
        self._sessions = sessions
        self._per_group = per_group
        t.epoch = &self._own_epoch if sessions is None else sessions.table.epoch
        t.slots = slots
        # calloc, so that the pages of a table that is never full never come into being.
        for direction in range(2):
            t.side[direction].mask = capacity - 1
            t.side[direction].tags = <uint32_t*>calloc(capacity, sizeof(uint32_t))
            t.side[direction].entries = <FlowEntry*>calloc(capacity, sizeof(FlowEntry))
            if t.side[direction].tags == NULL or t.side[direction].entries == NULL:
                raise MemoryError
        t.generation = <uint32_t*>calloc(slots + 1, sizeof(uint32_t))
        t.life = <uint32_t*>calloc(slots + 1, sizeof(uint32_t))
        self._in_group = <uint32_t*>calloc(slots + 1, sizeof(uint32_t))
        if t.generation == NULL or t.life == NULL or self._in_group == NULL:
            raise MemoryError

    def __dealloc__(self):
        for direction in range(2):
            free(self.table.side[direction].tags)
            free(self.table.side[direction].entries)
        free(self.table.generation)
        free(self.table.life)
        free(self._in_group)

    def __len__(self):
        return self.table.side[UP].live + self.table.side[DOWN].live

    @property
    def capacity(self):
        return self.table.side[UP].mask + 1

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
        cdef FlowSide* side
        cdef FlowEntry* old
        cdef FlowEntry* new
        cdef FlowEntry fresh
        cdef int direction = 0
        cdef uint32_t old_place = 0
        cdef uint32_t place = 0
        cdef uint32_t tag
        if action > FLOW_SLOW or slot > t.slots or group > t.slots:
            raise ValueError("action, slot or group out of range")
        old = self._find(key, &direction, &old_place)
        side = &t.side[direction]
        memset(&fresh, 0, sizeof(FlowEntry))
        tag = self._decide(&fresh, key, rewrite)
        if old == NULL or old.group != group:
            if self._in_group[group] >= self._per_group:
                return False
        # Three quarters: beyond that, probes get long.
        if old == NULL and side.live >= (side.mask + 1) // 4 * 3:
            return False
        new = self._place(side, tag, &place)
        if new == NULL:
            return False
        fresh.action = action
        fresh.slot = slot
        fresh.group = group
        fresh.generation = t.generation[group]
        fresh.key_life = t.life[fresh.key_slot]
        fresh.slot_life = t.life[slot]
        fresh.expires_at = expires_at
        fresh.idle_timeout = idle_timeout
        fresh.last_seen = now
        if old != NULL:
            fresh.packets = load_relaxed_u64(&old.packets)
            fresh.bytes = load_relaxed_u64(&old.bytes)
            fresh.tcp_flags = load_relaxed_u8(&old.tcp_flags)
        memcpy(new, &fresh, sizeof(FlowEntry))
        store_release_u32(&side.tags[place], tag)
        side.live += 1
        self._in_group[group] += 1
        # In this order a lookup finds the one or the other, never neither.
        if old != NULL:
            self._remove(side, old_place)
        return True

    def remove(self, tuple key not None):
        cdef int direction = 0
        cdef uint32_t place = 0
        cdef FlowEntry* entry = self._find(key, &direction, &place)
        if entry == NULL:
            return None
        self._remove(&self.table.side[direction], place)
        return _counters(entry)

    def entry(self, tuple key not None):
        cdef int direction = 0
        cdef uint32_t place = 0
        cdef FlowEntry* entry = self._find(key, &direction, &place)
        return None if entry == NULL else _describe(entry, direction)

    def bump(self, uint32_t group):
        self._check(group)
        store_release_u32(&self.table.generation[group], self.table.generation[group] + 1)

    def close_slot(self, uint32_t slot):
        self._check(slot)
        if slot == 0:
            raise ValueError("slot 0 is nobody's")
        store_release_u32(&self.table.life[slot], self.table.life[slot] + 1)

    def sweep(self, int64_t now, uint32_t limit=4096):
        cdef int direction
        cdef uint32_t left
        cdef FlowSide* side
        ended = []
        for direction in range(2):
            side = &self.table.side[direction]
            for left in range(min(limit, side.mask + 1)):
                self._sweep_place(side, direction, side.cursor, now, ended)
                # Downwards: a removed place at the end of a run makes the one before it the end.
                side.cursor = (side.cursor - 1) & side.mask
        return ended

    def entries(self):
        cdef int direction
        cdef uint32_t place
        for direction in range(2):
            for place in range(self.table.side[direction].mask + 1):
                if self.table.side[direction].tags[place] > TAG_REMOVED:
                    yield _describe(&self.table.side[direction].entries[place], direction)

    def lookup(self, PacketBatch batch not None, int direction, int64_t now):
        _check_direction(direction)
        with nogil:
            flows_lookup(&self.table, &batch.b, direction, now)

    def rewrite(self, PacketBatch batch not None, int direction):
        _check_direction(direction)
        with nogil:
            flows_rewrite(&self.table, &batch.b, direction)

    cdef int _check(self, uint32_t slot) except -1:
        if slot > self.table.slots:
            raise ValueError("slot out of range")
        return 0

    cdef uint32_t _decide(self, FlowEntry* entry, tuple key, rewrite) except 0:
        """Fill in the key and rewrite of an entry; its tag."""
        cdef int direction = _parse_key(key, &entry.key, &entry.key_slot)
        self._check(entry.key_slot)
        if rewrite is not None:
            _parse_rewrite(rewrite, entry.key.family, &entry.rewrite)
            entry.rewrites = entry.rewrite.fields != 0
        return _tag(_hash(&self.table, &entry.key, entry.key_slot))

    cdef FlowEntry* _find(self, tuple key, int* direction, uint32_t* place) except? NULL:
        cdef Tuple identity
        cdef uint32_t key_slot = 0
        direction[0] = _parse_key(key, &identity, &key_slot)
        return _probe(&self.table, direction[0], &identity, key_slot, place)

    cdef FlowEntry* _place(self, FlowSide* side, uint32_t tag_hash, uint32_t* place) noexcept:
        """The first place for a new entry along its probes, NULL if there is none."""
        cdef uint32_t i = tag_hash & side.mask
        cdef int probes
        for probes in range(FLOW_PROBES):
            if side.tags[i] == TAG_EMPTY or (
                side.tags[i] == TAG_REMOVED
                and epoch_passed(self.table.epoch, side.entries[i].removed)
            ):
                place[0] = i
                return &side.entries[i]
            i = (i + 1) & side.mask
        return NULL

    cdef void _remove(self, FlowSide* side, uint32_t place) noexcept:
        cdef FlowEntry* entry = &side.entries[place]
        store_release_u32(&side.tags[place], TAG_REMOVED)
        entry.removed = epoch_mark(self.table.epoch)
        side.live -= 1
        self._in_group[entry.group] -= 1

    cdef int _sweep_place(
        self, FlowSide* side, int direction, uint32_t place, int64_t now, list ended
    ) except -1:
        cdef FlowEntry* entry = &side.entries[place]
        if side.tags[place] > TAG_REMOVED:
            if _stale(&self.table, entry, now):
                ended.append(_describe(entry, direction))
                self._remove(side, place)
        elif side.tags[place] == TAG_REMOVED:
            # Nothing stands behind it that a probe must find, and nobody reads it.
            if side.tags[(place + 1) & side.mask] == TAG_EMPTY and epoch_passed(
                self.table.epoch, entry.removed
            ):
                store_release_u32(&side.tags[place], TAG_EMPTY)
        return 0


cdef void flows_lookup(FlowTable* t, Batch* b, int direction, int64_t now) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t place = 0
    cdef FlowEntry* entry
    for i in range(b.count):
        if b.verdict[i] != PASS or b.mark[i] & MARK_PAST_FLOWS:
            continue
        entry = _probe(t, direction, &b.tuple[i], b.peer[i] if direction == DOWN else 0, &place)
        if entry == NULL or entry.action == FLOW_SLOW or _stale(t, entry, now):
            b.verdict[i] = SLOW
            continue
        _account(entry, b.tuple[i].tcp_flags, b.length[i], now)
        if entry.action == FLOW_DROP:
            b.verdict[i] = REFUSED
            continue
        b.flow[i] = place
        if direction == UP:
            b.peer[i] = entry.slot


cdef void flows_rewrite(FlowTable* t, Batch* b, int direction) noexcept nogil:
    cdef uint32_t i
    cdef FlowEntry* entry
    for i in range(b.count):
        if b.verdict[i] != PASS or b.flow[i] == FLOW_NONE:
            continue
        entry = &t.side[direction].entries[b.flow[i]]
        if entry.rewrites and ip_rewrite(slot_packet(b, i), b.length[i], &entry.rewrite) != IP_OK:
            b.verdict[i] = MALFORMED


cdef inline void _account(FlowEntry* e, uint8_t flags, uint32_t length, int64_t now) noexcept nogil:
    store_relaxed_u64(&e.packets, e.packets + 1)
    store_relaxed_u64(&e.bytes, e.bytes + length)
    store_relaxed_i64(&e.last_seen, now)
    store_relaxed_u8(&e.tcp_flags, e.tcp_flags | flags)


cdef inline bint _stale(FlowTable* t, const FlowEntry* e, int64_t now) noexcept nogil:
    if e.generation != load_acquire_u32(&t.generation[e.group]):
        return True
    if e.slot_life != load_acquire_u32(&t.life[e.slot]):
        return True
    if e.key_life != load_acquire_u32(&t.life[e.key_slot]):
        return True
    if e.expires_at and now >= e.expires_at:
        return True
    return e.idle_timeout != 0 and now - load_relaxed_i64(&e.last_seen) >= e.idle_timeout


cdef inline FlowEntry* _probe(
    FlowTable* t, int direction, const Tuple* key, uint32_t key_slot, uint32_t* place
) noexcept nogil:
    cdef FlowSide* side = &t.side[direction]
    cdef uint32_t tag = _tag(_hash(t, key, key_slot))
    cdef uint32_t i = tag & side.mask
    cdef int probes
    cdef uint32_t found
    for probes in range(FLOW_PROBES):
        found = load_acquire_u32(&side.tags[i])
        if found == TAG_EMPTY:
            return NULL
        if found == tag and side.entries[i].key_slot == key_slot:
            if memcmp(&side.entries[i].key, key, IDENTITY) == 0:
                place[0] = i
                return &side.entries[i]
        i = (i + 1) & side.mask
    return NULL


cdef inline uint64_t _hash(const FlowTable* t, const Tuple* key, uint32_t key_slot) noexcept nogil:
    cdef uint64_t words[6]
    memset(words, 0, sizeof(words))
    memcpy(words, key, IDENTITY)
    words[5] = key_slot
    return siphash13(t.key0, t.key1, words, 6)


# Any 32 bits but the two that mean something else.
cdef inline uint32_t _tag(uint64_t hashed) noexcept nogil:
    cdef uint32_t tag = <uint32_t>hashed
    return tag if tag > TAG_REMOVED else tag + 2


cdef int _check_direction(int direction) except -1:
    if direction != UP and direction != DOWN:
        raise ValueError("a direction is 0 or 1")
    return 0


cdef int _parse_key(tuple key, Tuple* identity, uint32_t* key_slot) except -1:
    cdef bytes source
    cdef bytes destination
    cdef int direction
    direction, slot, protocol, source, destination, source_port, destination_port = key
    _check_direction(direction)
    if len(source) != len(destination) or len(source) not in (4, 16):
        raise ValueError("a flow has two addresses of one family")
    memset(identity, 0, sizeof(Tuple))
    memcpy(identity.source, <const char*>source, len(source))
    memcpy(identity.destination, <const char*>destination, len(destination))
    identity.source_port = source_port
    identity.destination_port = destination_port
    identity.protocol = protocol
    identity.family = 4 if len(source) == 4 else 6
    key_slot[0] = slot
    return direction


cdef int _parse_rewrite(tuple rewrite, uint8_t family, Rewrite* r) except -1:
    source, destination, source_port, destination_port = rewrite
    r.family = family
    if source is not None:
        _parse_address(source, family, r.source)
        r.fields |= REWRITE_SOURCE
    if destination is not None:
        _parse_address(destination, family, r.destination)
        r.fields |= REWRITE_DESTINATION
    if source_port is not None:
        r.source_port = source_port
        r.fields |= REWRITE_SOURCE_PORT
    if destination_port is not None:
        r.destination_port = destination_port
        r.fields |= REWRITE_DESTINATION_PORT
    return 0


cdef int _parse_address(bytes address, uint8_t family, uint8_t* into) except -1:
    if len(address) != (4 if family == 4 else 16):
        raise ValueError("a rewrite keeps the family of its flow")
    memcpy(into, <const char*>address, len(address))
    return 0


cdef tuple _describe(const FlowEntry* e, int direction):
    cdef int size = 4 if e.key.family == 4 else 16
    cdef tuple key
    cdef tuple rewrite
    key = (
        direction,
        e.key_slot,
        e.key.protocol,
        <bytes>(<const char*>e.key.source)[:size],
        <bytes>(<const char*>e.key.destination)[:size],
        e.key.source_port,
        e.key.destination_port,
    )
    rewrite = _describe_rewrite(&e.rewrite, size) if e.rewrites else None
    return (
        key, e.action, e.slot, e.group, e.expires_at, e.idle_timeout, rewrite, _counters(e)
    )


cdef tuple _describe_rewrite(const Rewrite* r, int size):
    return (
        <bytes>(<const char*>r.source)[:size] if r.fields & REWRITE_SOURCE else None,
        <bytes>(<const char*>r.destination)[:size] if r.fields & REWRITE_DESTINATION else None,
        r.source_port if r.fields & REWRITE_SOURCE_PORT else None,
        r.destination_port if r.fields & REWRITE_DESTINATION_PORT else None,
    )


cdef tuple _counters(const FlowEntry* e):
    return (
        load_relaxed_u64(&e.packets),
        load_relaxed_u64(&e.bytes),
        load_relaxed_i64(&e.last_seen),
        load_relaxed_u8(&e.tcp_flags),
    )
