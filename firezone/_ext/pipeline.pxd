# The order of the stages, by worker, and what Python tells them.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from firezone._ext.batch cimport Batch, PacketBatch
from firezone._ext.demux cimport Demux, DemuxState
from firezone._ext.epoch cimport Epoch
from firezone._ext.flow_table cimport FlowTable
from firezone._ext.flows cimport Flows
from firezone._ext.lanes cimport Lane, LaneState, Slots
from firezone._ext.paths cimport Paths, PathTable
from firezone._ext.ring cimport RingBuffer
from firezone._ext.session cimport Sessions
from firezone._ext.session_table cimport SessionTable
from firezone._ext.steering cimport MAX_WORKERS
from firezone._ext.tun cimport Tun, TunIo
from firezone._ext.udp cimport UdpIo, UdpSockets

cdef enum:
    CALLS = 4              # kinds of calls to the kernel

# What all workers share; they only read it.
ctypedef struct PipelineState:
    SessionTable* sessions
    FlowTable* flows
    PathTable* paths
    Epoch* epoch
    uint32_t mtu
    bint pass_fragments
    uint32_t workers
    uint32_t stopping
    Slots slots

# A pair of threads: `up` from its queue of the TUN device to its sockets, `down` the other way.
ctypedef struct Worker:
    PipelineState* shared
    uint32_t number
    LaneState* up
    LaneState* down
    DemuxState* demux      # of `down`, as are the rates in it
    RingBuffer* handed_over[MAX_WORKERS]  # to each of the others; NULL to itself
    RingBuffer* taken_over[MAX_WORKERS]   # from each of them
    TunIo* tun
    UdpIo* udp
    uint64_t calls[CALLS]  # to the kernel, by descriptors that were attached before

# IP packets to datagrams, and back.
cdef void outbound(Worker* w, Batch* b, int64_t now) noexcept nogil
cdef void inbound(Worker* w, Batch* b, int64_t now) noexcept nogil

# The same for what came through a ring; False when nothing did.
cdef bint injected_up(Worker* w, Batch* b, int64_t now) noexcept nogil
cdef bint injected_down(Worker* w, Batch* b, int64_t now) noexcept nogil
cdef bint taken_over(Worker* w, Batch* b, int64_t now) noexcept nogil


cdef class Pipeline:
    cdef PipelineState state
    cdef Worker workers[MAX_WORKERS]
    cdef list batches_up        # by worker, as all of these
    cdef list batches_down
    cdef Sessions _sessions
    cdef Flows _flows
    cdef Paths _paths
    cdef tuple _demuxes
    cdef list _lanes_up
    cdef list _lanes_down
    cdef list _lanes            # all, in the order of their turns
    cdef list _between          # the rings among workers
    cdef list _tuns
    cdef list _sockets
    cdef uint32_t _turn
    cdef int _wake_fd
    cdef int _add_worker(self, uint32_t number, Demux demux, dict budget) except -1
    cdef int _connect(self) except -1
    cdef list _calls(self, uint32_t number)
    cdef bint _inject(self, Lane lane, uint32_t kind, uint32_t slot, bytes packet) except -1
    cdef uint32_t _owner(self, uint32_t slot) noexcept
    cdef int _check(self, uint32_t slot) except -1
    cdef Worker* _worker(self, uint32_t number) except NULL
