"""The loops of the data threads.

Each reads a batch, runs the stages, writes what is PASS, hands what is SLOW to Python through its
ring, and sleeps in poll(2), without timeout, when nothing is left. If it is told to, it looks for
work a little longer before that, but only as long as work keeps coming within that time. Around each
batch it enters the epoch, by which Python knows when memory that it has unpublished may be freed.

A step returns 1 if it had work, 0 if not, -errno if a descriptor is gone.
"""

from libc.errno cimport ENODEV
from libc.stdint cimport int64_t, uint32_t

from firezone._ext.atomics cimport load_acquire_u32
from firezone._ext.batch cimport Batch, PacketBatch
from firezone._ext.epoch cimport epoch_enter, epoch_leave, reader_down, reader_up
from firezone._ext.lanes cimport LaneState, add, count_in, finish
from firezone._ext.pipeline cimport (
    Pipeline,
    Worker,
    inbound,
    injected_down,
    injected_up,
    outbound,
    taken_over,
)
from firezone._ext.ring cimport wake_clear
from firezone._ext.tun cimport tun_read, tun_write
from firezone._ext.udp cimport udp_receive, udp_send, udp_waits

cdef extern from "poll.h" nogil:
    ctypedef struct pollfd "struct pollfd":
        int fd
        short events
        short revents
    enum:
        POLLERR
        POLLHUP
        POLLIN
        POLLNVAL
    int poll(pollfd*, unsigned long, int)

cdef extern from "time.h" nogil:
    ctypedef struct timespec "struct timespec":
        long tv_sec
        long tv_nsec
    enum:
        CLOCK_BOOTTIME
    int clock_gettime(int, timespec*)


def run_up(Pipeline pipeline not None, uint32_t worker=0, int64_t busy_poll=0):
    """Run the loop TUN to UDP. See loops.pyi."""
    cdef Worker* w = attached(pipeline, worker)
    cdef PacketBatch batch = pipeline.batches_up[worker]
    cdef int code
    with nogil:
        code = up_loop(w, &batch.b, busy_poll)
    return code


def run_down(Pipeline pipeline not None, uint32_t worker=0, int64_t busy_poll=0):
    """Run the loop UDP to TUN. See loops.pyi."""
    cdef Worker* w = attached(pipeline, worker)
    cdef PacketBatch batch = pipeline.batches_down[worker]
    cdef int code
    with nogil:
        code = down_loop(w, &batch.b, busy_poll)
    return code


cdef Worker* attached(Pipeline pipeline, uint32_t worker) except NULL:
    if worker >= pipeline.state.workers:
        raise ValueError("no such worker")
    if pipeline.workers[worker].tun == NULL:
        raise ValueError("attach descriptors first")
    return &pipeline.workers[worker]


cdef int up_loop(Worker* w, Batch* b, int64_t busy_poll) noexcept nogil:
    cdef pollfd sources[2]
    cdef int worked
    cdef bint suspect = False
    cdef int64_t waited = busy_poll + 1
    watch(&sources[0], w.tun.fd)
    watch(&sources[1], w.up.injected.wake_fd)
    while not load_acquire_u32(&w.shared.stopping):
        epoch_enter(w.shared.epoch, reader_up(w.number))
        worked = up_once(w, b)
        epoch_leave(w.shared.epoch, reader_up(w.number))
        if worked < 0:
            return -worked
        if worked == 0:
            # Awake for an error that reading did not clear: it would be so for ever.
            if suspect:
                return ENODEV
            suspect = wait(w.up, sources, 2, busy_poll, &waited) and (
                sources[0].revents & (POLLERR | POLLHUP) != 0
            )
        else:
            suspect = False
    return 0


cdef int up_once(Worker* w, Batch* b) noexcept nogil:
    cdef int injected
    cdef int got
    b.count = 0
    injected = injected_up(w, b, boottime())
    if injected:
        got = up_send(w, b)
        if got < 0:
            return got
    b.count = 0
    got = tun_read(w.tun, b)
    if got <= 0:
        return got if got < 0 else injected
    count_in(w.up, b)
    outbound(w, b, boottime())
    got = up_send(w, b)
    return got if got < 0 else 1


cdef int up_send(Worker* w, Batch* b) noexcept nogil:
    cdef int result = udp_send(w.udp, b)
    finish(w.up, b)
    return result


cdef int down_loop(Worker* w, Batch* b, int64_t busy_poll) noexcept nogil:
    cdef pollfd sources[3]
    cdef int worked
    cdef int64_t waited = busy_poll + 1
    watch(&sources[0], w.udp.fd[0])
    watch(&sources[1], w.udp.fd[1])
    watch(&sources[2], w.down.injected.wake_fd)
    while not load_acquire_u32(&w.shared.stopping):
        epoch_enter(w.shared.epoch, reader_down(w.number))
        worked = down_once(w, b)
        epoch_leave(w.shared.epoch, reader_down(w.number))
        if worked < 0:
            return -worked
        if worked == 0:
            wait(w.down, sources, 3, busy_poll, &waited)
    return 0


cdef int down_once(Worker* w, Batch* b) noexcept nogil:
    cdef int worked = 0
    cdef int result
    cdef int which
    b.count = 0
    if injected_down(w, b, boottime()):
        worked = 1
        result = down_write(w, b)
        if result < 0:
            return result
    b.count = 0
    if w.shared.workers > 1 and taken_over(w, b, boottime()):
        worked = 1
        result = down_write(w, b)
        if result < 0:
            return result
    for which in range(2):
        result = down_receive(w, b, which)
        while udp_waits(w.udp) and result > 0:
            result = down_receive(w, b, which)
        if result < 0:
            return result
        worked |= result
    return worked


cdef int down_receive(Worker* w, Batch* b, int which) noexcept nogil:
    cdef int result
    b.count = 0
    result = udp_receive(w.udp, b, which)
    if result <= 0:
        return result
    count_in(w.down, b)
    inbound(w, b, boottime())
    result = down_write(w, b)
    return result if result < 0 else 1


cdef int down_write(Worker* w, Batch* b) noexcept nogil:
    cdef int result = tun_write(w.tun, b)
    finish(w.down, b)
    return result


cdef inline void watch(pollfd* source, int fd) noexcept nogil:
    source.fd = fd     # poll(2) ignores negative ones
    source.events = POLLIN
    source.revents = 0


# Waits until a source is ready; the last one is the eventfd of the rings. `waited` is how long the
# last wait took: whoever had to wait for longer than it may poll does not poll the next time.
cdef bint wait(
    LaneState* lane, pollfd* sources, unsigned long count, int64_t busy_poll, int64_t* waited
) noexcept nogil:
    cdef int64_t since = boottime() if busy_poll else 0
    cdef int ready = 0
    if busy_poll and waited[0] <= busy_poll:
        ready = look(sources, count, since + busy_poll)
    if ready:
        add(&lane.polled, 1)
    else:
        ready = poll(sources, count, -1)
        if ready <= 0:
            return False
        add(&lane.wakeups, 1)
    if busy_poll:
        waited[0] = boottime() - since
    if sources[count - 1].revents & POLLIN:
        wake_clear(sources[count - 1].fd)
    return True


# Looks until then.
cdef bint look(pollfd* sources, unsigned long count, int64_t until) noexcept nogil:
    while boottime() < until:
        if poll(sources, count, 0) > 0:
            return True
    return False


cdef inline int64_t boottime() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_BOOTTIME, &t)
    return <int64_t>t.tv_sec * 1_000_000_000 + t.tv_nsec
