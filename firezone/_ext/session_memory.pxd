# The memory of peers, keypairs and leaves, and its way back.
#
# What the control thread unpublishes is retired twice. It *fades* until no RX can find it any more,
# and so cannot put it back into the send slot; there it is then taken out, and it is *dead* until
# neither thread can still be reading it. Then it is wiped and freed. Inline only: no module to import.
from libc.stdint cimport uint32_t
from libc.stdlib cimport free
from libc.string cimport memset

from firezone._ext.atomics cimport swap_pointer, wipe
from firezone._ext.epoch cimport Epoch, epoch_mark, epoch_passed
from firezone._ext.session_table cimport KEYPAIRS, Keypair, Leaf, Peer, Retired

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** memory, size_t alignment, size_t size) noexcept

cdef enum:
    IS_KEYPAIR = 1
    IS_PEER = 2
    IS_LEAF = 3

# In the order in which it was retired.
ctypedef struct RetiredList:
    Retired* first
    Retired* last

ctypedef struct SessionMemory:
    RetiredList fading     # unpublished, but a thread may still see it or put it back
    RetiredList dead       # nobody can find it, but a thread may still be reading
    size_t bytes


# All zeros but for its kind.
cdef inline void* memory_new(SessionMemory* m, size_t size, uint32_t kind) except NULL:
    cdef void* memory = NULL
    if posix_memalign(&memory, 64, size):
        raise MemoryError
    memset(memory, 0, size)
    (<Retired*>memory).kind = kind
    m.bytes += size
    return memory


cdef inline void memory_retire(SessionMemory* m, Epoch* epoch, Retired* item) noexcept:
    retired_append(&m.fading, epoch, item)


# Older marks pass first. A keypair is retired before its peer, so the peer is still there when the
# keypair has faded. Returns how many wait.
cdef inline Py_ssize_t memory_reclaim(SessionMemory* m, Epoch* epoch) noexcept:
    cdef Retired* item
    while m.fading.first != NULL and epoch_passed(epoch, m.fading.first.mark):
        item = retired_pop(&m.fading)
        if item.kind == IS_KEYPAIR:
            swap_pointer(&(<Peer*>item.owner).send, item, NULL)
        retired_append(&m.dead, epoch, item)
    while m.dead.first != NULL and epoch_passed(epoch, m.dead.first.mark):
        memory_free(m, retired_pop(&m.dead))
    return retired_count(&m.fading) + retired_count(&m.dead)


# Everything that waits, whoever could hold it.
cdef inline void memory_free_retired(SessionMemory* m) noexcept:
    while m.fading.first != NULL:
        memory_free(m, retired_pop(&m.fading))
    while m.dead.first != NULL:
        memory_free(m, retired_pop(&m.dead))


# Wipes and frees, a peer with its keypairs.
cdef inline void memory_free(SessionMemory* m, Retired* item) noexcept:
    cdef Keypair** keypairs
    cdef int i
    if item.kind == IS_PEER:
        keypairs = (<Peer*>item).keypairs
        for i in range(KEYPAIRS):
            if keypairs[i] != NULL:
                memory_release(m, keypairs[i], sizeof(Keypair))
        memory_release(m, item, sizeof(Peer))
    elif item.kind == IS_LEAF:
        memory_release(m, item, sizeof(Leaf))
    else:
        memory_release(m, item, sizeof(Keypair))


cdef inline void memory_release(SessionMemory* m, void* memory, size_t size) noexcept:
    wipe(memory, size)
    free(memory)
    m.bytes -= size


cdef inline void retired_append(RetiredList* l, Epoch* epoch, Retired* item) noexcept:
    item.next = NULL
    item.mark = epoch_mark(epoch)
    if l.first == NULL:
        l.first = item
    else:
        l.last.next = item
    l.last = item


cdef inline Retired* retired_pop(RetiredList* l) noexcept:
    cdef Retired* item = l.first
    l.first = item.next
    return item


cdef inline Py_ssize_t retired_count(const RetiredList* l) noexcept:
    cdef Py_ssize_t count = 0
    cdef const Retired* item = l.first
    while item != NULL:
        count += 1
        item = item.next
    return count
