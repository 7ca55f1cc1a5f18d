"""Classifies datagrams: STUN, ChannelData, WireGuard 1-4; checks mac1, mac2 and rates.

A handshake message with a good mac1 can come from anyone who knows our public key, under any
address, so all of them together have one rate. One with a good mac2 comes from where it says (our
cookie went there): those have a higher rate, and one for each address. So a flood under invented
addresses does not keep out who answers to a cookie, and one real address cannot use up the rest.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from firezone._ext.atomics cimport (
    load_acquire_u8,
    load_relaxed_i64,
    store_relaxed_i64,
    store_release_u8,
    wipe,
)
from firezone._ext.batch cimport (
    BAD_MAC1,
    MALFORMED,
    OVER_BUDGET,
    PASS,
    SLOW,
    UNKNOWN_CHANNEL,
    UNKNOWN_FORMAT,
    Batch,
    Endpoint,
    PacketBatch,
    endpoint_equal,
    endpoint_hash,
    endpoint_parse,
    slot_packet,
)
from firezone._ext.epoch cimport epoch_mark, epoch_passed
from firezone._ext.session cimport Sessions
from firezone._ext.transport_data cimport DATA_OVERHEAD

cdef extern from "blake2s.h" nogil:
    void c_blake2s "blake2s"(
        uint8_t*, size_t, const uint8_t*, size_t, const uint8_t*, size_t
    ) noexcept
    bint equal_constant_time(const uint8_t*, const uint8_t*, size_t) noexcept

cdef int64_t COOKIE_EPOCH = 128_000_000_000

cdef enum:
    INITIATION = 1
    RESPONSE = 2
    COOKIE_REPLY = 3
    DATA = 4
    INITIATION_SIZE = 148
    RESPONSE_SIZE = 92
    COOKIE_REPLY_SIZE = 64
    MAC_SIZE = 16
    MACS_SIZE = 32         # mac1 and mac2 end both handshake messages
    STUN_HEADER = 20
    MAGIC_COOKIE = 0x2112A442
    LAST_CHANNEL_BYTE = 0x4F


@cython.final
cdef class Channels:
    """See demux.pyi."""

    def __cinit__(
        self, bytes secret not None, Sessions sessions=None, uint32_t capacity=8192
    ):
        if len(secret) != 8:
            raise ValueError("the secret of a channel table has 8 bytes")
        if capacity < 16 or capacity & (capacity - 1) or capacity > 1 << 20:
            raise ValueError("the capacity of a channel table is a power of two")
        memcpy(&self.table.secret, <const char*>secret, 8)
        self._sessions = sessions
        self.table.epoch = &self._own_epoch if sessions is None else sessions.table.epoch
        self.table.mask = capacity - 1
        self.table.channels = <Channel*>calloc(capacity, sizeof(Channel))
        if self.table.channels == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.table.channels)

    def __len__(self):
        return self._open

    def open(self, tuple relay not None, uint16_t number):
        cdef Endpoint endpoint
        cdef Channel* channel
        _parse(&endpoint, relay, number)
        if _find(&self.table, &endpoint, number) != NULL:
            return True
        channel = _free_place(&self.table, &endpoint, number)
        if channel == NULL or self._open >= (self.table.mask + 1) // 4 * 3:
            return False
        channel.relay = endpoint
        channel.number = number
        channel.last_seen = 0
        store_release_u8(&channel.state, CHANNEL_OPEN)
        self._open += 1
        return True

    def close(self, tuple relay not None, uint16_t number):
        cdef Endpoint endpoint
        cdef Channel* channel
        _parse(&endpoint, relay, number)
        channel = _find(&self.table, &endpoint, number)
        if channel == NULL:
            return False
        store_release_u8(&channel.state, CHANNEL_REMOVED)
        channel.removed = epoch_mark(self.table.epoch)
        self._open -= 1
        return True

    def received_at(self, tuple relay not None, uint16_t number):
        cdef Endpoint endpoint
        cdef Channel* channel
        _parse(&endpoint, relay, number)
        channel = _find(&self.table, &endpoint, number)
        return 0 if channel == NULL else load_relaxed_i64(&channel.last_seen)


@cython.final
cdef class Demux:
    """See demux.pyi."""

    def __cinit__(
        self,
        bytes public_key not None,
        Channels channels not None,
        *,
        bytes cookie_secret=None,
        int64_t cookies_since=0,
        int64_t handshake_rate=1000,
        int64_t handshake_burst=200,
        int64_t proved_rate=5000,
        int64_t proved_burst=1000,
        int64_t source_rate=100,
        int64_t source_burst=200,
        int64_t stun_rate=5000,
        int64_t stun_burst=1000,
    ):
        cdef bytes labelled
        if len(public_key) != 32:
            raise ValueError("a public key has 32 bytes")
        self._channels = channels
        self.state.channels = &channels.table
        labelled = b"mac1----" + public_key
        c_blake2s(self.state.mac1_key, 32, NULL, 0, labelled, len(labelled))
        if cookie_secret is not None:
            if len(cookie_secret) != MAC_SIZE:
                raise ValueError("the secret of cookies has 16 bytes")
            memcpy(self.state.cookie_key.secret, <const char*>cookie_secret, MAC_SIZE)
            self.state.cookie_key.since = cookies_since
            self.state.cookie_key.is_set = True
        _bucket(&self.state.handshakes, handshake_rate, handshake_burst)
        _bucket(&self.state.proved, proved_rate, proved_burst)
        _bucket(&self.state.source, source_rate, source_burst)
        # Cookie replies carry no mac1, so that anyone may use up their share, but not more.
        _bucket(&self.state.cookies, max(1, handshake_rate // 10), max(1, handshake_burst // 4))
        if stun_rate:
            _bucket(&self.state.stun, stun_rate, stun_burst)

    def __dealloc__(self):
        wipe(self.state.mac1_key, 32)
        wipe(self.state.cookie_key.secret, MAC_SIZE)

    def classify(self, PacketBatch batch not None, int64_t now):
        with nogil:
            demux_classify(&self.state, &batch.b, now)


cdef void demux_classify(DemuxState* d, Batch* b, int64_t now) noexcept nogil:
    cdef uint32_t i
    cdef const uint8_t* p
    cdef uint32_t length
    for i in range(b.count):
        if b.verdict[i] != PASS:
            continue
        p = slot_packet(b, i)
        length = b.length[i]
        if length and 0x40 <= p[0] <= LAST_CHANNEL_BYTE:
            _classify_relayed(d, b, i, now)
        else:
            b.verdict[i] = _classify(d, p, length, &b.remote[i], now)


cdef void _classify_relayed(DemuxState* d, Batch* b, uint32_t i, int64_t now) noexcept nogil:
    cdef const uint8_t* p = slot_packet(b, i)
    cdef uint32_t length = b.length[i]
    cdef Channel* channel
    # Exactly the rest: over UDP there is no padding (RFC 8656 section 12.5).
    if length < CHANNEL_HEADER or _u16(p + 2) != length - CHANNEL_HEADER:
        b.verdict[i] = MALFORMED
        return
    channel = _find(d.channels, &b.remote[i], _u16(p))
    if channel == NULL:
        b.verdict[i] = UNKNOWN_CHANNEL
        return
    # Whose address proves nothing here: it is the relay's.
    b.verdict[i] = _classify(d, p + CHANNEL_HEADER, length - CHANNEL_HEADER, NULL, now)
    if b.verdict[i] == PASS:
        b.offset[i] += CHANNEL_HEADER
        b.length[i] -= CHANNEL_HEADER
    if b.verdict[i] == PASS or b.verdict[i] == SLOW:
        store_relaxed_i64(&channel.last_seen, now)


cdef uint8_t _classify(
    DemuxState* d, const uint8_t* p, uint32_t length, const Endpoint* source, int64_t now
) noexcept nogil:
    # A type is a byte and three zeros; STUN of these first bytes has a length there, and a cookie.
    if length >= 4 and 1 <= p[0] <= DATA and p[1] == 0 and p[2] == 0 and p[3] == 0:
        if p[0] == DATA:
            return PASS if length >= DATA_OVERHEAD else MALFORMED
        if not _is_stun(p, length):
            return _classify_handshake(d, p, length, source, now)
    if not _is_stun(p, length):
        return UNKNOWN_FORMAT
    if not d.stun.interval:
        return UNKNOWN_FORMAT
    return SLOW if _take(&d.stun, now) else OVER_BUDGET


cdef uint8_t _classify_handshake(
    DemuxState* d, const uint8_t* p, uint32_t length, const Endpoint* source, int64_t now
) noexcept nogil:
    cdef uint8_t mac1[16]
    if p[0] == COOKIE_REPLY:
        if length != COOKIE_REPLY_SIZE:
            return MALFORMED
        return SLOW if _take(&d.cookies, now) else OVER_BUDGET
    if length != <uint32_t>(INITIATION_SIZE if p[0] == INITIATION else RESPONSE_SIZE):
        return MALFORMED
    c_blake2s(mac1, 16, d.mac1_key, 32, p, length - MACS_SIZE)
    if not equal_constant_time(mac1, p + length - MACS_SIZE, 16):
        return BAD_MAC1
    if source == NULL or not _is_proved(&d.cookie_key, p, length, source, now):
        return SLOW if _take(&d.handshakes, now) else OVER_BUDGET
    d.source.due = d.sources[_place_of(d, source)]
    if not _take(&d.source, now) or not _take(&d.proved, now):
        return OVER_BUDGET
    d.sources[_place_of(d, source)] = d.source.due
    return SLOW


# WireGuard paper, section 5.4.7: mac2 is under a cookie, and that one of our secret, the time and
# the address. Most have none, and are not worth the hashes.
cdef bint _is_proved(
    const CookieKey* key, const uint8_t* p, uint32_t length, const Endpoint* source, int64_t now
) noexcept nogil:
    cdef uint8_t message[24]
    cdef uint8_t cookie[MAC_SIZE]
    cdef uint8_t mac2[MAC_SIZE]
    cdef const uint8_t* given = p + length - MAC_SIZE
    cdef uint64_t epoch = <uint64_t>((now - key.since) // COOKIE_EPOCH)
    cdef bint proved
    cdef int i
    memset(mac2, 0, MAC_SIZE)
    if not key.is_set or now < key.since or memcmp(given, mac2, MAC_SIZE) == 0:
        return False
    for i in range(8):
        message[i] = <uint8_t>(epoch >> 8 * i)
    memcpy(message + 8, source.address, 16)
    c_blake2s(cookie, MAC_SIZE, key.secret, MAC_SIZE, message, sizeof(message))
    c_blake2s(mac2, MAC_SIZE, cookie, MAC_SIZE, p, length - MAC_SIZE)
    proved = equal_constant_time(mac2, given, MAC_SIZE)
    wipe(cookie, MAC_SIZE)
    return proved


# Of an IPv4 address or an IPv6 network of 64 bits: who has one address of those has all.
cdef inline uint32_t _place_of(const DemuxState* d, const Endpoint* source) noexcept nogil:
    cdef Endpoint network
    memset(&network, 0, sizeof(Endpoint))
    memcpy(network.address, source.address, 8)
    network.family = source.family
    return <uint32_t>endpoint_hash(&network, d.channels.secret) & (SOURCES - 1)


# RFC 8489 section 6.3: the two top bits are zero, the cookie stands, the length is a multiple of 4.
cdef inline bint _is_stun(const uint8_t* p, uint32_t length) noexcept nogil:
    if length < STUN_HEADER or p[0] > 3 or p[3] & 3:
        return False
    return (
        _u16(p + 4) == MAGIC_COOKIE >> 16
        and _u16(p + 6) == MAGIC_COOKIE & 0xFFFF
        and _u16(p + 2) == length - STUN_HEADER
    )


cdef inline bint _take(TokenBucket* bucket, int64_t now) noexcept nogil:
    cdef int64_t due = bucket.due if bucket.due > now else now
    if due - now > bucket.tolerance:
        return False
    bucket.due = due + bucket.interval
    return True


cdef inline Channel* _find(
    ChannelTable* t, const Endpoint* relay, uint16_t number
) noexcept nogil:
    cdef uint32_t place = _first_place(t, relay, number)
    cdef int probes
    cdef uint8_t state
    cdef Channel* channel
    for probes in range(CHANNEL_PROBES):
        channel = &t.channels[(place + <uint32_t>probes) & t.mask]
        state = load_acquire_u8(&channel.state)
        if state == CHANNEL_EMPTY:
            return NULL
        if state == CHANNEL_OPEN and channel.number == number:
            if endpoint_equal(&channel.relay, relay):
                return channel
    return NULL


cdef Channel* _free_place(ChannelTable* t, const Endpoint* relay, uint16_t number) noexcept:
    cdef uint32_t place = _first_place(t, relay, number)
    cdef int probes
    cdef Channel* channel
    for probes in range(CHANNEL_PROBES):
        channel = &t.channels[(place + <uint32_t>probes) & t.mask]
        if channel.state == CHANNEL_EMPTY:
            return channel
        if channel.state == CHANNEL_REMOVED and epoch_passed(t.epoch, channel.removed):
            return channel
    return NULL


cdef inline uint32_t _first_place(
    const ChannelTable* t, const Endpoint* relay, uint16_t number
) noexcept nogil:
    cdef uint64_t salt = t.secret ^ number * <uint64_t>0x9E3779B97F4A7C15
    return <uint32_t>endpoint_hash(relay, salt) & t.mask


cdef inline uint16_t _u16(const uint8_t* p) noexcept nogil:
    return <uint16_t>(p[0] << 8 | p[1])


cdef int _parse(Endpoint* endpoint, tuple relay, uint16_t number) except -1:
    endpoint_parse(endpoint, relay)
    if not 0x4000 <= number <= 0x4FFF:
        raise ValueError("a channel number is 0x4000 to 0x4FFF")
    return 0


cdef int _bucket(TokenBucket* bucket, int64_t rate, int64_t burst) except -1:
    if rate <= 0 or burst <= 0:
        raise ValueError("rate and burst are positive")
    bucket.interval = 1_000_000_000 // rate
    bucket.tolerance = bucket.interval * (burst - 1)
    return 0
