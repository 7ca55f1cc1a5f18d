"""The relay's data path: both directions of bound channels, without Python."""

cimport cython
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from firezone._ext.atomics cimport (
    load_acquire_pointer,
    load_relaxed_u64,
    store_relaxed_u32,
    store_release_pointer,
)
from firezone._ext.batch cimport Endpoint
from firezone._ext.epoch cimport (
    EpochMark, epoch_enter, epoch_leave, epoch_mark, epoch_passed, reader_up,
)
from firezone._ext.ring cimport Ring, RingBuffer, RingItem, ring_push

import errno as errors

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

cdef extern from "time.h" nogil:
    ctypedef struct timespec "struct timespec":
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec*, timespec*)

cdef enum:
    SOCKETS = 2 << 16      # families and ports
    STOP_EVENT = SOCKETS   # the one that is no socket's
    EVENTS = 64
    RESERVED = 16          # places in the ring that STUN leaves for what must not be lost
    NAP = 20_000           # ns between looks whether the loop has gone on
    NEVER = 0xFFFFFFFF


@cython.final
cdef class Forwarder:
    """See relay.pyi."""

    def __cinit__(self, bytes secret not None, Ring ring not None, *, bint gso=True, bint gro=True):
        cdef epoll_event event
        cdef uint64_t words[2]
        if len(secret) != 16:
            raise ValueError("the secret of a forwarder has 16 bytes")
        memcpy(words, <const char*>secret, 16)
        self._epoll = self._stop = -1
        self._ring = ring
        self._gro = gro
        self.sockets = <relay_socket**>calloc(SOCKETS, sizeof(relay_socket*))
        if relay_worker_init(&self.worker, words) < 0 or self.sockets == NULL:
            raise MemoryError
        self.worker.control = _to_python
        self.worker.context = &ring.ring
        self.worker.gso = gso
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        self._stop = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        event.events = EPOLLIN
        event.data.u32 = STOP_EVENT
        if self._epoll < 0 or self._stop < 0:
            raise OSError(errno, "the event loop of the relay")
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, self._stop, &event) < 0:
            raise OSError(errno, "the event loop of the relay")

    def __dealloc__(self):
        _free_all(self.retired)
        relay_table_each(&self.worker.forward, _free_owner)
        relay_table_each(&self.worker.permits, _free_owner)
        if self.sockets != NULL:
            for i in range(SOCKETS):
                free(self.sockets[i])
            free(self.sockets)
        relay_worker_free(&self.worker)
        if self._epoll >= 0:
            close(self._epoll)
        if self._stop >= 0:
            close(self._stop)

    def __len__(self):
        return self.worker.forward.count

    @property
    def gso(self):
        return bool(self.worker.gso)

    @property
    def gro(self):
        return bool(self._gro)

    def add(self, int fd, int family, int port, bint listens=False):
        cdef relay_socket* s
        cdef epoll_event event
        cdef int result
        if self._socket(family, port) != NULL:
            raise ValueError("there is a socket of that family and port")
        s = <relay_socket*>calloc(1, sizeof(relay_socket))
        if s == NULL:
            raise MemoryError
        s.fd = fd
        s.family = family
        s.port = port
        s.listens = listens
        result = relay_socket_prepare(s, &self._gro)
        if result < 0:
            free(s)
            raise OSError(-result, "a socket of the relay")
        if self.worker.gso and not relay_knows_gso(fd):
            self.worker.gso = False
        event.events = EPOLLIN
        event.data.u32 = _index(family, port)
        store_release_pointer(&self.sockets[event.data.u32], s)
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            result = errno
            store_release_pointer(&self.sockets[event.data.u32], NULL)
            _retire(&self.retired, &s.block)
            raise OSError(result, "a socket of the relay")

    def remove(self, int family, int port):
        cdef relay_socket* s = self._socket(family, port)
        cdef epoll_event event
        if s == NULL or s.channels or s.permits:
            raise ValueError("no socket of that family and port, or one with channels or permits")
        epoll_ctl(self._epoll, EPOLL_CTL_DEL, s.fd, &event)
        store_release_pointer(&self.sockets[_index(family, port)], NULL)
        _retire(&self.retired, &s.block)

    def bind(
        self, tuple client not None, tuple local not None, int number, int port, tuple peer not None
    ):
        cdef relay_key forward
        cdef relay_key back
        cdef relay_channel* old
        cdef relay_channel* other
        cdef relay_socket* listener
        cdef relay_socket* relay
        _key(&forward, client, local, number)
        _key(&back, peer, None, port)
        listener = self._socket(client[0], local[2])
        relay = self._socket(peer[0], port)
        if not 0x4000 <= number <= 0x7FFF:
            raise ValueError("a channel number is 0x4000 to 0x7FFF")
        if listener == NULL or not listener.listens or relay == NULL or relay.listens:
            raise ValueError("no socket for this channel")
        old = _owner(relay_table_find(&self.worker.forward, &forward))
        other = _owner(relay_table_find(&self.worker.back, &back))
        if other != NULL and other != old:
            raise ValueError("the peer has another channel on this port")
        if old != NULL and old == other:
            store_relaxed_u32(&old.too_large[RELAY_TO_PEER], NEVER)
            store_relaxed_u32(&old.too_large[RELAY_TO_CLIENT], NEVER)
            return
        if old != NULL:
            self._unbind(old)
        self._bind(&forward, &back, listener, relay)

    def unbind(self, tuple client not None, tuple local not None, int number):
        cdef relay_key forward
        cdef relay_channel* channel
        _key(&forward, client, local, number)
        channel = _owner(relay_table_find(&self.worker.forward, &forward))
        if channel == NULL:
            return False
        self._unbind(channel)
        return True

    def permit(self, int family, bytes address not None, int port):
        cdef relay_key key
        cdef relay_permit* permit
        cdef relay_socket* relay = self._socket(family, port)
        _permit_key(&key, family, address, port)
        if relay == NULL or relay.listens:
            raise ValueError("no socket for this permission")
        if relay_table_find(&self.worker.permits, &key) != NULL:
            return
        permit = <relay_permit*>calloc(1, sizeof(relay_permit))
        if permit == NULL:
            raise MemoryError
        permit.node.key = key
        permit.node.owner = permit
        permit.relay = relay
        if relay_table_insert(&self.worker.permits, &permit.node, &self.retired) < 0:
            free(permit)
            raise MemoryError
        store_relaxed_u32(&relay.permits, relay.permits + 1)

    def forbid(self, int family, bytes address not None, int port):
        cdef relay_key key
        cdef relay_node* node
        cdef relay_permit* permit
        _permit_key(&key, family, address, port)
        node = relay_table_find(&self.worker.permits, &key)
        if node == NULL:
            return False
        permit = <relay_permit*>node.owner
        relay_table_remove(&self.worker.permits, node, &self.retired)
        store_relaxed_u32(&permit.relay.permits, permit.relay.permits - 1)
        _retire(&self.retired, &permit.block)
        return True

    def settle(self, int64_t timeout=100_000_000):
        cdef EpochMark mark
        cdef timespec nap
        cdef bint passed
        if self.retired == NULL:
            return True
        mark = epoch_mark(&self.epoch)
        passed = epoch_passed(&self.epoch, mark)
        if not passed:
            nap.tv_sec = 0
            nap.tv_nsec = NAP
            with nogil:
                while not passed and timeout > 0:
                    nanosleep(&nap, NULL)
                    timeout -= NAP
                    passed = epoch_passed(&self.epoch, mark)
        if passed:
            _free_all(self.retired)
            self.retired = NULL
        return passed

    def run(self):
        cdef int result
        self._enter()
        with nogil:
            result = _loop(self)
        self._running = False
        if result < 0:
            raise OSError(-result, "a listening socket of the relay")

    def turn(self):
        cdef int result
        self._enter()
        with nogil:
            result = _turn(self, 0)
        self._running = False
        return max(result, 0)

    def stop(self):
        eventfd_write(self._stop, 1)

    def traffic(self):
        return (
            _traffic(&self.worker.counts[RELAY_TO_PEER]),
            _traffic(&self.worker.counts[RELAY_TO_CLIENT]),
        )

    def drops(self):
        cdef relay_worker* w = &self.worker
        found = {
            "unbound_channel": load_relaxed_u64(&w.counts[RELAY_TO_PEER].unbound),
            "unbound_peer": load_relaxed_u64(&w.counts[RELAY_TO_CLIENT].unbound),
            "truncated": load_relaxed_u64(&w.counts[RELAY_TO_PEER].malformed),
            "unknown_protocol": load_relaxed_u64(&w.no_protocol),
            "receive": load_relaxed_u64(&w.receive_errors),
            "control_overflow": self._ring.dropped,
        }
        _failures(found, "send_to_peer", &w.counts[RELAY_TO_PEER])
        _failures(found, "send_to_client", &w.counts[RELAY_TO_CLIENT])
        return {reason: count for reason, count in found.items() if count}

    cdef relay_socket* _socket(self, int family, int port) except? NULL:
        if family not in (4, 6) or not 0 < port <= 0xFFFF:
            raise ValueError("no family and port")
        return self.sockets[_index(family, port)]

    cdef int _enter(self) except -1:
        if self._running:
            raise ValueError("the forwarder runs already")
        self._running = True
        return 0

    cdef int _bind(
        self,
        const relay_key* forward,
        const relay_key* back,
        relay_socket* listener,
        relay_socket* relay,
    ) except -1:
        cdef relay_channel* channel = <relay_channel*>calloc(1, sizeof(relay_channel))
        if channel == NULL:
            raise MemoryError
        channel.forward.key = forward[0]
        channel.back.key = back[0]
        channel.listener = listener
        channel.relay = relay
        relay_channel_compose(channel)
        if relay_table_insert(&self.worker.back, &channel.back, &self.retired) < 0:
            free(channel)
            raise MemoryError
        relay.channels += 1
        listener.channels += 1
        if relay_table_insert(&self.worker.forward, &channel.forward, &self.retired) < 0:
            self._unbind(channel)
            raise MemoryError
        return 0

    cdef int _unbind(self, relay_channel* channel) except -1:
        relay_table_remove(&self.worker.forward, &channel.forward, &self.retired)
        relay_table_remove(&self.worker.back, &channel.back, &self.retired)
        channel.relay.channels -= 1
        channel.listener.channels -= 1
        _retire(&self.retired, &channel.block)
        return 0


# Until told to stop (0), or until a listening socket is of no more use (-errno).
cdef int _loop(Forwarder f) noexcept nogil:
    cdef int result = 0
    cdef uint64_t value
    while result >= 0:
        result = _turn(f, -1)
        if result >= 0 and eventfd_read(f._stop, &value) == 0:
            return 0
    return result


# One look at what is readable, and one read of each. An event names a place in the table: what was
# there may be gone, and another socket there by now.
cdef int _turn(Forwarder f, int timeout) noexcept nogil:
    cdef epoll_event events[EVENTS]
    cdef relay_socket* s
    cdef int i
    cdef int result
    cdef int total = 0
    cdef int count = epoll_wait(f._epoll, events, EVENTS, timeout)
    if count < 0:
        return 0 if errno == EINTR else -errno
    for i in range(count):
        if events[i].data.u32 >= SOCKETS:
            continue
        epoch_enter(&f.epoch, reader_up(0))
        s = <relay_socket*>load_acquire_pointer(&f.sockets[events[i].data.u32])
        result = 0 if s == NULL else _read(f, s)
        epoch_leave(&f.epoch, reader_up(0))
        if result < 0:
            return result
        total += result
    return total


cdef int _read(Forwarder f, relay_socket* s) noexcept nogil:
    cdef epoll_event event
    cdef int result = relay_read(&f.worker, s)
    if f.worker.refused:
        _notify(f, GSO_REFUSED, s, f.worker.refused)
        f.worker.refused = 0
    if result < 0:
        epoll_ctl(f._epoll, EPOLL_CTL_DEL, s.fd, &event)
        _notify(f, SOCKET_FAILED, s, s.port)
        if not s.listens:
            return 0
    return result


cdef void _notify(Forwarder f, uint32_t kind, const relay_socket* s, uint32_t argument) noexcept nogil:
    cdef RingItem item
    memset(&item, 0, sizeof(RingItem))
    item.kind = kind
    item.peer = s.family
    item.argument = argument
    ring_push(&f._ring.ring, &item, NULL, 0)


cdef void _to_python(
    relay_worker* w, const relay_key* key, const uint8_t* data, uint32_t size
) noexcept nogil:
    cdef RingItem item
    cdef RingBuffer* ring = <RingBuffer*>w.context
    memset(&item, 0, sizeof(RingItem))
    item.length = size
    _endpoint(&item.remote, key.family, key.remote, key.port)
    if w.direction == RELAY_TO_CLIENT:
        item.kind = DATA
        item.argument = key.number
        # What peers send leaves half of the ring to the clients, whose requests come with it.
        ring_push(ring, &item, data, ring.capacity // 2)
        return
    item.kind = STUN
    _endpoint(&item.local, key.family, key.local, key.number)
    ring_push(ring, &item, data, RESERVED)


cdef inline void _endpoint(
    Endpoint* e, uint8_t family, const uint8_t* address, uint16_t port
) noexcept nogil:
    memcpy(e.address, address, 16)
    e.family = family
    e.port = port


cdef inline uint32_t _index(int family, int port) noexcept nogil:
    return <uint32_t>((family == 6) << 16 | port)


cdef inline relay_channel* _owner(relay_node* node) noexcept:
    return NULL if node == NULL else <relay_channel*>node.owner


cdef inline void _retire(relay_block** retired, relay_block* block) noexcept:
    block.next = retired[0]
    retired[0] = block


cdef void _free_all(relay_block* block) noexcept:
    cdef relay_block* next
    while block != NULL:
        next = block.next
        free(block)
        block = next


cdef void _free_owner(relay_node* node) noexcept nogil:
    free(node.owner)


cdef int _permit_key(relay_key* key, int family, bytes address, int port) except -1:
    _key(key, (family, address, 1), None, port)
    key.port = 0
    return 0


cdef int _key(relay_key* key, tuple remote, tuple local, int number) except -1:
    cdef bytes packed
    memset(key, 0, sizeof(relay_key))
    family, packed, port = remote
    size = len(packed)
    if (family, size) not in ((4, 4), (6, 16)):
        raise ValueError("not an address of its family")
    if not 0 < port <= 0xFFFF or not 0 < number <= 0xFFFF:
        raise ValueError("port or number out of range")
    key.family = family
    key.port = port
    key.number = number
    memcpy(key.remote, <const char*>packed, size)
    if local is not None:
        own_family, packed, _ = local
        if (own_family, len(packed)) != (family, size):
            raise ValueError("a client and the address that it sends to are of one family")
        memcpy(key.local, <const char*>packed, size)
    return 0


cdef tuple _traffic(const relay_counts* counts):
    return (
        load_relaxed_u64(&counts.packets),
        load_relaxed_u64(&counts.bytes),
        load_relaxed_u64(&counts.sends),
    )


cdef void _failures(dict found, str what, const relay_counts* counts):
    cdef int number
    for number in range(RELAY_ERRNOS):
        count = load_relaxed_u64(&counts.failed[number])
        if count:
            found[f"{what}_{errors.errorcode.get(number, 'unknown')}"] = count
