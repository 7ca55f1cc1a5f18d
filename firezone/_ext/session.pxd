# WireGuard sessions: who owns a transport data message, and its sealing and opening.
from libc.stdint cimport int64_t, uint32_t

from firezone._ext.batch cimport Batch
from firezone._ext.epoch cimport Epoch
from firezone._ext.session_memory cimport SessionMemory
from firezone._ext.session_table cimport Keypair, Leaf, Peer, SessionTable

# PASS slots: seals the packet in place for the peer of its peer column: offset and length then
# cover the whole message. Without a usable keypair the slot becomes UNROUTABLE and its packet stays
# as it was. An empty packet is a keepalive. The caller has entered the epoch as tx.
cdef void sessions_seal(SessionTable* t, Batch* b, int64_t now) noexcept nogil

# PASS slots: opens the transport data message in place; peer, offset and length then say whose
# packet it is and where. Keepalives become CONSUMED. MARK_CONFIRMED (also on a keepalive) tells that
# a keypair of ours as responder has taken the send slot. The caller has entered the epoch as rx.
cdef void sessions_open(SessionTable* t, Batch* b, int64_t now) noexcept nogil

# True if sessions_seal would find a keypair for the peer.
cdef bint sessions_can_seal(SessionTable* t, uint32_t peer, int64_t now) noexcept nogil


# Not for two Python threads at once. The data threads may run meanwhile, on `table`.
cdef class Sessions:
    cdef SessionTable table
    cdef Epoch _epoch
    cdef SessionMemory _memory
    cdef size_t _peers
    cdef Peer* _peer(self, uint32_t slot) except NULL
    cdef Leaf* _leaf(self, uint32_t tunnel_id) except NULL
    cdef void _replace(self, Peer* peer, uint32_t place, Keypair* keypair) noexcept
    cdef Py_ssize_t _reclaim(self) noexcept
