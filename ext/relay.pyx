"""The relay's data path: both directions of bound channels, without Python."""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from firezone._ext.atomics cimport (
    load_relaxed_u64,
    store_relaxed_u8,
    store_relaxed_u32,
    store_release_pointer,
)
from firezone._ext.epoch cimport EpochMark, epoch_mark, epoch_passed
from firezone._ext.relay_loop cimport (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLIN,
    SOCKETS,
    WORKERS,
    epoll_ctl,
    epoll_event,
    eventfd_write,
    relay_listener_place,
    relay_place,
    relay_run,
    relay_turn,
    relay_worker_delete,
    relay_worker_new,
)
from firezone._ext.relay_path cimport *
from firezone._ext.ring cimport Ring

import enum
import errno as errors
from collections import Counter

cdef extern from "time.h" nogil:
    ctypedef struct timespec "struct timespec":
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec*, timespec*)

cdef enum:
    NAP = 20_000           # ns between looks whether the loop has gone on
    NEVER = 0xFFFFFFFF


MAX_WORKERS = WORKERS


class Notice(enum.IntEnum):
    STUN = NOTICE_STUN
    SOCKET_FAILED = NOTICE_SOCKET_FAILED
    GSO_REFUSED = NOTICE_GSO_REFUSED
    DATA = NOTICE_DATA


@cython.final
cdef class Forwarder:
    """See relay.pyi."""

    def __cinit__(self, bytes secret not None, *rings, bint gso=True, bint gro=True):
        cdef uint64_t words[2]
        cdef Ring ring
        if len(secret) != 16:
            raise ValueError("the secret of a forwarder has 16 bytes")
        if not 0 < len(rings) <= WORKERS:
            raise ValueError(f"a forwarder has 1 to {WORKERS} workers")
        memcpy(words, <const char*>secret, 16)
        self._gro = gro
        self._rings = rings
        self.sockets = <relay_socket**>calloc(SOCKETS, sizeof(relay_socket*))
        self.workers = <Worker**>calloc(WORKERS, sizeof(Worker*))
        if self.sockets == NULL or self.workers == NULL or relay_tables_init(&self.tables, words) < 0:
            raise MemoryError
        self.tables.sockets = self.sockets
        for ring in rings:
            self.workers[self.count] = relay_worker_new(&self.tables, &ring.ring, gso, self.count)
            self.count += 1

    def __dealloc__(self):
        cdef int i
        _free_all(self.retired)
        relay_table_each(&self.tables.forward, _free_owner)
        relay_table_each(&self.tables.permits, _free_owner)
        relay_table_each(&self.tables.steers, _free_owner)
        relay_table_each(&self.tables.clients, _free_owner)
        if self.sockets != NULL:
            for i in range(SOCKETS):
                free(self.sockets[i])
            free(self.sockets)
        for i in range(<int>self.count):
            relay_worker_delete(self.workers[i])
        free(self.workers)
        relay_tables_free(&self.tables)

    def __len__(self):
        return self.tables.forward.count

    @property
    def gso(self):
        return bool(self.workers[0].path.gso)

    @property
    def gro(self):
        return bool(self._gro)

    @property
    def workers(self):
        return self.count

    def add(
        self,
        int fd,
        int family,
        int port,
        bint listens=False,
        int worker=0,
        bytes own=None,
    ):
        cdef relay_socket* s = self._socket(family, port)
        cdef Worker* w = self._worker(worker)
        cdef epoll_event event
        cdef int result
        event.events = EPOLLIN
        event.data.u32 = relay_listener_place(worker, family) if listens else relay_place(family, port)
        if s != NULL or self.sockets[event.data.u32] != NULL:
            raise ValueError("there is a socket of that family and port")
        s = <relay_socket*>calloc(1, sizeof(relay_socket))
        if s == NULL:
            raise MemoryError
        s.fd = fd
        s.family = family
        s.port = port
        s.listens = listens
        s.worker = <uint8_t>worker
        if own is not None:
            s.shared = True
            memcpy(s.own, <const char*>own, _size(family, own))
        result = relay_socket_prepare(s, &self._gro)
        if result < 0:
            free(s)
            raise OSError(-result, "a socket of the relay")
        if not relay_knows_gso(fd):
            for i in range(self.count):
                self.workers[i].path.gso = False
        store_release_pointer(&self.sockets[event.data.u32], s)
        if epoll_ctl(w.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            result = errno
            store_release_pointer(&self.sockets[event.data.u32], NULL)
            _retire(&self.retired, &s.block)
            raise OSError(result, "a socket of the relay")

    def remove(self, int family, int port):
        cdef relay_socket* s = self._socket(family, port)
        cdef epoll_event event
        if s == NULL or s.channels or s.permits:
            raise ValueError("no socket of that family and port, or one with channels or permits")
        epoll_ctl(self.workers[s.worker].epoll, EPOLL_CTL_DEL, s.fd, &event)
        store_release_pointer(&self.sockets[relay_place(family, port)], NULL)
        _retire(&self.retired, &s.block)

    def bind(
        self,
        tuple client not None,
        tuple local not None,
        int number,
        int port,
        tuple peer not None,
        int worker=-1,
        bytes source=None,
    ):
        cdef relay_key forward
        cdef relay_key back
        cdef relay_channel* old
        cdef relay_channel* other
        cdef relay_socket* relay
        cdef uint8_t from_address[16]
        _key(&forward, client, local, number)
        _key(&back, peer, None, port)
        if not 0x4000 <= number <= 0x7FFF:
            raise ValueError("a channel number is 0x4000 to 0x7FFF")
        memset(from_address, 0, 16)
        if source is not None:
            memcpy(from_address, <const char*>source, _size(peer[0], source))
        if worker < 0:
            relay = self._socket(peer[0], port)
            if relay == NULL:
                raise ValueError("no socket for this channel")
            worker = relay.worker
        else:
            relay = self._listener(worker, peer[0], local[2])
            if not relay.shared:
                raise ValueError("not a socket of all allocations")
        listener = self._listener(worker, client[0], local[2])
        old = _owner(relay_table_find(&self.tables.forward, &forward))
        other = _owner(relay_table_find(&self.tables.back, &back))
        if other != NULL and other != old:
            raise ValueError("the peer has another channel on this port")
        if old != NULL and old == other:
            store_relaxed_u32(&old.too_large[RELAY_TO_PEER], NEVER)
            store_relaxed_u32(&old.too_large[RELAY_TO_CLIENT], NEVER)
            return
        if old != NULL and old.steers:
            raise ValueError("a channel that something is steered to")
        if old != NULL:
            self._unbind(old)
        self._bind(
            &forward, &back, listener, relay, NULL if source is None else from_address
        )

    def unbind(self, tuple client not None, tuple local not None, int number):
        cdef relay_key forward
        cdef relay_channel* channel
        _key(&forward, client, local, number)
        channel = _owner(relay_table_find(&self.tables.forward, &forward))
        if channel == NULL:
            return False
        if channel.steers:
            raise ValueError("a channel that something is steered to")
        self._unbind(channel)
        return True

    def steer(
        self,
        tuple peer not None,
        int64_t index,
        tuple client=None,
        tuple local=None,
        int number=0,
    ):
        cdef relay_key key
        cdef relay_key forward
        cdef relay_channel* channel = NULL
        _steer_key(&key, peer, index)
        if client is not None:
            _key(&forward, client, local, number)
            channel = _owner(relay_table_find(&self.tables.forward, &forward))
            if channel == NULL or not channel.shared:
                raise ValueError("no channel to steer to")
        self._steer(&key, channel)

    def unsteer(self, tuple peer not None, int64_t index):
        cdef relay_key key
        cdef relay_node* node
        cdef relay_steer* steer
        _steer_key(&key, peer, index)
        node = relay_table_find(&self.tables.steers, &key)
        if node == NULL:
            return False
        steer = <relay_steer*>node.owner
        relay_table_remove(&self.tables.steers, node, &self.retired)
        if steer.channel != NULL:
            steer.channel.steers -= 1
        _retire(&self.retired, &steer.block)
        return True

    def permit(
        self,
        tuple client not None,
        tuple local not None,
        int port,
        int family,
        bytes address not None,
        bint any_port=True,
    ):
        cdef relay_key whole
        cdef relay_key peer
        cdef relay_socket* relay = self._socket(family, port)
        cdef relay_socket* listener = NULL
        _permit_key(&peer, family, address, port)
        _key(&whole, client, local, local[2])
        if relay != NULL:
            listener = self.sockets[relay_listener_place(relay.worker, client[0])]
        if listener == NULL or listener.port != local[2]:
            raise ValueError("no socket for this permission")
        result = relay_permit_add(
            &self.tables, &whole, &peer, listener, relay, any_port, &self.retired
        )
        if result == -1:
            raise MemoryError
        if result < 0:
            raise ValueError("the client has another allocation, or the allocation another client")

    def forbid(self, int family, bytes address not None, int port):
        cdef relay_key peer
        _permit_key(&peer, family, address, port)
        return bool(relay_permit_remove(&self.tables, &peer, &self.retired))

    def answer_strangers(
        self, bytes binding not None, bytes challenge not None, bytes nonce_key not None
    ):
        cdef relay_answers* answers = self.tables.answers
        if len(nonce_key) != RELAY_NONCE_KEY:
            raise ValueError(f"a key for nonces has {RELAY_NONCE_KEY} bytes")
        if any(self.workers[i].running for i in range(self.count)):
            raise ValueError("the forwarder runs already")
        _prologue(&answers.of[<int>RELAY_BINDING], binding)
        _prologue(&answers.of[<int>RELAY_CHALLENGE], challenge)
        memcpy(answers.nonce_key, <const char*>nonce_key, RELAY_NONCE_KEY)
        answers.is_set = True

    def defer(self, int family, int port, bint is_deferred):
        if family not in (4, 6) or not 0 < port <= 0xFFFF:
            raise ValueError("no family and port")
        store_relaxed_u8(&self.tables.answers.deferred[family == 6][port], is_deferred)

    def answer(
        self,
        bytes request not None,
        tuple client not None,
        tuple local not None,
        int64_t now,
    ):
        cdef relay_key key
        cdef relay_kind kind
        cdef uint8_t out[RELAY_ANSWER]
        cdef const char* data = request
        cdef uint32_t size
        _key(&key, client, local, local[2])
        size = relay_answer(
            self.tables.answers, &key, <const uint8_t*>data, <uint32_t>len(request),
            <uint64_t>(now // 1_000_000_000), out, &kind,
        )
        return out[:size] if size else None

    def answered(self):
        return (self._answered(RELAY_BINDING), self._answered(RELAY_CHALLENGE))

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

    def run(self, int worker=0):
        cdef Worker* w = self._worker(worker)
        cdef int result
        self._enter(w)
        with nogil:
            result = relay_run(self.sockets, &self.epoch, w)
        w.running = False
        if result < 0:
            raise OSError(-result, "a listening socket of the relay")

    def turn(self, int worker=0):
        cdef Worker* w = self._worker(worker)
        cdef int result
        self._enter(w)
        with nogil:
            result = relay_turn(self.sockets, &self.epoch, w, 0)
        w.running = False
        return max(result, 0)

    def stop(self):
        for i in range(self.count):
            eventfd_write(self.workers[i].stop, 1)

    def traffic(self):
        return (self._traffic(RELAY_TO_PEER), self._traffic(RELAY_TO_CLIENT))

    def indicated(self):
        total = 0
        for i in range(self.count):
            total += relay_indicated_bytes(self.workers[i].path.indications)
        return total

    def loads(self):
        return [
            load_relaxed_u64(&self.workers[i].path.counts[RELAY_TO_PEER].packets)
            + load_relaxed_u64(&self.workers[i].path.counts[RELAY_TO_CLIENT].packets)
            for i in range(self.count)
        ]

    def drops(self):
        found = Counter(control_overflow=sum(ring.dropped for ring in self._rings))
        for i in range(self.count):
            _drops(found, &self.workers[i].path)
        return {reason: count for reason, count in found.items() if count}

    cdef uint64_t _answered(self, relay_kind kind):
        cdef uint64_t total = 0
        for i in range(self.count):
            total += load_relaxed_u64(&self.workers[i].path.answered[<int>kind])
        return total

    cdef tuple _traffic(self, int direction):
        cdef const relay_counts* counts
        packets = size = sends = 0
        for i in range(self.count):
            counts = &self.workers[i].path.counts[direction]
            packets += load_relaxed_u64(&counts.packets)
            size += load_relaxed_u64(&counts.bytes)
            sends += load_relaxed_u64(&counts.sends)
        return (packets, size, sends)

    cdef Worker* _worker(self, int number) except NULL:
        if not 0 <= number < <int>self.count:
            raise ValueError("no worker of that number")
        return self.workers[number]

    cdef relay_socket* _socket(self, int family, int port) except? NULL:
        if family not in (4, 6) or not 0 < port <= 0xFFFF:
            raise ValueError("no family and port")
        return self.sockets[relay_place(family, port)]

    cdef int _enter(self, Worker* w) except -1:
        if w.running:
            raise ValueError("the forwarder runs already")
        w.running = True
        return 0

    cdef int _bind(
        self,
        const relay_key* forward,
        const relay_key* back,
        relay_socket* listener,
        relay_socket* relay,
        const uint8_t* source,
    ) except -1:
        cdef relay_channel* channel = <relay_channel*>calloc(1, sizeof(relay_channel))
        if channel == NULL:
            raise MemoryError
        channel.forward.key = forward[0]
        channel.back.key = back[0]
        channel.listener = listener
        channel.relay = relay
        channel.shared = relay.listens
        relay_channel_compose(channel, source)
        if relay_table_insert(&self.tables.back, &channel.back, &self.retired) < 0:
            free(channel)
            raise MemoryError
        relay.channels += 1
        listener.channels += 1
        if relay_table_insert(&self.tables.forward, &channel.forward, &self.retired) < 0:
            self._unbind(channel)
            raise MemoryError
        return 0

    cdef int _steer(self, const relay_key* key, relay_channel* channel) except -1:
        cdef relay_node* node = relay_table_find(&self.tables.steers, key)
        cdef relay_steer* steer
        if node == NULL:
            steer = <relay_steer*>calloc(1, sizeof(relay_steer))
            if steer == NULL:
                raise MemoryError
            steer.node.key = key[0]
            steer.node.owner = steer
            steer.channel = channel
            if relay_table_insert(&self.tables.steers, &steer.node, &self.retired) < 0:
                free(steer)
                raise MemoryError
        else:
            steer = <relay_steer*>node.owner
            if steer.channel != NULL:
                steer.channel.steers -= 1
            store_release_pointer(&steer.channel, channel)
        if channel != NULL:
            channel.steers += 1
        return 0

    cdef relay_socket* _listener(self, int worker, int family, int port) except NULL:
        cdef relay_socket* s
        self._worker(worker)
        s = self.sockets[relay_listener_place(worker, family)]
        if s == NULL or s.port != port:
            raise ValueError("no socket that listens")
        return s

    cdef int _unbind(self, relay_channel* channel) except -1:
        relay_table_remove(&self.tables.forward, &channel.forward, &self.retired)
        relay_table_remove(&self.tables.back, &channel.back, &self.retired)
        channel.relay.channels -= 1
        channel.listener.channels -= 1
        _retire(&self.retired, &channel.block)
        return 0


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


cdef int _prologue(relay_prologue* prologue, bytes data) except -1:
    if not 20 <= len(data) <= RELAY_PROLOGUE:
        raise ValueError(f"an answer begins with 20 to {RELAY_PROLOGUE} bytes")
    prologue.size = <uint32_t>len(data)
    memcpy(prologue.bytes, <const char*>data, prologue.size)
    return 0


cdef int _permit_key(relay_key* key, int family, bytes address, int port) except -1:
    _key(key, (family, address, 1), None, port)
    key.port = 0
    return 0


cdef int _steer_key(relay_key* key, tuple peer, int64_t index) except -1:
    cdef uint8_t sent[4]
    cdef int i
    if not -4 <= index <= 0xFFFFFFFF:
        raise ValueError("an index has 32 bits")
    if index == -3:
        peer = (*peer[:2], 1)
    _key(key, peer, None, 1)
    for i in range(4):
        sent[i] = <uint8_t>(index >> 8 * i & 0xFF)
    if index >= 0:
        relay_steer_key(key, RELAY_STEER_INDEX, sent)
    elif index == -1:
        relay_steer_key(key, RELAY_STEER_ANY, NULL)
    elif index == -2:
        relay_steer_key(key, RELAY_STEER_UNKNOWN_INDEX, NULL)
    elif index == -3:
        relay_steer_key(key, RELAY_STEER_ADDRESS, NULL)
    else:
        relay_steer_key(key, RELAY_STEER_CLIENT, NULL)
    return 0


cdef int _size(int family, bytes address) except -1:
    if (family, len(address)) not in ((4, 4), (6, 16)):
        raise ValueError("not an address of its family")
    return <int>len(address)


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


cdef int _drops(found, const relay_worker* w) except -1:
    found["control_overflow"] += load_relaxed_u64(&w.unanswered)
    found["unbound_channel"] += load_relaxed_u64(&w.counts[RELAY_TO_PEER].unbound)
    found["unbound_peer"] += load_relaxed_u64(&w.counts[RELAY_TO_CLIENT].unbound)
    found["truncated"] += load_relaxed_u64(&w.counts[RELAY_TO_PEER].malformed)
    found["ambiguous_peer"] += load_relaxed_u64(&w.ambiguous)
    found["disguised"] += load_relaxed_u64(&w.disguised)
    found["data_too_long"] += relay_too_long(w.indications)
    found["unknown_protocol"] += load_relaxed_u64(&w.no_protocol)
    found["receive"] += load_relaxed_u64(&w.receive_errors)
    _failures(found, "send_to_peer", &w.counts[RELAY_TO_PEER])
    _failures(found, "send_to_client", &w.counts[RELAY_TO_CLIENT])
    return 0


cdef int _failures(found, str what, const relay_counts* counts) except -1:
    cdef int number
    for number in range(RELAY_ERRNOS):
        count = load_relaxed_u64(&counts.failed[number])
        if count:
            found[f"{what}_{errors.errorcode.get(number, 'unknown')}"] += count
    return 0
