"""Opens the relay's sockets: for each family one of every worker, and one of every allocation."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from firezone.errors import ConfigurationError
from firezone.model import Endpoint, IPAddress, Transmit
from firezone.turn.relay_commands import OpenSocket, SendToPeer

_LISTEN_BUFFER: Final = 4 * 1024 * 1024
_RELAY_BUFFER: Final = 1024 * 1024
_AF: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
# Not all of these have a name in the socket module of Python 3.11.
_IP_PKTINFO: Final = 8
_MTU_DISCOVER: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, 10),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23),
}
_PMTUDISC_PROBE: Final = 3
"""Sets DF, and leaves it to the client to find a size that arrives."""
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33

_Ancillary = list[tuple[int, int, bytes]]


def open_listeners(family: int, port: int, count: int) -> list[socket.socket]:
    """For clients, on every address; the kernel gives all datagrams of a client to the same one.

    Raises ConfigurationError if the port is taken.
    """
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            opened.append(_socket(family, _LISTEN_BUFFER))
            # The first one does not share while it binds: another relay's port is taken for it.
            if len(opened) > 1:
                _share(opened[-1])
            opened[-1].bind(("", port))
            if len(opened) == 1 < count:
                _share(opened[0])
    except OSError as error:
        for listener in opened:
            listener.close()
        raise ConfigurationError(
            "listen port",
            "--listen-port or LISTEN_PORT",
            f"cannot listen on UDP port {port} over IPv{family}: {error.strerror}",
            "stop what uses it, or choose another port",
        ) from None
    return opened


def open_relay_socket(command: OpenSocket, public: IPAddress) -> socket.socket:
    """For the peers of an allocation: bound to the public address, so that they see that one, or
    where this host does not have it, as behind a NAT, to all. Raises OSError."""
    opened = _socket(command.family, _RELAY_BUFFER)
    try:
        if command.dont_fragment:
            _set_discovery(opened, _PMTUDISC_PROBE)
        try:
            opened.bind((str(public), command.port))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            opened.bind(("", command.port))
    except OSError:
        opened.close()
        raise
    return opened


def send(opened: socket.socket, command: SendToPeer) -> None:
    """Send a payload from the socket of an allocation. Raises OSError.

    What the data thread sends at that moment is not fragmented either, so is dropped if too large.
    """
    if not command.dont_fragment:
        opened.sendto(command.payload, command.peer.sockaddr)
        return
    before = opened.getsockopt(*_MTU_DISCOVER[opened.family])
    _set_discovery(opened, _PMTUDISC_PROBE)
    try:
        opened.sendto(command.payload, command.peer.sockaddr)
    finally:
        _set_discovery(opened, before)


def never_fragments(opened: socket.socket) -> bool:
    """Whether an allocation's socket was opened so."""
    return opened.getsockopt(*_MTU_DISCOVER[opened.family]) == _PMTUDISC_PROBE


def relayed_address(opened: socket.socket, peer: Endpoint) -> Endpoint | None:
    """What a peer sees as the source of what is sent from an allocation's socket: what it is bound
    to, or else what the kernel chooses by the route. None if there is none."""
    host, port = opened.getsockname()[:2]
    bound = Endpoint.of(host, port)
    if not bound.address.is_unspecified:
        return bound
    with socket.socket(opened.family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(peer.sockaddr)
        except OSError:
            return None
        return Endpoint.of(probe.getsockname()[0], port)


def transmit(listener: socket.socket, datagram: Transmit) -> None:
    """Send it from its `source` address, whatever the routes prefer. Raises OSError."""
    ancillary = _packet_info(datagram.source)
    listener.sendmsg((datagram.payload,), ancillary, 0, datagram.destination.sockaddr)


def _socket(family: int, buffer: int) -> socket.socket:
    try:
        opened = socket.socket(_AF[family], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        raise ConfigurationError(
            f"public IPv{family} address",
            f"--public-ip{family}-addr or PUBLIC_IP{family}_ADDR",
            f"this host has no IPv{family}",
            "leave it out",
        ) from None
    if family == 6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    _enlarge(opened, _SO_RCVBUFFORCE, socket.SO_RCVBUF, buffer)
    _enlarge(opened, _SO_SNDBUFFORCE, socket.SO_SNDBUF, buffer)
    return opened


def _share(listener: socket.socket) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _enlarge(opened: socket.socket, force: int, plain: int, size: int) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, force, size)
    except OSError:  # without CAP_NET_ADMIN the kernel caps it at its own limit, silently
        opened.setsockopt(socket.SOL_SOCKET, plain, size)


def _set_discovery(opened: socket.socket, value: int) -> None:
    opened.setsockopt(*_MTU_DISCOVER[opened.family], value)


def _packet_info(source: Endpoint | None) -> _Ancillary:
    if source is None:
        return []
    packed = source.address.packed
    if len(packed) == 4:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("@i4s4s", 0, packed, bytes(4)))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("@16sI", packed, 0))]
