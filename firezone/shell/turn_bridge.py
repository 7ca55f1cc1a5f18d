"""Joins a TCP or TLS stream that carries TURN with a UDP socket on the loopback interface.

    relay's UDP port  <--datagrams-->  bridge  <--stream-->  bridge  <--datagrams-->  data plane

What TURN calls a transport is thereby a matter of these two bridges alone: the client's data plane
sends to an address of 127.0.0.1 as it sends to a relay, and the relay's serves a client there as it
serves any other, each with its compiled code. In between, some 20 µs of Python per datagram limit a
stream to some 400 Mbit/s, which is beyond what head-of-line blocking leaves of most networks that
need one.

The UDP socket is connected to its one partner, so that no other local program can speak through the
bridge. It behaves like a link: what the stream cannot take at once is dropped, never queued without
bound, so the congestion control inside the tunnel sees losses, not delays that grow.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import cast

from firezone.durations import SECOND
from firezone.model import Endpoint, IPAddress
from firezone.turn.stream import StreamError, StreamReader, encode_on_stream

MAX_BACKLOG = 256 * 1024
"""Bytes that wait for the stream; more is dropped."""
BATCH = 64
LOOPBACK = "127.0.0.1"

_BUFFER = 4 * 1024 * 1024
# Not all of these have a name in the socket module of Python 3.11.
_SOL_UDP = 17
_UDP_SEGMENT = 103
_MAX_SEGMENTS = 64
_MAX_RUN = 0xFFFF - 48
_TAKEN_BY_NOBODY = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ECONNREFUSED})


class Bridge(asyncio.Protocol):
    """The protocol of one stream. `partner` is the UDP endpoint on this host that it speaks for.

    `on_closed` is called once with the reason if it was ever open; afterwards nothing passes.
    Counters tell what was dropped.
    """

    def __init__(
        self,
        partner: Endpoint,
        *,
        clock: Callable[[], int],
        on_closed: Callable[[Bridge, str], None],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._clock = clock
        self._on_closed = on_closed
        self._reader = StreamReader()
        self._transport: asyncio.Transport | None = None
        self._slow: asyncio.TimerHandle | None = None
        self._reason = "closed by the other end"
        self._partner = partner
        self._udp: socket.socket | None = None
        self._merges = True

    @property
    def local(self) -> Endpoint | None:
        """What the partner sees, while the stream is open."""
        return None if self._udp is None else Endpoint.of(*self._udp.getsockname()[:2])

    @property
    def remote(self) -> Endpoint | None:
        """The other end of the stream, while there is one."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return None if peer is None else Endpoint.of(*peer[:2])

    def close(self, reason: str) -> None:
        """End both sides. What waits to be sent is not."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    # What the stream calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        stream = transport.get_extra_info("socket")
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._udp = _connected(self._partner)
        except OSError as error:
            self.close(error.strerror or "no socket")
            return
        asyncio.get_running_loop().add_reader(self._udp.fileno(), self._read_datagrams)

    def data_received(self, data: bytes) -> None:
        now = self._clock()
        try:
            self._reader.handle_data(data, now)
        except StreamError as error:
            self.close(error.reason)
            return
        messages = [*iter(self._reader.poll_message, None)]
        for run in runs(messages):
            self._send_datagrams(run)
        self._arm(now)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._reason = type(exc).__name__
        self._end()

    # Both directions.

    def _send_datagrams(self, run: list[bytes]) -> None:
        """In one call, which the kernel cuts up again, or takes them for one on the way."""
        if self._udp is None:
            return
        try:
            if len(run) > 1 and self._merges:
                split = (_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", len(run[0])))
                self._udp.sendmsg(run, (split,))
                return
        except OSError as error:
            if error.errno in _TAKEN_BY_NOBODY:
                self.counters["datagram_not_taken"] += len(run)
                return
            self._merges = False  # an old kernel
        for message in run:
            try:
                self._udp.send(message)
            except OSError:  # its buffer is full, or nobody listens any more
                self.counters["datagram_not_taken"] += 1

    def _read_datagrams(self) -> None:
        transport, udp = self._transport, self._udp
        if transport is None or udp is None:
            return
        messages = []
        room = MAX_BACKLOG - transport.get_write_buffer_size()
        for _ in range(BATCH):
            try:
                message = encode_on_stream(udp.recv(0x10000))
            except BlockingIOError:
                break
            except StreamError as error:
                self.counters[error.reason] += 1
            except OSError:  # the partner is not there at the moment
                self.counters["datagram_not_taken"] += 1
            else:
                if len(message) > room:  # read all the same, or we would be called for it again
                    self.counters["stream_full"] += 1
                    continue
                room -= len(message)
                messages.append(message)
        if messages:
            transport.write(b"".join(messages))

    # Time.

    def _arm(self, now: int) -> None:
        """A message that was begun has to end. One timer looks after all of them."""
        timeout = self._reader.poll_timeout()
        if timeout is not None and self._slow is None:
            delay = max(timeout.deadline - now, 0) / SECOND
            self._slow = asyncio.get_running_loop().call_later(delay, self._check_pace)

    def _check_pace(self) -> None:
        self._slow = None
        try:
            self._reader.handle_timeout(self._clock())
        except StreamError as error:
            self.close(error.reason)
        else:
            self._arm(self._clock())

    def _end(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
        if self._udp is not None:
            asyncio.get_running_loop().remove_reader(self._udp.fileno())
            self._on_closed(self, self._reason)
            self._udp.close()
            self._udp = None


def runs(messages: list[bytes]) -> Iterator[list[bytes]]:
    """In their order, those together that UDP_SEGMENT takes: of one size, but that the last may be
    shorter, at most 64 of them and 64 KiB."""
    run: list[bytes] = []
    total = 0
    for message in messages:
        if run and (
            len(run) == _MAX_SEGMENTS
            or total + len(message) > _MAX_RUN
            or len(message) > len(run[0])
            or len(run[-1]) < len(run[0])
        ):
            yield run
            run, total = [], 0
        run.append(message)
        total += len(message)
    if run:
        yield run


def loopback_of(address: IPAddress) -> str:
    """The loopback address of the same family."""
    return LOOPBACK if address.version == 4 else "::1"


def _connected(partner: Endpoint) -> socket.socket:
    family = socket.AF_INET if partner.family == 4 else socket.AF_INET6
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with suppress(OSError):
                opened.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        opened.bind((loopback_of(partner.address), 0))
        opened.connect(partner.sockaddr)
    except OSError:
        opened.close()
        raise
    return opened
