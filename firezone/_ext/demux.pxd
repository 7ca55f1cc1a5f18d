# What a datagram is: STUN, ChannelData, a WireGuard message. A flood ends here, before Python.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from firezone._ext.batch cimport Batch, Endpoint
from firezone._ext.epoch cimport Epoch, EpochMark
from firezone._ext.session cimport Sessions

cdef enum:
    CHANNEL_EMPTY = 0
    CHANNEL_REMOVED = 1
    CHANNEL_OPEN = 2
    CHANNEL_PROBES = 64
    CHANNEL_HEADER = 4     # number and length (RFC 8656 section 12.4)
    SOURCES = 4096         # places for the rates of single addresses; those that share one share it

# One channel of one relay. `state` is published last, and is used again after the epoch.
ctypedef struct Channel:
    Endpoint relay
    uint16_t number
    uint8_t state
    uint8_t _pad
    int64_t last_seen      # data thread
    EpochMark removed

ctypedef struct ChannelTable:
    Channel* channels
    uint32_t mask
    uint64_t secret
    Epoch* epoch

# Generic cell rate algorithm: a rate and a burst in one time.
ctypedef struct TokenBucket:
    int64_t due            # when all that was let through has been paid for
    int64_t interval       # ns for one
    int64_t tolerance      # ns that `due` may run ahead

# What a valid mac2 must be made from (WireGuard paper, section 5.4.7).
ctypedef struct CookieKey:
    uint8_t secret[16]
    int64_t since          # when the first epoch began
    bint is_set

ctypedef struct DemuxState:
    uint8_t mac1_key[32]
    CookieKey cookie_key
    ChannelTable* channels
    TokenBucket handshakes # of anyone who knows our public key
    TokenBucket proved     # whose sender receives at its address, too
    TokenBucket source     # the same, of one address; its `due` stands in `sources`
    int64_t sources[SOURCES]
    TokenBucket cookies
    TokenBucket stun

# PASS slots: transport data (type 4) goes on, without its ChannelData header. STUN and handshakes
# with a good mac1 become SLOW, header included; all else is dropped by name.
cdef void demux_classify(DemuxState* d, Batch* b, int64_t now) noexcept nogil


cdef class Channels:
    cdef ChannelTable table
    cdef Epoch _own_epoch
    cdef Sessions _sessions
    cdef uint32_t _open


cdef class Demux:
    cdef DemuxState state
    cdef Channels _channels
