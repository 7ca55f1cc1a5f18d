# The order of the stages, the loops of the two data threads, and what passes between them and Python.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from firezone._ext.batch cimport VERDICTS, Batch, PacketBatch
from firezone._ext.demux cimport Demux, DemuxState
from firezone._ext.epoch cimport Epoch
from firezone._ext.flows cimport Flows, FlowTable
from firezone._ext.paths cimport Paths, PathTable
from firezone._ext.ring cimport Ring, RingBuffer
from firezone._ext.session cimport Sessions, SessionTable
from firezone._ext.tun cimport Tun, TunIo
from firezone._ext.udp cimport UdpIo, UdpSockets

cdef enum:
    MARK_DECIDED = 4       # Python has seen it as a miss: it must not come up as one again
    MARK_HANDED_UP = 8     # a copy is in the ring to Python

# Packets that wait for Python's decision: one thread adds, Python takes away.
ctypedef struct Budget:
    uint32_t* added        # by slot, ever
    uint32_t* taken
    uint32_t added_total
    uint32_t taken_total
    uint32_t per_peer      # that may wait
    uint32_t total
    int64_t* due           # by slot
    int64_t interval       # ns between the misses of a peer, in the long run
    int64_t own_interval   # and of the host itself
    int64_t burst          # misses that may come at once

# What belongs to one direction; written by its data thread alone.
ctypedef struct Lane:
    uint64_t packets_in
    uint64_t bytes_in
    uint64_t packets_out
    uint64_t bytes_out
    uint64_t wakeups
    uint64_t verdicts[VERDICTS]
    RingBuffer* events     # to Python
    RingBuffer* injected   # from Python
    uint64_t revision      # of the peers, when the batch began
    int64_t now            # of the batch
    Budget budget

ctypedef struct PipelineState:
    SessionTable* sessions
    FlowTable* flows
    PathTable* paths
    DemuxState* demux
    Epoch* epoch
    uint32_t mtu
    uint32_t slots
    Lane up
    Lane down
    uint64_t revision      # counts closed slots
    uint64_t* closed_at    # by slot: the revision that closed it
    uint32_t stopping
    uint64_t calls[4]      # to the kernel, by descriptors that were attached before
    TunIo* tun
    UdpIo* udp

cdef void outbound(PipelineState* p, Batch* b, int64_t now) noexcept nogil
cdef void inbound(PipelineState* p, Batch* b, int64_t now) noexcept nogil


cdef class Pipeline:
    cdef PipelineState state
    cdef Sessions _sessions
    cdef Flows _flows
    cdef Paths _paths
    cdef Demux _demux
    cdef Tun _tun
    cdef UdpSockets _udp
    cdef Ring _events_up
    cdef Ring _events_down
    cdef Ring _injected_up
    cdef Ring _injected_down
    cdef PacketBatch _batch_up
    cdef PacketBatch _batch_down
    cdef bint _down_first
    cdef int _wake_fd
    cdef dict _calls(self)
    cdef bint _inject(
        self, Ring ring, uint32_t kind, uint32_t slot, bytes packet
    ) except -1
    cdef tuple _take_event(self, Lane* lane)
    cdef int _check(self, uint32_t slot) except -1
