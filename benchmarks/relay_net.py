"""What the relay and its clients and peers are joined by: a loopback, or a wire.

    ends  ei ════ veth ════ ri  relay          one namespace each

Both interfaces do what those of a wire do. Frames are one datagram each: what was to be split
(UDP_SEGMENT) is split by the sender's kernel, for want of a NIC that would. What comes in is merged
where that may be (GRO), by a kernel thread of each interface, threaded NAPI, as a NIC's interrupts
would have it done. Checksums are left to the device on both ways, which has nothing to do for it.

So the relay's side is its process and the thread of `ri`; the other side is the load's process and
the thread of `ei`. A process pays for what it sends up to the ring of the interface opposite, which
holds 256 frames. On a loopback it pays for the receiver's work, too, up to its socket, and nothing
is merged.

Both threads are on the relay's CPU, and that of `ei` waits until the relay does: so nobody who
sends pays for waking a thread on another CPU at each datagram, where a NIC would be told of it with
one write.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from firezone.shell.bpf import XdpLink, XdpMode, XdpProgram
from firezone.xdp.assembler import EXIT, R0, assemble, move
from firezone.xdp.program import LICENCE, Verdict

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
SIOCETHTOOL, ETHTOOL_STSO, ETHTOOL_SGRO = 0x8946, 0x1F, 0x2C


class RelayNet:
    """A loopback, which both sides share."""

    relay = ends = "127.0.0.1"

    def socket(self) -> socket.socket:
        """Of a client or peer."""
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.bind((self.ends, 0))
        return made

    def start(self, command: list[str], cwd: Path | None) -> subprocess.Popen[bytes]:
        """Run a relay."""
        return subprocess.Popen(
            command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def relay_cpu_ns(self) -> int:
        """Of kernel threads that serve the relay alone."""
        return 0

    def ends_cpu_ns(self) -> int:
        """Of kernel threads that serve clients and peers alone."""
        return 0

    def close(self) -> None:
        pass


LOOPBACK = RelayNet()


class Wire(RelayNet):
    """Made from within the namespace of the ends, which keeps its interface until it goes."""

    relay, ends = "192.0.2.1", "192.0.2.2"
    _names = "ei", "ri"

    def __init__(self, coalesce_us: int = 0) -> None:
        """Frames wait for that long in the relay's interface, so that more of them come together,
        as in NICs that do not interrupt for each."""
        self._inside = Namespace()
        try:
            own, self.interface = (f"{name}{os.getpid()}" for name in self._names)
            self._inside.run(ip, "link set lo up")
            ip(f"link add {own} type veth peer name {self.interface} netns {self._inside.id}")
            self._ends = _open(own, self.ends)
            self._relay = self._inside.run(_open, self.interface, self.relay, coalesce_us)
            for thread in self._ends:
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
        except BaseException:
            self.close()
            raise

    def start(self, command: list[str], cwd: Path | None) -> subprocess.Popen[bytes]:
        return self._inside.run(super().start, command, cwd)

    def relay_cpu_ns(self) -> int:
        return sum(map(cpu_ns, self._relay))

    def ends_cpu_ns(self) -> int:
        return sum(map(cpu_ns, self._ends))

    def close(self) -> None:
        self._inside.close()


class XdpWire(Wire):
    """Whose frames may be sent by a program in the kernel: a veth takes them only if it has a
    program, too. Both interfaces then do without GRO, as frames do not become packets at once."""

    relay, ends = "198.51.100.1", "198.51.100.2"
    _names = "ex", "rx"

    def __init__(self, coalesce_us: int = 0) -> None:
        super().__init__(coalesce_us)
        try:
            self._link = _pass_all(f"{self._names[0]}{os.getpid()}")
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        self._link.close()
        super().close()


@contextlib.contextmanager
def opened(path: str, coalesce_us: int) -> Iterator[RelayNet]:
    net = RelayNet() if path == "loopback" else Wire(coalesce_us)
    try:
        yield net
    finally:
        net.close()


PATHS = ("loopback", "interface")


class Namespace:
    """A network namespace, which is that of one thread. The thread runs on the last CPU."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=_unshare)
        self.id = self.run(threading.get_native_id)

    def run(self, what: Callable[..., T], *arguments: Any) -> T:
        return self._thread.submit(what, *arguments).result(60)

    def socket(self, host: str) -> socket.socket:
        """A bound socket of this namespace, for any thread."""
        made: socket.socket = self.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.bind((host, 0))
        return made

    def close(self) -> None:
        self._thread.shutdown()


def ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def cpu_ns(pid: int) -> int:
    """CPU time of a process with one thread, or of a thread."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def _open(device: str, host: str, coalesce_us: int = 0) -> list[int]:
    """Bring an interface up; the threads that receive for it, which are on the first CPU."""
    _ethtool(device, ETHTOOL_SGRO, 1)
    _ethtool(device, ETHTOOL_STSO, 0)  # or the other end does not merge
    ip(f"address add {host}/24 dev {device}", f"link set {device} gso_max_segs 1 up")
    settings = {"threaded": 1}
    if coalesce_us:
        settings |= {"gro_flush_timeout": coalesce_us * 1000, "napi_defer_hard_irqs": 1}
    script = ["set -e; mount -t sysfs sysfs /sys; cd /sys/class/net"]
    script += [f"echo {value} > {device}/{name}" for name, value in settings.items()]
    subprocess.run(["unshare", "--mount", "sh", "-c", "; ".join(script)], check=True)
    threads = _threads_of(device)
    if not threads:
        raise OSError(f"{device} has no threads that receive for it")
    for each in threads:
        os.sched_setaffinity(each, {0})
    return threads


def _pass_all(device: str) -> XdpLink:
    code = assemble([move(R0, Verdict.PASS), EXIT])
    with contextlib.closing(XdpProgram(code, LICENCE)) as program:
        return XdpLink(program, socket.if_nametoindex(device), XdpMode.NATIVE)


def _threads_of(device: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text().startswith(f"napi/{device}-"):
                found.append(int(path.parent.name))
    return found


def _ethtool(device: str, command: int, value: int) -> None:
    request = ctypes.create_string_buffer(struct.pack("=II", command, value), 8)
    asked = struct.pack("16sP16x", device.encode(), ctypes.addressof(request))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, asked)


def _unshare() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "a network namespace")
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
