"""Paths of peers: destination, source and channel of what is sent to them."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from firezone._ext.atomics cimport load_acquire_pointer, store_release_pointer
from firezone._ext.batch cimport (
    PASS,
    SEND_FAILED,
    UNROUTABLE,
    Batch,
    PacketBatch,
    endpoint_parse,
    endpoint_tuple,
    slot_packet,
)
from firezone._ext.epoch cimport epoch_mark, epoch_passed
from firezone._ext.session cimport Sessions

cdef enum:
    CHANNEL_HEADER = 4     # number and length (RFC 8656 section 12.4)


@cython.final
cdef class Paths:
    """See paths.pyi."""

    def __cinit__(self, Sessions sessions=None, uint32_t slots=16384):
        if not 0 < slots < 1 << 24:
            raise ValueError("slots out of range")
        self._sessions = sessions
        self.table.epoch = &self._own_epoch if sessions is None else sessions.table.epoch
        self.table.slots = slots
        self.table.paths = <PeerPath**>calloc(slots + 1, sizeof(PeerPath*))
        if self.table.paths == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef uint32_t slot
        cdef PeerPath* path
        while self._retired != NULL:
            path = self._retired
            self._retired = path.next_retired
            free(path)
        if self.table.paths != NULL:
            for slot in range(self.table.slots + 1):
                free(self.table.paths[slot])
            free(self.table.paths)

    def set(self, uint32_t slot, tuple destination not None, source=None, channel=None):
        cdef PeerPath fresh
        cdef PeerPath* path
        self._check(slot)
        memset(&fresh, 0, sizeof(PeerPath))
        endpoint_parse(&fresh.destination, destination)
        if source is not None:
            endpoint_parse(&fresh.source, source)
            if fresh.source.family != fresh.destination.family:
                raise ValueError("source and destination of a path are of one family")
        if channel is not None:
            if not 0x4000 <= channel <= 0x4FFF:
                raise ValueError("a channel number is 0x4000 to 0x4FFF")
            fresh.channel = channel
        path = <PeerPath*>calloc(1, sizeof(PeerPath))
        if path == NULL:
            raise MemoryError
        path[0] = fresh
        self._swap(slot, path)

    def clear(self, uint32_t slot):
        self._check(slot)
        self._swap(slot, NULL)

    def get(self, uint32_t slot):
        cdef PeerPath* path
        self._check(slot)
        path = self.table.paths[slot]
        if path == NULL:
            return None
        source = endpoint_tuple(&path.source) if path.source.family else None
        return endpoint_tuple(&path.destination), source, path.channel or None

    def reclaim(self):
        cdef PeerPath** link = &self._retired
        cdef PeerPath* path
        cdef Py_ssize_t left = 0
        while link[0] != NULL:
            path = link[0]
            if epoch_passed(self.table.epoch, path.retired):
                link[0] = path.next_retired
                free(path)
            else:
                link = &path.next_retired
                left += 1
        return left

    def check(self, PacketBatch batch not None):
        with nogil:
            paths_check(&self.table, &batch.b)

    def prepend(self, PacketBatch batch not None):
        with nogil:
            paths_prepend(&self.table, &batch.b)

    cdef int _check(self, uint32_t slot) except -1:
        if not 0 < slot <= self.table.slots:
            raise ValueError("slot out of range")
        return 0

    cdef int _swap(self, uint32_t slot, PeerPath* path) except -1:
        cdef PeerPath* old = self.table.paths[slot]
        store_release_pointer(&self.table.paths[slot], path)
        if old != NULL:
            old.retired = epoch_mark(self.table.epoch)
            old.next_retired = self._retired
            self._retired = old
            self.reclaim()
        return 0


cdef void paths_check(PathTable* t, Batch* b) noexcept nogil:
    cdef uint32_t i
    for i in range(b.count):
        if b.verdict[i] == PASS and _path(t, b.peer[i]) == NULL:
            b.verdict[i] = UNROUTABLE


cdef void paths_prepend(PathTable* t, Batch* b) noexcept nogil:
    cdef uint32_t i
    cdef const PeerPath* path
    for i in range(b.count):
        if b.verdict[i] != PASS:
            continue
        path = _path(t, b.peer[i])
        if path == NULL:
            b.verdict[i] = SEND_FAILED
            continue
        b.remote[i] = path.destination
        b.local[i] = path.source
        if path.channel:
            _prepend_header(b, i, path.channel)


cdef inline const PeerPath* _path(PathTable* t, uint32_t slot) noexcept nogil:
    if slot == 0 or slot > t.slots:
        return NULL
    return <const PeerPath*>load_acquire_pointer(&t.paths[slot])


cdef inline void _prepend_header(Batch* b, uint32_t i, uint16_t channel) noexcept nogil:
    cdef uint32_t length = b.length[i]
    cdef uint8_t* p
    b.offset[i] -= CHANNEL_HEADER
    b.length[i] += CHANNEL_HEADER
    p = slot_packet(b, i)
    p[0] = channel >> 8
    p[1] = channel & 0xFF
    p[2] = length >> 8 & 0xFF
    p[3] = length & 0xFF
