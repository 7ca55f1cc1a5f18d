# The relay's data path: channels, sockets, and the loop that forwards between them.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from firezone._ext.epoch cimport Epoch
from firezone._ext.relay_path cimport (
    Worker, relay_block, relay_channel, relay_key, relay_kind, relay_socket, relay_tables,
)

# Each worker's loop has a thread, one other thread (Python) calls everything else.
cdef class Forwarder:
    cdef relay_tables tables
    cdef Worker** workers
    cdef uint32_t count
    cdef relay_socket** sockets    # of allocations by family and port, then listening ones
    cdef relay_block* retired
    cdef Epoch epoch
    cdef tuple _rings
    cdef int _gro
    cdef uint64_t _answered(self, relay_kind kind)
    cdef tuple _traffic(self, int direction)
    cdef Worker* _worker(self, int number) except NULL
    cdef relay_socket* _socket(self, int family, int port) except? NULL
    cdef int _enter(self, Worker* w) except -1
    cdef int _bind(
        self,
        const relay_key* forward,
        const relay_key* back,
        relay_socket* listener,
        relay_socket* relay,
        const uint8_t* source,
    ) except -1
    cdef relay_socket* _listener(self, int worker, int family, int port) except NULL
    cdef int _steer(self, const relay_key* key, relay_channel* channel) except -1
    cdef int _unbind(self, relay_channel* channel) except -1
