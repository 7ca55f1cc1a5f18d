"""The UDP sockets of the data plane: one for each family, on every interface.

Both are bound to the wildcard address and tell the local address of each datagram (packet info),
so that one port serves every interface and a reply leaves from the address that was asked. They
carry a firewall mark, by which the routing rule of `netlink.py` keeps the tunnel's own datagrams
out of the tunnel.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address
from itertools import chain
from typing import Literal

from firezone.model import Endpoint, IPAddress, Transmit
from firezone.shell.steering import steer_sockets

PORT = 52625
"""The port tried first, so that a firewall can be opened for it."""

MARK = 0xFD002021
"""SO_MARK of all sockets whose traffic must not enter the tunnel."""

RECEIVE_BUFFER = 10 * 1024 * 1024
SEND_BUFFER = 1024 * 1024

Family = Literal[4, 6]


class UdpSocket:
    """A non-blocking UDP socket of one family, ready for recvmmsg in the data plane.

    `counters` counts datagrams that could not be sent by the name of the error. `marked` is False
    where the kernel refused the mark (no CAP_NET_ADMIN).
    """

    def __init__(
        self,
        family: Family,
        port: int = PORT,
        address: str = "",
        mark: int = MARK,
        *,
        shared: bool = False,
    ) -> None:
        """Bind to `port`, or to any free one if that is taken. Raises OSError without family.

        `shared`: to a port of another socket that shares it, else none."""
        self.family = family
        self._address, self._mark = address, mark
        self.counters: Counter[str] = Counter()
        self.last_error = 0
        """The errno of the last datagram that could not be sent; 0 = none."""
        self._socket = _open(family)
        self.marked = set_mark(self._socket, mark)
        try:
            if shared:
                _share(self._socket)
            self.port = _bind(self._socket, address, port, exactly=shared)
        except OSError:
            self._socket.close()
            raise

    def group(self, count: int) -> tuple[UdpSocket, ...]:
        """This one and others of the same port, among which the kernel distributes transport data
        by worker. Raises OSError.

        It was bound alone, so no other program has the port."""
        members = [self]
        if count == 1:
            return (self,)
        try:
            _share(self._socket)
            for _ in range(count - 1):
                members.append(
                    UdpSocket(self.family, self.port, self._address, self._mark, shared=True)
                )
        except OSError:
            for each in members:
                each.close()
            raise
        try:
            steer_sockets(self._socket, count)
        except OSError as error:
            # Slower, but right: workers hand over to each other.
            logger.warning("datagrams are not steered", extra={"error": error.strerror})
        return tuple(members)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, transmit: Transmit) -> bool:
        """Send a datagram from the source address it names. False, and counted, if that failed."""
        try:
            self._socket.sendmsg(
                (transmit.payload,), _packet_info(transmit.source), 0, transmit.destination.sockaddr
            )
        except OSError as error:
            self._count(error)
            return False
        return True

    def forbid_fragmentation(self) -> None:
        """Send what fits the interface as it is, whatever the path was last said to take."""
        if self.family == 4:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)

    def receive(self) -> tuple[bytes, Endpoint, Endpoint] | None:
        """The next datagram with its local and remote endpoint, or None. For tests and probes."""
        try:
            data, ancillary, _flags, source = self._socket.recvmsg(0xFFFF, 64)
        except OSError:
            return None
        return data, Endpoint(_local_address(ancillary), self.port), Endpoint.of(*source[:2])

    def close(self) -> None:
        self._socket.close()

    def _count(self, error: OSError) -> None:
        self.last_error = error.errno or 0
        name = errno.errorcode.get(error.errno or 0, "unknown")
        if error.errno in (errno.EPERM, errno.EACCES) and not self.counters[name]:
            logger.warning("a firewall of this host refuses to send", extra={"family": self.family})
        self.counters[name] += 1


class UdpSockets:
    """The pair of sockets. Either may be missing; `send` picks the one of the destination.

    With several `workers` each stands for a group, of which the data plane has all.
    """

    def __init__(self, port: int = PORT, mark: int = MARK, workers: int = 1) -> None:
        """Open both families. Raises OSError only if neither can be had."""
        self.v4 = _open_or_none(4, port, mark)
        self.v6 = _open_or_none(6, port, mark)
        self.counters: Counter[str] = Counter()
        if self.v4 is None and self.v6 is None:
            raise OSError(errno.EADDRNOTAVAIL, "no UDP socket could be opened")
        warn_if_unmarked(self.all())
        self._groups = group_all(self.all(), workers)

    def of(self, family: int) -> UdpSocket | None:
        return self.v4 if family == 4 else self.v6

    def fds(self, family: Family) -> tuple[int, ...]:
        """The descriptors of a family's group, for the data plane; none without the family."""
        return tuple(each.fileno() for each in self._groups.get(family, ()))

    def all(self) -> list[UdpSocket]:
        """Those there are."""
        return [each for each in (self.v4, self.v6) if each is not None]

    def send(self, transmit: Transmit) -> bool:
        """Send by the socket of the destination's family. False, and counted, if that failed."""
        chosen = self.of(transmit.destination.family)
        if chosen is None:
            self.counters["no socket of that family"] += 1
            return False
        return chosen.send(transmit)

    def close(self) -> None:
        for each in chain.from_iterable(self._groups.values()):
            each.close()


def group_all(sockets: Iterable[UdpSocket], workers: int) -> dict[Family, tuple[UdpSocket, ...]]:
    """The group of each socket, by family. Raises OSError, and then all are closed."""
    firsts = list(sockets)
    groups: dict[Family, tuple[UdpSocket, ...]] = {}
    try:
        for first in firsts:
            groups[first.family] = first.group(workers)
    except OSError:
        for each in (*firsts, *chain.from_iterable(groups.values())):
            each.close()
        raise
    return groups


def warn_if_unmarked(sockets: Iterable[UdpSocket]) -> None:
    """Once for all of them: nobody may find out by a tunnel inside itself."""
    if not all(opened.marked for opened in sockets):
        logger.warning(
            "the kernel refuses to mark our datagrams (CAP_NET_ADMIN): routing rules cannot tell "
            "them from others, and may lead them into the tunnel"
        )


def set_mark(target: socket.socket, mark: int = MARK) -> bool:
    """Mark a socket's traffic. False where the kernel refuses (no CAP_NET_ADMIN)."""
    try:
        target.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("@I", mark))
    except OSError:
        return False
    return True


logger = logging.getLogger(__name__)

_AF = {4: socket.AF_INET, 6: socket.AF_INET6}
# Not all of these have a name in the socket module of Python 3.11.
_IP_PKTINFO = 8
_IP_MTU_DISCOVER = 10
_IP_RECVTOS = 13
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_PROBE = 3
_IPV6_PKTINFO = socket.IPV6_PKTINFO
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33


def _open_or_none(family: Family, port: int, mark: int) -> UdpSocket | None:
    try:
        return UdpSocket(family, port, mark=mark)
    except OSError as error:
        logger.debug("no UDP socket", extra={"family": family, "error": error.strerror})
        return None


def _open(family: Family) -> socket.socket:
    opened = socket.socket(_AF[family], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if family == 4:
        opened.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        opened.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    _enlarge(opened, _SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER)
    _enlarge(opened, _SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER)
    return opened


def _enlarge(opened: socket.socket, force: int, plain: int, size: int) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, force, size)
    except OSError:  # without CAP_NET_ADMIN the kernel caps it at its own limit, silently
        opened.setsockopt(socket.SOL_SOCKET, plain, size)


def _share(opened: socket.socket) -> None:
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _bind(opened: socket.socket, address: str, port: int, *, exactly: bool = False) -> int:
    try:
        opened.bind((address, port))
    except OSError as error:
        if exactly or error.errno != errno.EADDRINUSE:
            raise
        opened.bind((address, 0))
    bound: int = opened.getsockname()[1]
    return bound


def _packet_info(source: Endpoint | None) -> list[tuple[int, int, bytes]]:
    if source is None:
        return []
    packed = source.address.packed
    if len(packed) == 4:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("@i4s4s", 0, packed, b""))]
    return [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, struct.pack("@16sI", packed, 0))]


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> IPAddress:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            # ipi_addr, the header's destination, not ipi_spec_dst: they differ for broadcasts
            return Endpoint.of(socket.inet_ntop(socket.AF_INET, data[8:12]), 0).address
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
            return Endpoint.of(socket.inet_ntop(socket.AF_INET6, data[:16]), 0).address
    return IPv4Address(0)
