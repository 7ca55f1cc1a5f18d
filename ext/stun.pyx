"""STUN messages (RFC 8489 sections 5 and 14) to plain values and back, and their MACs.

A request of a TURN client has half a dozen attributes and is answered by one as long: read and
written by Python, attribute by attribute, they were more than half of the cost of an allocation.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from types import GenericAlias

cdef extern from "blake2s.h" nogil:
    bint equal_constant_time(const uint8_t*, const uint8_t*, size_t) noexcept

cdef extern from "stun.h" nogil:
    enum:
        STUN_HEADER
        STUN_ATTRIBUTE
        STUN_FINGERPRINT
        STUN_FINGERPRINT_SIZE
    const uint32_t STUN_COOKIE
    uint32_t load16(const uint8_t*) noexcept
    uint32_t load32(const uint8_t*) noexcept
    void store32(uint8_t*, uint32_t) noexcept
    uint32_t stun_fingerprint(const uint8_t*, size_t) noexcept

cdef extern from "stun_mac.h" nogil:
    enum:
        STUN_INTEGRITY_SIZE
    void stun_integrity(uint8_t*, const uint8_t*, size_t, const uint8_t*, size_t) noexcept

cdef enum:
    TRANSACTION_ID = 12
    MASKED = 20            # of an address, at most
    MESSAGE_INTEGRITY = 0x0008
    OPTIONAL = 0x8000      # from here on who does not know an attribute may ignore it
    LONGEST = 0xFFFF       # attributes of a message; and a value, so the whole, too
    CODES = 1 << 16
    CODE_BITS = 8192       # bytes that hold one bit for each code
    METHODS = 1 << 12      # more than can be read on a shared port
    UNKNOWN = 32

MAX_UNKNOWN = UNKNOWN


@cython.final
@cython.auto_pickle(False)
cdef class Layout:
    """See stun.pyi."""

    __class_getitem__ = classmethod(GenericAlias)

    @staticmethod
    def text(int characters, int size):
        return _layout(LAYOUT_TEXT, size, characters)

    @staticmethod
    def number(int size, int reserved=0):
        if not 1 <= size <= 8 or not 0 <= reserved <= 8:
            raise ValueError("a number has 1 to 8 bytes")
        return _layout(LAYOUT_NUMBER, size, reserved)

    @staticmethod
    def opaque(int size=-1):
        return _layout(LAYOUT_OPAQUE, size, 0)

    @staticmethod
    def coded(object decode not None, object encode not None, bint masked=False):
        cdef Layout made = _layout(LAYOUT_CODED, 0, 0)
        made.decode, made.encode, made.masked = decode, encode, masked
        return made


@cython.final
@cython.auto_pickle(False)
cdef class Attribute:
    """See stun.pyi."""

    __class_getitem__ = classmethod(GenericAlias)

    def __cinit__(self, int code, str name not None, Layout layout not None, bint repeatable=False):
        if not 0 <= code < CODES:
            raise ValueError("an attribute's code has two bytes")
        self.code, self.name, self.layout, self.repeatable = code, name, layout, repeatable

    def __repr__(self):
        return self.name


def decode(bytes data not None, dict known not None):
    cdef const uint8_t* p = _bytes(data)
    cdef uint32_t size = <uint32_t>min(PyBytes_GET_SIZE(data), <Py_ssize_t>STUN_HEADER + LONGEST + 1)
    cdef uint32_t type_
    reason = _not_stun(p, size)
    if reason is not None:
        return reason
    type_ = load16(p)
    class_ = type_ >> 7 & 2 | type_ >> 4 & 1
    method = type_ & 0x000F | type_ >> 1 & 0x0070 | type_ >> 2 & 0x0F80
    transaction_id = PyBytes_FromStringAndSize(<const char*>p + 8, TRANSACTION_ID)
    found = _attributes(p, size, known)
    if found is None:
        return "attribute_overruns"
    return (class_, method, transaction_id) + found


def encode(
    int class_,
    int method,
    bytes transaction_id not None,
    tuple attributes not None,
    bytes key=None,
    bint fingerprint=False,
):
    cdef Py_ssize_t size = STUN_HEADER
    cdef bytes value
    cdef list values = []
    if PyBytes_GET_SIZE(transaction_id) != TRANSACTION_ID:
        raise ValueError("a transaction id has 12 bytes")
    if not 0 <= class_ < 4 or not 0 <= method < METHODS:
        raise ValueError("no class and method of a STUN message")
    for attribute, content in attributes:
        value = _encoded(<Attribute?>attribute, content, transaction_id)
        values.append(value)
        size += STUN_ATTRIBUTE + _padded(PyBytes_GET_SIZE(value))
    return _message(
        (method & 0x000F) | (method & 0x0070) << 1 | (method & 0x0F80) << 2
        | (class_ & 1) << 4 | (class_ & 2) << 7,
        transaction_id, attributes, values, size, key, fingerprint,
    )


def first(tuple attributes not None, Attribute wanted not None):
    cdef tuple pair
    for pair in attributes:
        if (<Attribute?>pair[0]).code == wanted.code:
            return pair[1]
    return None


def check_value(Attribute attribute not None, value):
    _encoded(attribute, value, bytes(TRANSACTION_ID))


def message_integrity(bytes prefix not None, bytes key not None):
    cdef uint8_t mac[STUN_INTEGRITY_SIZE]
    _check(prefix, PyBytes_GET_SIZE(prefix))
    stun_integrity(mac, _bytes(key), PyBytes_GET_SIZE(key), _bytes(prefix), PyBytes_GET_SIZE(prefix))
    return PyBytes_FromStringAndSize(<const char*>mac, STUN_INTEGRITY_SIZE)


def verify_integrity(bytes data not None, Py_ssize_t at, bytes key not None):
    cdef uint8_t mac[STUN_INTEGRITY_SIZE]
    _check(data, at)
    if PyBytes_GET_SIZE(data) - at < <Py_ssize_t>STUN_ATTRIBUTE + STUN_INTEGRITY_SIZE:
        raise ValueError("no room for MESSAGE-INTEGRITY")
    stun_integrity(mac, _bytes(key), PyBytes_GET_SIZE(key), _bytes(data), at)
    return bool(equal_constant_time(mac, _bytes(data) + at + STUN_ATTRIBUTE, STUN_INTEGRITY_SIZE))


def verify_fingerprint(bytes data not None, Py_ssize_t at):
    _check(data, at)
    if PyBytes_GET_SIZE(data) - at < <Py_ssize_t>STUN_ATTRIBUTE + STUN_FINGERPRINT_SIZE:
        raise ValueError("no room for FINGERPRINT")
    return load32(_bytes(data) + at + STUN_ATTRIBUTE) == stun_fingerprint(_bytes(data), at)


def fingerprint(bytes prefix not None):
    _check(prefix, PyBytes_GET_SIZE(prefix))
    return stun_fingerprint(_bytes(prefix), PyBytes_GET_SIZE(prefix))


# Reading

cdef str _not_stun(const uint8_t* p, uint32_t size):
    cdef uint32_t length
    if size < STUN_HEADER:
        return "too_short"
    if p[0] > 3:  # on a shared port that is another protocol's (RFC 7983 section 7)
        return "not_stun"
    if load32(p + 4) != STUN_COOKIE:
        return "wrong_cookie"
    length = load16(p + 2)
    return "wrong_length" if length % 4 or size != STUN_HEADER + length else None


# The rest of what `decode` returns, or None if an attribute is longer than the message.
cdef tuple _attributes(const uint8_t* p, uint32_t size, dict known):
    cdef uint8_t seen[CODE_BITS]
    cdef uint32_t next = STUN_HEADER
    cdef uint32_t at
    cdef uint32_t code
    cdef uint32_t length
    cdef Attribute attribute
    cdef list values = []
    cdef list unknown = []
    malformed = integrity_at = fingerprint_at = None
    memset(seen, 0, sizeof(seen))
    while next < size and fingerprint_at is None:
        at = next
        code = load16(p + at)
        length = load16(p + at + 2)
        if length > size - at - STUN_ATTRIBUTE:
            return None
        next = at + STUN_ATTRIBUTE + <uint32_t>_padded(length)
        if integrity_at is not None and code != STUN_FINGERPRINT:
            continue  # nothing covers it (RFC 8489 section 14.5)
        attribute = known.get(code)
        if _was_seen(seen, code) and (attribute is None or not attribute.repeatable):
            continue
        if attribute is None:
            if code < OPTIONAL and len(unknown) < UNKNOWN:
                unknown.append(code)
            continue
        try:
            value = _decoded(attribute.layout, p, p + at + STUN_ATTRIBUTE, length)
        except ValueError:
            malformed = code if malformed is None else malformed
            continue
        if code == STUN_FINGERPRINT:
            fingerprint_at = at  # it is the last one (RFC 8489 section 14.7)
        elif code == MESSAGE_INTEGRITY:
            integrity_at = at
        else:
            values.append((attribute, value))
    return (tuple(values), tuple(unknown), malformed, integrity_at, fingerprint_at)


# Whether it was asked for that code before.
cdef inline bint _was_seen(uint8_t* seen, uint32_t code) noexcept:
    cdef uint8_t bit = <uint8_t>(1 << (code & 7))
    cdef bint was = seen[code >> 3] & bit != 0
    seen[code >> 3] |= bit
    return was


# Raises ValueError for a value that the attribute cannot have.
cdef object _decoded(Layout layout, const uint8_t* message, const uint8_t* value, uint32_t size):
    cdef uint64_t number = 0
    cdef int i
    if layout.kind == LAYOUT_TEXT:
        _require(<int>size <= layout.size)
        text = PyUnicode_DecodeUTF8(<const char*>value, size, NULL)
        _require(len(text) <= layout.more)
        return text
    if layout.kind == LAYOUT_NUMBER:
        _require(<int>size == layout.size + layout.more)
        for i in range(layout.size):
            number = number << 8 | value[i]
        return number
    if layout.kind == LAYOUT_OPAQUE:
        _require(layout.size < 0 or <int>size == layout.size)
        return PyBytes_FromStringAndSize(<const char*>value, size)
    content = PyBytes_FromStringAndSize(<const char*>value, size)
    if layout.masked:
        _mask(content, message + 8)
    return layout.decode(content)


# Writing

# Raises ValueError for a value that does not fit.
cdef bytes _encoded(Attribute attribute, value, bytes transaction_id):
    cdef bytes content
    try:
        content = _value(attribute.layout, value)
        _require(PyBytes_GET_SIZE(content) <= LONGEST)
    except (ValueError, OverflowError):
        raise ValueError(f"value does not fit {attribute.name}") from None
    if attribute.layout.masked:
        # As others may have it, too, its mask is put on a copy.
        content = PyBytes_FromStringAndSize(PyBytes_AS_STRING(content), PyBytes_GET_SIZE(content))
        _mask(content, _bytes(transaction_id))
    return content


cdef bytes _value(Layout layout, value):
    cdef uint8_t raw[16]
    cdef uint64_t number
    cdef bytes content
    cdef int i
    if layout.kind == LAYOUT_NUMBER:
        number = value
        _require(layout.size == 8 or number >> 8 * layout.size == 0)
        memset(raw, 0, sizeof(raw))
        for i in range(layout.size):
            raw[i] = <uint8_t>(number >> 8 * (layout.size - 1 - i))
        return PyBytes_FromStringAndSize(<const char*>raw, layout.size + layout.more)
    if layout.kind == LAYOUT_TEXT:
        content = (<str?>value).encode()
        _require(PyBytes_GET_SIZE(content) <= layout.size and len(<str>value) <= layout.more)
        return content
    content = value if layout.kind == LAYOUT_OPAQUE else layout.encode(value)
    _require(layout.kind != LAYOUT_OPAQUE or layout.size < 0 or len(content) == layout.size)
    return content


cdef bytes _message(
    uint32_t type_,
    bytes transaction_id,
    tuple attributes,
    list values,
    Py_ssize_t size,
    bytes key,
    bint fingerprinted,
):
    cdef bytes made
    cdef bytes value
    cdef uint8_t* start
    cdef uint8_t* p
    cdef Py_ssize_t i
    cdef Py_ssize_t whole = size
    if key is not None:
        whole += <Py_ssize_t>STUN_ATTRIBUTE + STUN_INTEGRITY_SIZE
    if fingerprinted:
        whole += <Py_ssize_t>STUN_ATTRIBUTE + STUN_FINGERPRINT_SIZE
    if whole - STUN_HEADER > LONGEST:
        raise ValueError("STUN message too long")
    made = PyBytes_FromStringAndSize(NULL, whole)
    start = p = <uint8_t*>PyBytes_AS_STRING(made)
    store32(p, type_ << 16 | <uint32_t>(whole - STUN_HEADER))
    store32(p + 4, STUN_COOKIE)
    memcpy(p + 8, _bytes(transaction_id), TRANSACTION_ID)
    p += STUN_HEADER
    for i in range(len(values)):
        value = <bytes>values[i]
        p = _begin(p, (<Attribute>(<tuple>attributes[i])[0]).code, PyBytes_GET_SIZE(value))
        memset(p + PyBytes_GET_SIZE(value), 0, -PyBytes_GET_SIZE(value) & 3)
        memcpy(p, _bytes(value), PyBytes_GET_SIZE(value))
        p += _padded(PyBytes_GET_SIZE(value))
    if key is not None:
        p = _begin(p, MESSAGE_INTEGRITY, STUN_INTEGRITY_SIZE)
        stun_integrity(p, _bytes(key), PyBytes_GET_SIZE(key), start, p - start - STUN_ATTRIBUTE)
        p += STUN_INTEGRITY_SIZE
    if fingerprinted:
        p = _begin(p, STUN_FINGERPRINT, STUN_FINGERPRINT_SIZE)
        store32(p, stun_fingerprint(start, p - start - STUN_ATTRIBUTE))
    return made


cdef inline uint8_t* _begin(uint8_t* p, uint32_t code, Py_ssize_t size) noexcept:
    store32(p, code << 16 | <uint32_t>size)
    return p + STUN_ATTRIBUTE


# In place. Python shares values of up to one byte, but the first two are not masked.
cdef void _mask(bytes value, const uint8_t* transaction_id) noexcept:
    cdef uint8_t* p = <uint8_t*>PyBytes_AS_STRING(value)
    cdef uint8_t mask[MASKED]
    cdef Py_ssize_t i
    mask[0] = mask[1] = 0
    mask[2] = STUN_COOKIE >> 24
    mask[3] = STUN_COOKIE >> 16 & 0xFF
    store32(mask + 4, STUN_COOKIE)
    memcpy(mask + 8, transaction_id, TRANSACTION_ID)
    for i in range(min(PyBytes_GET_SIZE(value), <Py_ssize_t>MASKED)):
        p[i] ^= mask[i]


cdef inline Layout _layout(LayoutKind kind, int size, int more):
    cdef Layout made = Layout.__new__(Layout)
    made.kind, made.size, made.more = kind, size, more
    return made


cdef inline int _require(bint condition) except -1:
    if not condition:
        raise ValueError("value out of range")
    return 0


cdef inline int _check(bytes message, Py_ssize_t at) except -1:
    if not STUN_HEADER <= at <= min(PyBytes_GET_SIZE(message), <Py_ssize_t>STUN_HEADER + LONGEST):
        raise ValueError("not the size of a STUN message")
    return 0


cdef inline const uint8_t* _bytes(bytes data) noexcept:
    return <const uint8_t*>PyBytes_AS_STRING(data)


cdef inline Py_ssize_t _padded(Py_ssize_t size) noexcept:
    return (size + 3) & ~<Py_ssize_t>3
