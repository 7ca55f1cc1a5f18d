"""The two threads of the data plane, between the TUN device and the UDP sockets.

`up` runs from the TUN device to UDP, `down` from UDP to the TUN device; both loops hold no GIL from
`start()` to `stop()`, and sleep in poll(2) when nothing is to do. Events for the control layer are
announced by `events_fd`. See `firezone.dataplane` for what they share with Python.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator

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

_STOP_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Dataplane(Tables):
    """The data plane of a program: two threads between a TUN device and UDP sockets.

    The descriptors stay the caller's; they are made non-blocking. `own_public_key` is what
    handshakes to us are checked against (mac1); with `cookie_secret` a good mac2 is known, too,
    and gives way to more of them. `start()` and `stop()` may be repeated.

    `tun` is an open TUN device; `tun_fd` stands for one without offloads, or any descriptor like
    it. `offloads` are those wanted of the sockets; those of the device it has already.
    """

    def __init__(
        self,
        *,
        tun_fd: int | None = None,
        tun: TunDevice | None = None,
        udp4_fd: int | None,
        udp6_fd: int | None,
        own_public_key: bytes,
        flow_capacity: int = FLOW_CAPACITY,
        slots: int = SLOTS,
        mtu: int = 1280,
        offloads: Offloads = NONE,
        entropy: Entropy = os.urandom,
        cookie_secret: commands.CookieSecret | None = None,
        pass_fragments: bool = False,
    ) -> None:
        if (tun is None) == (tun_fd is None):
            raise LocalError("a data plane has one TUN device")
        self.events_fd = _eventfd()
        """Readable while events may wait. Watch it, then call `poll_events()`."""
        self._wake_up_fd, self._wake_down_fd = _eventfd(), _eventfd()
        self._device = TunDevice(tun_fd or 0, "") if tun is None else tun
        self._wanted = offloads
        self._working = NONE
        self._tun: Tun | None = None
        self._udp: UdpSockets | None = None
        self._udp_fds = (udp4_fd, udp6_fd)
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
        )

    def start(self) -> None:
        """Start the two threads. Does nothing while they run.

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
        for name, run in (("up", loops.run_up), ("down", loops.run_down)):
            thread = threading.Thread(
                target=self._run, args=(name, run), name=f"dataplane-{name}", daemon=True
            )
            thread.start()
            self._threads.append(thread)
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
        for fd in (self.events_fd, self._wake_up_fd, self._wake_down_fd):
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

    def set_udp(self, udp4_fd: int | None, udp6_fd: int | None) -> None:
        """Go on with other UDP sockets; the threads pause for it."""
        running = bool(self._threads)
        self.stop()
        self._udp_fds = (udp4_fd, udp6_fd)
        if running:
            self.start()

    def offloads(self) -> Offloads:
        """Those at work: wanted, had, and not refused since."""
        if self._tun is None or self._udp is None:
            return NONE
        working = set(self._device.offloads)
        if self._tun.refused:
            working.discard(Offload.TUN_COALESCE)
        if self._udp.gso:
            working.add(Offload.UDP_GSO)
        if self._udp.gro:
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
        fds = [-1 if fd is None else fd for fd in self._udp_fds]
        for fd in (self._device.fd, *fds):
            if fd >= 0:
                os.set_blocking(fd, False)
        self._tun = self._make_tun()
        self._udp = UdpSockets(
            *fds, gso=Offload.UDP_GSO in self._wanted, gro=Offload.UDP_GRO in self._wanted
        )
        self._pipeline.attach(self._tun, self._udp, self._wake_up_fd, self._wake_down_fd)

    def _make_tun(self) -> Tun:
        device = self._device
        merges = Offload.TUN_COALESCE in device.offloads
        return Tun(
            device.fd,
            self._mtu,
            has_header=device.has_header,
            merge_tcp=merges,
            merge_udp=merges and device.takes_udp,
        )

    def _run(self, name: str, run: Callable[[Pipeline], int]) -> None:
        code = run(self._pipeline)
        if code:
            self._failure = self._failure or f"{name}: {os.strerror(code)}"
            os.eventfd_write(self.events_fd, 1)


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
