"""Opens the TUN device that the tunnel's packets come from and go to."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from firezone.errors import ConfigurationError, MissingRightsError

INTERFACE = "tun-firezone"
"""The name that firewall rules and people know the interface by."""

MTU = 1280
"""IPv6's minimum (RFC 8200 section 5): it fits every path once WireGuard's 60 bytes are added."""


@dataclass(frozen=True, slots=True)
class Tun:
    """An open TUN device. It vanishes, with its addresses and routes, when `fd` is closed."""

    fd: int
    name: str

    def close(self) -> None:
        os.close(self.fd)


def open_tun(name: str = INTERFACE) -> Tun:
    """Create and open a TUN device: raw IP packets, no header, non-blocking.

    Owning the device is the proof that no other instance of that name runs in this network
    namespace. Raises MissingRightsError without CAP_NET_ADMIN or access to /dev/net/tun, and
    ConfigurationError if the name is bad or taken.
    """
    _check(name)
    fd = _open_clone_device()
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        raise _explain(error, name) from None
    return Tun(fd, name)


_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_CLONE_DEVICE = Path("/dev/net/tun")
_CLONE_DEVICE_NUMBER = os.makedev(10, 200)


def _check(name: str) -> None:
    if not 0 < len(name.encode()) <= 15 or any(c in "/: \t\n%" for c in name):
        raise ConfigurationError(
            "interface name", repr(name), "not a name Linux takes", "use 1 to 15 plain characters"
        )


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


def _explain(error: OSError, name: str) -> Exception:
    match error.errno:
        case errno.EPERM | errno.EACCES:
            return MissingRightsError("CAP_NET_ADMIN", f"create the interface {name}")
        case errno.EBUSY:
            return ConfigurationError(
                "interface name", name, "in use by another instance", "stop it or choose another"
            )
        case _:
            return ConfigurationError(
                "interface name", name, str(error.strerror), "choose another name"
            )
