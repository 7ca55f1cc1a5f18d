# STUN messages to plain values and back. MACs are in ext/c/stun_mac.h.
cdef enum LayoutKind:
    LAYOUT_TEXT
    LAYOUT_NUMBER
    LAYOUT_OPAQUE
    LAYOUT_CODED


cdef class Layout:
    cdef LayoutKind kind
    cdef int size       # most bytes of a text; bytes of a number, or of what is opaque, -1: any
    cdef int more       # most characters of a text; reserved bytes after a number
    cdef bint masked
    cdef object decode
    cdef object encode


cdef class Attribute:
    cdef readonly int code
    cdef readonly str name
    cdef readonly bint repeatable
    cdef Layout layout
