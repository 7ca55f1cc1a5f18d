"""The relay's sockets on an asyncio loop.

One listening socket per family, and one socket per allocation and family. What arrives on a bound
channel, in either direction, is forwarded right here: one dictionary lookup per packet, the payload
never copied. It is read behind room for the ChannelData header, which is written in front of it.
Everything else goes to the role.

This path costs some four microseconds per packet (`benchmarks/bench_relay.py`), system calls
included. A compiled forwarding table can take its place: it needs no more than the role's
`BindChannel` and `UnbindChannel`.

A socket is read for a bounded number of datagrams at a time, so that a flood on one starves neither
the other ones nor timers, signals and the portal. What cannot be sent at once is dropped, as any
router does, and counted. One socket that breaks costs its allocation and no other.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from firezone.durations import SECOND
from firezone.errors import ConfigurationError
from firezone.model import Endpoint, IPAddress, Transmit
from firezone.relay import RelayRole, RoleEvent
from firezone.turn.relay_commands import (
    BindChannel,
    CloseSocket,
    FiveTuple,
    OpenSocket,
    SendToPeer,
    UnbindChannel,
)

BATCH: Final = 64
"""Datagrams read from one socket before others have their turn."""

_HEADER: Final = 4
_BUFFER: Final = 0x10000
_LISTEN_BUFFER: Final = 4 * 1024 * 1024
_RELAY_BUFFER: Final = 1024 * 1024

_RawAddress = tuple[str, int]
_Ancillary = list[tuple[int, int, bytes]]
_ClientKey = tuple[_RawAddress, bytes]
"""The 5-tuple as the kernel gives it: source address, and our address as packed bytes."""


class RelaySockets:
    """Runs a relay role on sockets. `on_event` gets the role's events, in order.

    `counters` holds what was dropped, by reason.
    """

    def __init__(
        self,
        role: RelayRole,
        *,
        public: Iterable[IPAddress],
        listen_port: int,
        clock: Callable[[], int],
        on_event: Callable[[RoleEvent], None],
    ) -> None:
        """`public` are the relay's public addresses: their families are those it serves."""
        self._role = role
        self._public: dict[int, IPAddress] = {a.version: a for a in public}
        self._listen_port = listen_port
        self._clock = clock
        self._on_event = on_event
        self._listeners: dict[int, _Listener] = {}
        self._relays: dict[tuple[int, int], _RelaySocket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: int | None = None
        self._buffer = bytearray(_HEADER + _BUFFER)
        self.counters: Counter[str] = Counter()

    def open(self) -> None:
        """Listen. Raises ConfigurationError if a port is taken or a family missing."""
        loop = asyncio.get_running_loop()
        for family in self._public:
            listener = _Listener(family, self._listen_port)
            self._listeners[family] = listener
            loop.add_reader(listener.socket.fileno(), self._read_listener, listener)
        self.flush()

    def close(self) -> None:
        """Close every socket."""
        for listener in self._listeners.values():
            self._close(listener.socket)
        for relay in self._relays.values():
            self._close(relay.socket)
        self._listeners.clear()
        self._relays.clear()
        if self._timer is not None:
            self._timer.cancel()

    def flush(self) -> None:
        """Carry out what the role wants. Call it after every input it got from elsewhere."""
        while (command := self._role.poll_command()) is not None:
            match command:
                case Transmit():
                    self._transmit(command)
                case SendToPeer():
                    self._send_to_peer(command)
                case OpenSocket(port, family):
                    self._open_relay_socket(port, family)
                case CloseSocket(port, family):
                    self._close_relay_socket(port, family)
                case BindChannel():
                    self._bind(command)
                case UnbindChannel():
                    self._unbind(command)
        while (event := self._role.poll_event()) is not None:
            self._on_event(event)
        self._arm()

    # From clients

    def _read_listener(self, listener: _Listener) -> None:
        buffer = self._buffer
        view = memoryview(buffer)
        receive, clients = listener.socket.recvmsg_into, listener.clients
        local_at, relayed = listener.local_at, 0
        for _ in range(BATCH):
            try:
                size, ancillary, _flags, address = receive((view,), 64)
            except BlockingIOError:
                break
            except OSError as error:
                self._count("receive", error)
                break
            local = ancillary[0][2][local_at] if ancillary else b""
            if size >= _HEADER and 0x40 <= buffer[0] < 0x80:
                relayed += self._forward(view, size, clients.get((address[:2], local)))
            elif size:
                self._control(listener, bytes(view[:size]), local, address)
        self._relayed(relayed)

    def _forward(self, view: memoryview, size: int, channels: _Channels | None) -> int:
        """Client to peer. Returns the payload's size, 0 if it was dropped."""
        end = _HEADER + (view[2] << 8 | view[3])
        if channels is None or end > size:
            self.counters["unbound_channel" if channels is None else "truncated"] += 1
            return 0
        forward = channels.get(view[0] << 8 | view[1])
        if forward is None:
            self.counters["unbound_channel"] += 1
            return 0
        send, peer = forward
        try:
            send(view[_HEADER:end], peer)
        except OSError as error:
            self._count("send_to_peer", error)
            return 0
        return end - _HEADER

    def _control(
        self, listener: _Listener, data: bytes, local: bytes, address: _RawAddress
    ) -> None:
        source = Endpoint.of(*address[:2])
        here = None
        if local:
            host = socket.inet_ntop(listener.socket.family, local)
            here = Endpoint.of(host, self._listen_port)
        self._role.handle_client_datagram(here, source, data, self._clock())
        self.flush()

    # From peers

    def _read_relay_socket(self, relay: _RelaySocket) -> None:
        buffer, view = self._buffer, memoryview(self._buffer)
        room = view[_HEADER:]
        receive, channels, relayed = relay.socket.recvfrom_into, relay.channels, 0
        for _ in range(BATCH):
            try:
                size, address = receive(room)
            except BlockingIOError:
                break
            except OSError as error:
                self._fail(relay, error)
                break
            back = channels.get(address[:2])
            if back is None:
                self.counters["unbound_peer"] += 1
                continue
            send, ancillary, client, number = back
            _CHANNEL_HEADER.pack_into(buffer, 0, number, size)
            try:
                send((view[: _HEADER + size],), ancillary, 0, client)
            except OSError as error:
                self._count("send_to_client", error)
            else:
                relayed += size
        self._relayed(relayed)

    def _fail(self, relay: _RelaySocket, error: OSError) -> None:
        self._count("receive", error)
        self._role.server.handle_socket_failed(relay.port, self._clock())
        self._role.handle_activity(self._clock())
        self.flush()

    def _relayed(self, count: int) -> None:
        if count:
            self._role.handle_relayed(count)

    # Commands

    def _transmit(self, transmit: Transmit) -> None:
        destination = transmit.destination
        listener = self._listeners[destination.family]
        ancillary = _packet_info(transmit.source)
        try:
            listener.socket.sendmsg((transmit.payload,), ancillary, 0, destination.sockaddr)
        except OSError as error:
            self._count("send_to_client", error)

    def _send_to_peer(self, command: SendToPeer) -> None:
        relay = self._relays.get((command.port, command.peer.family))
        if relay is None:
            return
        try:
            relay.socket.sendto(command.payload, command.peer.sockaddr)
        except OSError as error:
            self._count("send_to_peer", error)

    def _open_relay_socket(self, port: int, family: int) -> None:
        try:
            relay = _RelaySocket(family, port, self._public[family])
        except OSError as error:
            self._count("open", error)
            self._role.handle_socket_opened(port, family, False, self._clock())
            return
        self._relays[port, family] = relay
        loop = asyncio.get_running_loop()
        loop.add_reader(relay.socket.fileno(), self._read_relay_socket, relay)
        self._role.handle_socket_opened(port, family, True, self._clock())

    def _close_relay_socket(self, port: int, family: int) -> None:
        relay = self._relays.pop((port, family), None)
        if relay is not None:
            self._close(relay.socket)

    def _bind(self, command: BindChannel) -> None:
        client, local = command.five_tuple
        listener = self._listeners[client.family]
        relay = self._relays[command.port, command.peer.family]
        peer = _raw(command.peer)
        channels = listener.clients.setdefault(_client_key(command.five_tuple), {})
        channels[command.number] = (relay.socket.sendto, peer)
        send = listener.socket.sendmsg
        relay.channels[peer] = (send, _packet_info(local), _raw(client), command.number)

    def _unbind(self, command: UnbindChannel) -> None:
        key = _client_key(command.five_tuple)
        clients = self._listeners[command.five_tuple.client.family].clients
        channels = clients.get(key, {})
        channels.pop(command.number, None)
        if not channels:
            clients.pop(key, None)
        relay = self._relays.get((command.port, command.peer.family))
        if relay is not None:
            relay.channels.pop(_raw(command.peer), None)

    # Time

    def _arm(self) -> None:
        """Asyncio's timers are not ours: one of them stands for the role's next deadline."""
        timeout = self._role.poll_timeout()
        deadline = None if timeout is None else timeout.deadline
        if deadline == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at, self._timer = deadline, None
        if deadline is not None:
            delay = max(deadline - self._clock(), 0) / SECOND
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        """The loop's clock may be a little ahead of ours: then the timer is armed once more."""
        self._timer_at = self._timer = None
        self._role.handle_timeout(self._clock())
        self.flush()

    def _close(self, sock: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(sock.fileno())
        sock.close()

    def _count(self, what: str, error: OSError) -> None:
        self.counters[f"{what}_{errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1


_CHANNEL_HEADER: Final = struct.Struct(">HH")
_AF: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
# Not all of these have a name in the socket module of Python 3.11.
_IP_PKTINFO: Final = 8
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33

_SendTo = Callable[[memoryview, _RawAddress], int]
_SendMessage = Callable[[tuple[memoryview], _Ancillary, int, _RawAddress], int]
_Channels = dict[int, tuple[_SendTo, _RawAddress]]


class _Listener:
    """A listening socket, and where each channel of each client leads."""

    __slots__ = ("clients", "local_at", "socket")

    def __init__(self, family: int, port: int) -> None:
        self.clients: dict[_ClientKey, _Channels] = {}
        # In struct in_pktinfo the header's destination comes last, in in6_pktinfo first.
        self.local_at = slice(8, 12) if family == 4 else slice(0, 16)
        self.socket = _socket(family, _LISTEN_BUFFER)
        try:
            if family == 4:
                self.socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            else:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            self.socket.bind(("", port))
        except OSError as error:
            self.socket.close()
            raise ConfigurationError(
                "listen port",
                "--listen-port or LISTEN_PORT",
                f"cannot listen on UDP port {port} over IPv{family}: {error.strerror}",
                "stop what uses it, or choose another port",
            ) from None


class _RelaySocket:
    """The socket of an allocation in one family, and which channel each peer belongs to."""

    __slots__ = ("channels", "port", "socket")

    def __init__(self, family: int, port: int, public: IPAddress) -> None:
        """Bound to the public address, so that peers see that one, or where this host does not
        have it, as behind a NAT, to all. Raises OSError."""
        self.port = port
        self.channels: dict[_RawAddress, tuple[_SendMessage, _Ancillary, _RawAddress, int]] = {}
        self.socket = _socket(family, _RELAY_BUFFER)
        try:
            try:
                self.socket.bind((str(public), port))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                self.socket.bind(("", port))
        except OSError:
            self.socket.close()
            raise


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


def _enlarge(opened: socket.socket, force: int, plain: int, size: int) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, force, size)
    except OSError:  # without CAP_NET_ADMIN the kernel caps it at its own limit, silently
        opened.setsockopt(socket.SOL_SOCKET, plain, size)


def _packet_info(source: Endpoint | None) -> _Ancillary:
    """Makes a datagram leave from this address, whatever the routes prefer."""
    if source is None:
        return []
    packed = source.address.packed
    if len(packed) == 4:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("@i4s4s", 0, packed, bytes(4)))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("@16sI", packed, 0))]


def _raw(endpoint: Endpoint) -> _RawAddress:
    """The address as the kernel's side spells it, which for IPv6 may differ from Python's."""
    return (socket.inet_ntop(_AF[endpoint.family], endpoint.address.packed), endpoint.port)


def _client_key(five_tuple: FiveTuple) -> _ClientKey:
    local = five_tuple.local
    return (_raw(five_tuple.client), b"" if local is None else local.address.packed)
