# Where each peer is reached: one pointer per slot, swapped by Python, freed after the epoch.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from firezone._ext.batch cimport Batch, Endpoint
from firezone._ext.epoch cimport Epoch, EpochMark
from firezone._ext.session cimport Sessions

ctypedef struct PeerPath:
    PeerPath* next_retired
    EpochMark retired
    Endpoint destination
    Endpoint source        # family 0 = the system chooses
    uint16_t channel       # 0 = none

ctypedef struct PathTable:
    PeerPath** paths       # by slot
    uint32_t slots
    Epoch* epoch

# PASS slots: peers without a path are UNROUTABLE, before a nonce is spent on them.
cdef void paths_check(PathTable* t, Batch* b) noexcept nogil

# PASS slots: remote, local and the ChannelData header. A path that went away since the check makes
# the sealed packet SEND_FAILED.
cdef void paths_prepend(PathTable* t, Batch* b) noexcept nogil


cdef class Paths:
    cdef PathTable table
    cdef Epoch _own_epoch
    cdef Sessions _sessions
    cdef PeerPath* _retired
    cdef int _swap(self, uint32_t slot, PeerPath* path) except -1
    cdef int _check(self, uint32_t slot) except -1
