# A worker of the relay: its loop over sockets, and what it hands to Python. Inline only: no module
# to import.
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from firezone._ext.atomics cimport load_acquire_pointer
from firezone._ext.batch cimport Endpoint
from firezone._ext.epoch cimport READERS, Epoch, epoch_enter, epoch_leave
from firezone._ext.relay_path cimport (
    NOTICE_DATA,
    NOTICE_GSO_REFUSED,
    NOTICE_SOCKET_FAILED,
    NOTICE_STUN,
    RELAY_TO_CLIENT,
    Worker,
    relay_key,
    relay_read,
    relay_socket,
    relay_tables,
    relay_worker,
    relay_worker_free,
    relay_worker_init,
)
from firezone._ext.ring cimport RingBuffer, RingItem, ring_push

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data:
        uint32_t u32
    ctypedef struct epoll_event "struct epoll_event":
        uint32_t events
        epoll_data data
    enum:
        EPOLLIN
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event*)
    int epoll_wait(int, epoll_event*, int, int)

cdef extern from "sys/eventfd.h" nogil:
    enum:
        EFD_NONBLOCK
        EFD_CLOEXEC
    int eventfd(unsigned int, int)
    int eventfd_write(int, uint64_t)
    int eventfd_read(int, uint64_t*)

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void**, size_t, size_t)

cdef enum:
    WORKERS = READERS
    LISTENERS = 2 << 16    # after families and ports of allocations
    SOCKETS = LISTENERS + 2 * WORKERS
    STOP_EVENT = SOCKETS   # the one that is no socket's
    EVENTS = 64
    RESERVED = 16          # places in the ring that STUN leaves for what must not be lost


cdef inline uint32_t relay_place(int family, int port) noexcept nogil:
    return <uint32_t>((family == 6) << 16 | port)


cdef inline uint32_t relay_listener_place(int worker, int family) noexcept nogil:
    return <uint32_t>(LISTENERS + 2 * worker + (family == 6))


# Until told to stop (0), or until a listening socket is of no more use (-errno).
cdef inline int relay_run(
    relay_socket** sockets, Epoch* epoch, Worker* w
) noexcept nogil:
    cdef int result = 0
    cdef uint64_t value
    while result >= 0:
        result = relay_turn(sockets, epoch, w, -1)
        if w.told:
            w.told = False
            if result >= 0 and eventfd_read(w.stop, &value) == 0:
                return 0
    return result


# One look at what is readable, and one read of each.
cdef inline int relay_turn(
    relay_socket** sockets, Epoch* epoch, Worker* w, int timeout
) noexcept nogil:
    cdef epoll_event events[EVENTS]
    cdef int i
    cdef int count
    cdef int result
    cdef int total = 0
    count = epoll_wait(w.epoll, events, EVENTS, timeout)
    if count < 0:
        return 0 if errno == EINTR else -errno
    for i in range(count):
        if events[i].data.u32 == STOP_EVENT:
            w.told = True
            continue
        result = _read_at(sockets, epoch, w, events[i].data.u32)
        if result < 0:
            return result
        total += result
    return total


# An event names a place in the table: what was there may be gone, and another socket there by now.
cdef inline int _read_at(
    relay_socket** sockets, Epoch* epoch, Worker* w, uint32_t place
) noexcept nogil:
    cdef relay_socket* s
    cdef int result
    epoch_enter(epoch, w.reader)
    s = <relay_socket*>load_acquire_pointer(&sockets[place])
    result = 0 if s == NULL else _read(w, s)
    epoch_leave(epoch, w.reader)
    return result


cdef inline int _read(Worker* w, relay_socket* s) noexcept nogil:
    cdef epoll_event event
    cdef int result = relay_read(&w.path, s)
    if w.path.refused:
        _notify(w, NOTICE_GSO_REFUSED, s, w.path.refused)
        w.path.refused = 0
    if result < 0:
        epoll_ctl(w.epoll, EPOLL_CTL_DEL, s.fd, &event)
        _notify(w, NOTICE_SOCKET_FAILED, s, s.port)
        if not s.listens:
            return 0
    return result


cdef inline void _notify(
    Worker* w, uint32_t kind, const relay_socket* s, uint32_t argument
) noexcept nogil:
    cdef RingItem item
    memset(&item, 0, sizeof(RingItem))
    item.kind = kind
    item.peer = s.family
    item.argument = argument
    ring_push(<RingBuffer*>w.path.context, &item, NULL, 0)


# Indications, and with one port data of peers, leave half of the ring to requests.
cdef inline void relay_to_python(
    relay_worker* w, const relay_key* key, const uint8_t* data, uint32_t size
) noexcept nogil:
    cdef RingItem item
    cdef RingBuffer* ring = <RingBuffer*>w.context
    memset(&item, 0, sizeof(RingItem))
    item.length = size
    _endpoint(&item.remote, key.family, key.remote, key.port)
    if w.direction == RELAY_TO_CLIENT:
        item.kind = NOTICE_DATA
        item.argument = key.number
        ring_push(ring, &item, data, ring.capacity // 2)
        return
    item.kind = NOTICE_STUN
    _endpoint(&item.local, key.family, key.local, key.number)
    ring_push(ring, &item, data, ring.capacity // 2 if _is_indication(data) else RESERVED)


# The class bits of RFC 8489 section 5; there is a whole header. ChannelData counts as data, too.
cdef inline bint _is_indication(const uint8_t* stun) noexcept nogil:
    if stun[0] >= 0x40:
        return True
    return stun[0] & 0x01 == 0 and stun[1] & 0x10 != 0


cdef inline void _endpoint(
    Endpoint* e, uint8_t family, const uint8_t* address, uint16_t port
) noexcept nogil:
    memcpy(e.address, address, 16)
    e.family = family
    e.port = port


cdef inline Worker* relay_worker_new(
    const relay_tables* tables, RingBuffer* ring, bint gso, uint32_t number
) except NULL:
    cdef Worker* w = NULL
    cdef epoll_event event
    if posix_memalign(<void**>&w, 64, (sizeof(Worker) + 63) // 64 * 64):
        raise MemoryError
    memset(w, 0, sizeof(Worker))
    w.epoll = epoll_create1(EPOLL_CLOEXEC)
    w.stop = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    event.events = EPOLLIN
    event.data.u32 = STOP_EVENT
    if (
        relay_worker_init(&w.path, tables, number) < 0
        or w.epoll < 0
        or w.stop < 0
        or epoll_ctl(w.epoll, EPOLL_CTL_ADD, w.stop, &event) < 0
    ):
        error = errno
        relay_worker_delete(w)
        raise OSError(error, "the event loop of the relay")
    w.path.control = relay_to_python
    w.path.context = ring
    w.path.gso = gso
    w.reader = number
    return w


cdef inline void relay_worker_delete(Worker* w) noexcept:
    relay_worker_free(&w.path)
    if w.epoll >= 0:
        close(w.epoll)
    if w.stop >= 0:
        close(w.stop)
    free(w)
