# Which counters of a session were received: each is accepted once, and only within WINDOW of the
# greatest (RFC 6479). All zeros has seen nothing. Inline only: no module to import.
from libc.stdint cimport uint64_t

cdef enum:
    WINDOW_WORDS = 128     # a ring of 8192 bits
    # Words are cleared whole when the greatest counter enters them: hence one word less.
    WINDOW = WINDOW_WORDS * 64 - 64

ctypedef struct ReplayWindow:
    uint64_t next          # one more than the greatest counter accepted
    uint64_t words[WINDOW_WORDS]


cdef inline bint window_allows(const ReplayWindow* w, uint64_t counter) noexcept nogil:
    if counter >= w.next:
        return True
    if w.next - counter > WINDOW:
        return False
    return not (w.words[counter // 64 % WINDOW_WORDS] >> counter % 64 & 1)


cdef inline void window_mark(ReplayWindow* w, uint64_t counter) noexcept nogil:
    cdef uint64_t word = counter // 64
    cdef uint64_t newest
    cdef uint64_t ahead
    cdef uint64_t i
    if counter >= w.next:
        newest = (w.next - 1) // 64 if w.next else 0
        ahead = word - newest
        if ahead > WINDOW_WORDS:
            ahead = WINDOW_WORDS
        for i in range(ahead):
            w.words[(newest + 1 + i) % WINDOW_WORDS] = 0
        w.next = counter + 1
    w.words[word % WINDOW_WORDS] |= <uint64_t>1 << counter % 64
