"""The UDP sockets of a WireGuard interface: both families on one port, exactly the wanted one."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator

from firezone.model import Transmit
from firezone.shell.sockets import Family, UdpSocket, group_all, warn_if_unmarked

_ATTEMPTS = 16


class WgSockets:
    """Sockets for each family that this host has, one for each worker. `port` is that of all."""

    def __init__(self, port: int, mark: int, workers: int = 1) -> None:
        """Port 0 is any free one. Raises OSError if the port is taken or no family is there."""
        self.port, self._sockets = _open(port, mark)
        if mark:
            warn_if_unmarked(self._sockets.values())
        self._groups = group_all(self._sockets.values(), workers)

    def fds(self, family: Family) -> tuple[int, ...]:
        """The descriptors of a family's sockets, for the data plane; none without the family."""
        return tuple(each.fileno() for each in self._groups.get(family, ()))

    def send(self, transmit: Transmit) -> bool:
        """False, and counted by the socket, if that failed."""
        opened = self._sockets.get(4 if transmit.destination.family == 4 else 6)
        return opened is not None and opened.send(transmit)

    @property
    def failed(self) -> int:
        """How many sends failed."""
        return sum(opened.counters.total() for opened in self._all())

    @property
    def counters(self) -> Counter[str]:
        """Datagrams that could not be sent, by the name of the error."""
        return sum((opened.counters for opened in self._all()), Counter())

    @property
    def last_error(self) -> int:
        """The errno of a send that failed; 0 = none."""
        return next(filter(None, (opened.last_error for opened in self._all())), 0)

    def set_mark(self, mark: int) -> None:
        """Change the firewall mark. Raises OSError without CAP_NET_ADMIN."""
        for opened in self._all():
            with socket.socket(fileno=os.dup(opened.fileno())) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("@I", mark))

    def close(self) -> None:
        for opened in self._all():
            opened.close()

    def _all(self) -> list[UdpSocket]:
        return [each for group in self._groups.values() for each in group]


def _open(port: int, mark: int) -> tuple[int, dict[Family, UdpSocket]]:
    """One that is free for IPv4 may be taken for IPv6: then another one is tried."""
    for _ in range(1 if port else _ATTEMPTS):
        opened: dict[Family, UdpSocket] = {}
        chosen = port
        try:
            for family in _families():
                opened[family] = _bound(family, chosen, mark)
                chosen = opened[family].port
            return chosen, opened
        except OSError:
            for each in opened.values():
                each.close()
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _families() -> Iterator[Family]:
    families: tuple[tuple[Family, int], ...] = ((4, socket.AF_INET), (6, socket.AF_INET6))
    for family, number in families:
        with contextlib.suppress(OSError), socket.socket(number, socket.SOCK_DGRAM):
            yield family


def _bound(family: Family, port: int, mark: int) -> UdpSocket:
    opened = UdpSocket(family, port, mark=mark)
    if port and opened.port != port:
        opened.close()
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    return opened
