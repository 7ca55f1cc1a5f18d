# The C parts of the relay's data path, and what their callers share. Nothing to import.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "sys/socket.h" nogil:
    ctypedef unsigned int socklen_t

cdef extern from "relay_table.h" nogil:
    ctypedef struct relay_block:
        relay_block* next
    ctypedef struct relay_key:
        uint8_t remote[16]
        uint8_t local[16]
        uint16_t port
        uint16_t number
        uint8_t family
    ctypedef struct relay_node:
        relay_key key
        void* owner
    ctypedef struct relay_table:
        uint32_t count
    relay_node* relay_table_find(const relay_table*, const relay_key*) noexcept
    int relay_table_insert(relay_table*, relay_node*, relay_block**) noexcept
    void relay_table_remove(relay_table*, relay_node*, relay_block**) noexcept
    void relay_table_each(const relay_table*, void (*)(relay_node*) noexcept) noexcept

cdef extern from "relay_answers.h" nogil:
    enum:
        RELAY_PROLOGUE
        RELAY_ANSWER
        RELAY_NONCE_KEY
    ctypedef enum relay_kind:
        RELAY_BINDING
        RELAY_CHALLENGE
    ctypedef struct relay_prologue:
        uint32_t size
        uint8_t bytes[1]
    ctypedef struct relay_answers:
        relay_prologue of[1]
        uint8_t nonce_key[1]
        uint8_t is_set
        uint8_t deferred[2][65536]
    uint32_t relay_answer(
        const relay_answers*, const relay_key*, const uint8_t*, uint32_t, uint64_t, uint8_t*,
        relay_kind*
    ) noexcept

cdef extern from * nogil:
    ctypedef struct relay_indications "struct relay_indications"

cdef extern from "relay_forward.h" nogil:
    enum:
        RELAY_TO_PEER
        RELAY_TO_CLIENT
        RELAY_ERRNOS
    ctypedef struct relay_socket:
        relay_block block
        int fd
        uint16_t port
        uint8_t family
        uint8_t listens
        uint8_t worker
        uint32_t channels
        uint32_t permits
        uint8_t shared
        uint8_t own[16]
    ctypedef struct relay_channel:
        relay_block block
        relay_node forward
        relay_node back
        relay_socket* listener
        relay_socket* relay
        uint32_t too_large[2]
        uint8_t shared
        uint32_t steers
    ctypedef struct relay_steer:
        relay_block block
        relay_node node
        relay_channel* channel
    ctypedef struct relay_counts:
        uint64_t packets
        uint64_t bytes
        uint64_t sends
        uint64_t unbound
        uint64_t malformed
        uint64_t failed[1]
    ctypedef struct relay_tables:
        relay_table forward
        relay_table back
        relay_table permits
        relay_table steers
        relay_table clients
        relay_answers* answers
        relay_socket** sockets
    ctypedef struct relay_worker:
        void (*control)(
            relay_worker*, const relay_key*, const uint8_t*, uint32_t
        ) noexcept nogil
        void* context
        int gso
        int refused
        int direction
        relay_counts counts[2]
        uint64_t ambiguous
        uint64_t disguised
        uint64_t no_protocol
        uint64_t receive_errors
        uint64_t answered[1]
        uint64_t unanswered
        relay_indications* indications
    int relay_tables_init(relay_tables*, const uint64_t*) noexcept
    void relay_tables_free(relay_tables*) noexcept
    int relay_worker_init(relay_worker*, const relay_tables*, uint32_t) noexcept
    void relay_worker_free(relay_worker*) noexcept
    int relay_socket_prepare(const relay_socket*, int*) noexcept
    bint relay_knows_gso(int) noexcept
    int relay_read(relay_worker*, relay_socket*) noexcept
    void relay_channel_compose(relay_channel*, const uint8_t*) noexcept

cdef extern from "relay_one_port.h" nogil:
    enum:
        RELAY_STEER_INDEX
        RELAY_STEER_UNKNOWN_INDEX
        RELAY_STEER_ANY
        RELAY_STEER_ADDRESS
        RELAY_STEER_CLIENT
    void relay_steer_key(relay_key*, uint8_t, const uint8_t*) noexcept

cdef extern from "relay_indications.h" nogil:
    int relay_permit_add(
        relay_tables*, const relay_key*, const relay_key*, relay_socket*, relay_socket*, int,
        relay_block**
    ) noexcept
    bint relay_permit_remove(relay_tables*, const relay_key*, relay_block**) noexcept
    uint64_t relay_indicated_bytes(const relay_indications*) noexcept
    uint64_t relay_too_long(const relay_indications*) noexcept

# What comes up through the ring.
cdef enum:
    NOTICE_STUN = 1        # a message on a listening socket, with `local` and `remote`; with one
                           # port, ChannelData as well
    NOTICE_SOCKET_FAILED = 2   # of allocation port `argument`, or the listening one; `peer`: its family
    NOTICE_GSO_REFUSED = 3 # by the device, with errno `argument`; it goes on without, on that socket
    NOTICE_DATA = 4        # with one port: of the peer `remote`, to our port `argument`

# A thread's own, in cache lines of its own.
ctypedef struct Worker:
    relay_worker path
    uint32_t reader        # of the epoch
    int epoll
    int stop               # eventfd
    bint told              # to stop: it is readable
    bint running
