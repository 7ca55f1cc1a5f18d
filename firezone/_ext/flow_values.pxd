# Keys, rewrites and entries of the flow table as Python's tuples, and back. Inline only: no module
# to import. The tuples are described in flows.pyi; what cannot be is a ValueError.
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from firezone._ext.atomics cimport load_relaxed_i64, load_relaxed_u8, load_relaxed_u64
from firezone._ext.batch cimport Tuple
from firezone._ext.flow_lists cimport FlowEntries, FlowEntry, entry_at, key_slot, rewrite_at
from firezone._ext.ip cimport (
    REWRITE_DESTINATION, REWRITE_DESTINATION_PORT, REWRITE_SOURCE, REWRITE_SOURCE_PORT, Rewrite,
)


cdef inline int parse_direction(int direction) except -1:
    if direction != 0 and direction != 1:
        raise ValueError("a direction is 0 or 1")
    return direction


# Fills in key and origin.
cdef inline int parse_key(tuple key, FlowEntry* entry) except -1:
    cdef bytes source
    cdef bytes destination
    cdef uint32_t slot
    direction, slot, protocol, source, destination, source_port, destination_port = key
    if len(source) != len(destination) or len(source) not in (4, 16):
        raise ValueError("a flow has two addresses of one family")
    if slot >= 1 << 24:
        raise ValueError("slot out of range")
    memset(&entry.key, 0, sizeof(Tuple))
    memcpy(entry.key.source, <const char*>source, len(source))
    memcpy(entry.key.destination, <const char*>destination, len(destination))
    entry.key.source_port = source_port
    entry.key.destination_port = destination_port
    entry.key.protocol = protocol
    entry.key.family = 4 if len(source) == 4 else 6
    entry.origin = <uint32_t>parse_direction(direction) << 31 | slot
    return 0


cdef inline int parse_rewrite(tuple rewrite, uint8_t family, Rewrite* r) except -1:
    source, destination, source_port, destination_port = rewrite
    r.family = family
    if source is not None:
        parse_address(source, family, r.source)
        r.fields |= REWRITE_SOURCE
    if destination is not None:
        parse_address(destination, family, r.destination)
        r.fields |= REWRITE_DESTINATION
    if source_port is not None:
        r.source_port = source_port
        r.fields |= REWRITE_SOURCE_PORT
    if destination_port is not None:
        r.destination_port = destination_port
        r.fields |= REWRITE_DESTINATION_PORT
    return 0


cdef inline int parse_address(bytes address, uint8_t family, uint8_t* into) except -1:
    if len(address) != (4 if family == 4 else 16):
        raise ValueError("a rewrite keeps the family of its flow")
    memcpy(into, <const char*>address, len(address))
    return 0


cdef inline tuple entry_tuple(const FlowEntries* entries, uint32_t number):
    cdef const FlowEntry* e = entry_at(entries, number)
    cdef int size = 4 if e.key.family == 4 else 16
    cdef tuple key = (
        <int>(e.origin >> 31),
        key_slot(e),
        e.key.protocol,
        <bytes>(<const char*>e.key.source)[:size],
        <bytes>(<const char*>e.key.destination)[:size],
        e.key.source_port,
        e.key.destination_port,
    )
    cdef object rewrite = None
    if e.rewrites:
        rewrite = rewrite_tuple(rewrite_at(entries, number), size)
    return (
        key, e.action, e.slot, e.group, e.expires_at, e.idle_timeout, rewrite, counters_tuple(e)
    )


cdef inline tuple rewrite_tuple(const Rewrite* r, int size):
    return (
        <bytes>(<const char*>r.source)[:size] if r.fields & REWRITE_SOURCE else None,
        <bytes>(<const char*>r.destination)[:size] if r.fields & REWRITE_DESTINATION else None,
        r.source_port if r.fields & REWRITE_SOURCE_PORT else None,
        r.destination_port if r.fields & REWRITE_DESTINATION_PORT else None,
    )


cdef inline tuple counters_tuple(const FlowEntry* e):
    return (
        load_relaxed_u64(&e.packets),
        load_relaxed_u64(&e.bytes),
        load_relaxed_i64(&e.last_seen),
        load_relaxed_u8(&e.tcp_flags),
    )
