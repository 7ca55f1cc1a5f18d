"""Opens the TUN device that the tunnel's packets come from and go to."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from firezone.errors import ConfigurationError, MissingRightsError
from firezone.shell.offload import NONE, OF_TUN, Offload, Offloads
from firezone.shell.steering import steer_queues

INTERFACE = "tun-firezone"
"""The name that firewall rules and people know the interface by."""

MTU = 1280
"""IPv6's minimum (RFC 8200 section 5): it fits every path once WireGuard's 60 bytes are added."""


@dataclass(frozen=True, slots=True)
class Tun:
    """An open TUN device. It vanishes, with its addresses and routes, when it is closed."""

    fd: int
    name: str
    has_header: bool = False
    """A virtio header stands before each packet, both ways (IFF_VNET_HDR)."""
    offloads: Offloads = NONE
    """What the device does, of what was wanted."""
    takes_udp: bool = False
    """With `tun-coalesce`: the kernel knows merged UDP datagrams, too."""
    more_fds: tuple[int, ...] = ()
    """Of the queues after the first (IFF_MULTI_QUEUE)."""

    @property
    def fds(self) -> tuple[int, ...]:
        """One for each queue."""
        return (self.fd, *self.more_fds)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def open_tun(name: str = INTERFACE, offloads: Offloads = NONE, queues: int = 1) -> Tun:
    """Create and open a TUN device: raw IP packets, non-blocking.

    Of `offloads` it gets what the kernel has; if that is nothing, packets have no header. A flow
    stays in one of the `queues`; see `shell.steering`.

    Owning the device is the proof that no other instance of that name runs in this network
    namespace. Raises MissingRightsError without CAP_NET_ADMIN or access to /dev/net/tun, and
    ConfigurationError if the name is bad or taken.
    """
    check_name(name)
    wanted = offloads & OF_TUN
    flags = _IFF_TUN | _IFF_NO_PI | (_IFF_VNET_HDR if wanted else 0)
    if queues > 1:
        flags |= _IFF_MULTI_QUEUE
    try:
        # A device of several queues would take us for one more of them.
        fd = _attach(name, flags | (_IFF_TUN_EXCL if queues > 1 else 0))
    except OSError as error:
        if wanted and error.errno == errno.EINVAL and not _is_there(name):
            return open_tun(name, queues=queues)
        raise _explain(error, name) from None
    more = _attach_more(fd, name, flags, queues - 1)
    _lengthen_queue(name)
    if not wanted:
        return Tun(fd, name, more_fds=more)
    knows_udp = _set_offload(fd, _CSUM | _USO)
    return Tun(fd, name, True, _enable(fd, wanted), knows_udp, more)


def check_name(name: str) -> None:
    """Raise ConfigurationError if no interface can have this name."""
    is_relative = name in (".", "..")
    if not 0 < len(name.encode()) <= 15 or is_relative or any(c in "/: \t\n%" for c in name):
        raise ConfigurationError(
            "interface",
            "--interface or FIREZONE_INTERFACE",
            f"{name!r} is not a name Linux takes",
            "use 1 to 15 plain characters",
        )


logger = logging.getLogger(__name__)

_QUEUE = 1000
"""Packets that wait while the data plane is busy; what more would wait for is too late."""
_SIOCSIFTXQLEN = 0x8943
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN = 0x0001
_IFF_MULTI_QUEUE = 0x0100
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000
_CSUM = 0x01
_TSO = 0x02 | 0x04 | 0x08  # IPv4, IPv6, and with ECN
_USO = 0x20 | 0x40  # the kernel wants both or neither
_CLONE_DEVICE = Path("/dev/net/tun")
_CLONE_DEVICE_NUMBER = os.makedev(10, 200)


def _open_clone_device() -> int:
    try:
        if not _CLONE_DEVICE.exists():  # containers often lack the node, but may create it
            _CLONE_DEVICE.parent.mkdir(mode=0o751, parents=True, exist_ok=True)
            os.mknod(_CLONE_DEVICE, 0o600 | stat.S_IFCHR, _CLONE_DEVICE_NUMBER)
        return os.open(_CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise MissingRightsError(
            "CAP_NET_ADMIN", f"open a TUN device (no access to {_CLONE_DEVICE})"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            "TUN device", str(_CLONE_DEVICE), str(error.strerror), "load the kernel module: tun"
        ) from None


def _attach(name: str, flags: int) -> int:
    fd = _open_clone_device()
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError:
        os.close(fd)
        raise
    return fd


def _attach_more(fd: int, name: str, flags: int, count: int) -> tuple[int, ...]:
    """The queues after the first, whose descriptor is `fd`, and what each of them gets."""
    opened: list[int] = []
    try:
        for _ in range(count):
            opened.append(_attach(name, flags))
    except OSError as error:
        for each in (fd, *opened):
            os.close(each)
        raise _explain(error, name) from None
    if opened and not steer_queues(fd, 1 + count):
        logger.info("the kernel itself spreads flows over queues: no CAP_BPF")
    return tuple(opened)


def _is_there(name: str) -> bool:
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


def _lengthen_queue(name: str) -> None:
    """From TUN's 500, which bursts of one fast sender overrun. Without effect where forbidden."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket, suppress(OSError):
        fcntl.ioctl(any_socket, _SIOCSIFTXQLEN, struct.pack("16si20x", name.encode(), _QUEUE))


def _enable(fd: int, wanted: Offloads) -> Offloads:
    """Switch on what the kernel has of it: all, or without UDP, or nothing but merging."""
    tso = _TSO if Offload.TUN_TSO in wanted else 0
    uso = _USO if Offload.TUN_USO in wanted else 0
    for missing, flags in (
        (NONE, tso | uso),
        ({Offload.TUN_USO}, tso),
        ({Offload.TUN_USO, Offload.TUN_TSO}, 0),
    ):
        if _set_offload(fd, flags | _CSUM if flags else 0):
            return wanted - missing
    return wanted & {Offload.TUN_COALESCE}


def _set_offload(fd: int, flags: int) -> bool:
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, flags)
    except OSError:
        return False
    return True


def _explain(error: OSError, name: str) -> Exception:
    match error.errno:
        case errno.EPERM | errno.EACCES:
            return MissingRightsError("CAP_NET_ADMIN", f"create the interface {name}")
        case errno.EBUSY:
            return ConfigurationError(
                "interface name", name, "in use by another instance", "stop it or choose another"
            )
        case errno.EINVAL if _is_there(name):
            return ConfigurationError(
                "interface name", name, "in use by another program", "stop it or choose another"
            )
        case _:
            return ConfigurationError(
                "interface name", name, str(error.strerror), "choose another name"
            )
