"""The threads of the data plane, between the TUN device and the UDP sockets.

Each worker has two: `up` runs from its queue of the TUN device to UDP, `down` from its UDP sockets
to the TUN device. Both loops hold no GIL from `start()` to `stop()`, and sleep in poll(2) when
nothing is to do. Events for the control layer are announced by `events_fd`. What they share with
Python is told in `firezone.dataplane`, how packets come to their worker in `shell.steering`.
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from firezone import commands
from firezone._ext import loops
from firezone._ext.pipeline import Pipeline
from firezone._ext.tun import Tun
from firezone._ext.udp import UdpSockets
from firezone.dataplane import FLOW_CAPACITY, SLOTS, Flow, Tables
from firezone.errors import LocalError
from firezone.model import Entropy
from firezone.shell.clock import boottime_ns
from firezone.shell.offload import NONE, Offload, Offloads, describe
from firezone.shell.tun import Tun as TunDevice

Fds = int | Sequence[int] | None
"""A family's socket, or one for each worker; None or none at all without the family."""

_STOP_SECONDS = 1.0
_DELETED = (errno.EBADFD, errno.ENODEV)
"""What the TUN device, and nothing else, says once it is gone."""

logger = logging.getLogger(__name__)


class Dataplane(Tables):
    """The data plane of a program: pairs of threads between a TUN device and UDP sockets.

    The descriptors stay the caller's; they are made non-blocking. `own_public_key` is what
    handshakes to us are checked against (mac1); with `cookie_secret` a good mac2 is known, too,
    and gives way to more of them. `start()` and `stop()` may be repeated.

    `tun` is an open TUN device; `tun_fd` stands for one without offloads, or any descriptor like
    it. It has a worker for each queue of the device, and as many sockets of each family.
    `offloads` are those wanted of the sockets; those of the device it has already. `busy_poll` is
    for how many ns a thread looks for work before it sleeps, while work comes that fast.
    """

    def __init__(
        self,
        *,
        tun_fd: int | None = None,
        tun: TunDevice | None = None,
        udp4_fd: Fds,
        udp6_fd: Fds,
        own_public_key: bytes,
        flow_capacity: int = FLOW_CAPACITY,
        slots: int = SLOTS,
        mtu: int = 1280,
        offloads: Offloads = NONE,
        entropy: Entropy = os.urandom,
        cookie_secret: commands.CookieSecret | None = None,
        pass_fragments: bool = False,
        takes_stun: bool = True,
        busy_poll: int = 0,
    ) -> None:
        if (tun is None) == (tun_fd is None):
            raise LocalError("a data plane has one TUN device")
        self.events_fd = _eventfd()
        """Readable while events may wait. Watch it, then call `poll_events()`."""
        self._device = TunDevice(tun_fd or 0, "") if tun is None else tun
        self._wake_fds = [(_eventfd(), _eventfd()) for _ in self._device.fds]
        self._wanted = offloads
        self._busy_poll = busy_poll
        self._working = NONE
        self._tuns: list[Tun] = []
        self._sockets: list[UdpSockets] = []
        self._udp_fds = _pairs(udp4_fd, udp6_fd, self.workers)
        self._threads: list[threading.Thread] = []
        self._failure: str | None = None
        self._closed = False
        super().__init__(
            own_public_key=own_public_key,
            flow_capacity=flow_capacity,
            slots=slots,
            mtu=mtu,
            entropy=entropy,
            wake_fd=self.events_fd,
            cookie_secret=cookie_secret,
            pass_fragments=pass_fragments,
            takes_stun=takes_stun,
            workers=self.workers,
        )

    @property
    def workers(self) -> int:
        """Pairs of threads."""
        return len(self._device.fds)

    def start(self) -> None:
        """Start the threads. Does nothing while they run.

        Raises OSError for descriptors that are no datagram sockets or TUN device.
        """
        if self._threads:
            return
        if self._closed:
            raise LocalError("the data plane is closed")
        self._attach()
        self._working = self.offloads()
        logger.debug("data plane starts", extra={"offloads": describe(self._working)})
        self._failure = None
        for worker in range(self.workers):
            self._start_thread("up", loops.run_up, worker)
            self._start_thread("down", loops.run_down, worker)
        # The interpreter must not go away under them.
        atexit.register(self.stop)

    def stop(self) -> None:
        """End and join the threads, within a second. Does nothing when they do not run."""
        if not self._threads:
            return
        self._pipeline.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise RuntimeError(f"{thread.name} does not stop")
        self._threads.clear()
        atexit.unregister(self.stop)

    def close(self) -> None:
        """Stop, and close `events_fd`. The data plane is of no use afterwards."""
        self.stop()
        if self._closed:
            return
        self._closed = True
        for fd in (self.events_fd, *chain.from_iterable(self._wake_fds)):
            os.close(fd)

    def apply(self, command: commands.Command, now: int | None = None) -> None:
        """Carry out a command. `now` is the boot-time clock unless given.

        Raises LocalError for a slot that is not open or a value that cannot be. A command that
        found no room is counted, not raised: its packets will come up again.
        """
        if self._closed:
            raise LocalError("the data plane is closed")
        self._apply(command, boottime_ns() if now is None else now)

    def failure(self) -> str | None:
        """Why a thread ended by itself, None while all is well. `events_fd` tells when to look."""
        return self._failure

    def set_udp(self, udp4_fd: Fds, udp6_fd: Fds) -> None:
        """Go on with as many other UDP sockets; the threads pause for it.

        Raises OSError for what are no datagram sockets, and goes on with those it had."""
        before, after = self._udp_fds, _pairs(udp4_fd, udp6_fd, self.workers)
        running = bool(self._threads)
        self.stop()
        self._udp_fds = after
        if not running:
            return
        try:
            self.start()
        except BaseException:
            self._udp_fds = before
            self.start()
            raise

    def offloads(self) -> Offloads:
        """Those at work: wanted, had, and not refused since."""
        if not self._tuns:
            return NONE
        working = set(self._device.offloads)
        if any(tun.refused for tun in self._tuns):
            working.discard(Offload.TUN_COALESCE)
        if all(udp.gso for udp in self._sockets):
            working.add(Offload.UDP_GSO)
        if all(udp.gro for udp in self._sockets):
            working.add(Offload.UDP_GRO)
        return frozenset(working)

    def sweep(self, now: int, limit: int = 4096) -> Iterator[Flow]:
        self._note_refused()
        return super().sweep(now, limit)

    def _note_refused(self) -> None:
        """Say once what the kernel did not do after all."""
        lost = self._working - self.offloads() if self._threads else NONE
        if lost:
            self._working -= lost
            logger.warning("the kernel refuses an offload", extra={"offloads": describe(lost)})

    def _attach(self) -> None:
        for fd in (*self._device.fds, *chain.from_iterable(self._udp_fds)):
            if fd >= 0:
                os.set_blocking(fd, False)
        self._tuns = [self._make_tun(fd) for fd in self._device.fds]
        self._sockets = [
            UdpSockets(
                *pair, gso=Offload.UDP_GSO in self._wanted, gro=Offload.UDP_GRO in self._wanted
            )
            for pair in self._udp_fds
        ]
        for worker, wake_fds in enumerate(self._wake_fds):
            self._pipeline.attach(self._tuns[worker], self._sockets[worker], *wake_fds, worker)

    def _make_tun(self, fd: int) -> Tun:
        device = self._device
        merges = Offload.TUN_COALESCE in device.offloads
        return Tun(
            fd,
            self._mtu,
            has_header=device.has_header,
            merge_tcp=merges,
            merge_udp=merges and device.takes_udp,
        )

    def _start_thread(self, name: str, run: Run, worker: int) -> None:
        name = f"{name}-{worker}" if worker else name
        thread = threading.Thread(
            target=self._run, args=(name, run, worker), name=f"dataplane-{name}", daemon=True
        )
        thread.start()
        self._threads.append(thread)

    def _run(self, name: str, run: Run, worker: int) -> None:
        code = run(self._pipeline, worker, self._busy_poll)
        if code:
            self._failure = self._failure or (
                "the interface was deleted" if code in _DELETED else f"{name}: {os.strerror(code)}"
            )
            os.eventfd_write(self.events_fd, 1)


Run = Callable[[Pipeline, int, int], int]


def _pairs(udp4: Fds, udp6: Fds, workers: int) -> list[tuple[int, int]]:
    """The sockets of each worker, -1 for none. Raises LocalError if they are not as many."""
    families = []
    for fds in (udp4, udp6):
        given = [] if fds is None else [fds] if isinstance(fds, int) else list(fds)
        if given and len(given) != workers:
            raise LocalError(f"{workers} workers cannot share {len(given)} sockets")
        families.append(given or [-1] * workers)
    return list(zip(*families, strict=True))


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
