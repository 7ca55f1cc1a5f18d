"""Our TURN client on a real socket: UDP, TCP or TLS."""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from firezone.durations import MILLISECOND, SECOND
from firezone.model import Endpoint
from firezone.stun import Class, decode
from firezone.turn import (
    Allocation,
    AllocationEvent,
    Decapsulated,
    RelayServer,
    encode_channel_data,
)
from firezone.turn.stream import StreamReader, encode_on_stream


class TurnClient:
    """An allocation, its socket, and a blocking loop in `run`."""

    def __init__(self, over: str, server: Endpoint, username: str, password: str) -> None:
        self._is_stream = over != "UDP"
        self._socket = connect(over, server)
        self._reader = StreamReader()
        self.local = Endpoint.of(*self._socket.getsockname()[:2])
        self.server = server
        self.received: list[Decapsulated] = []
        self.events: list[AllocationEvent] = []
        self.granted: Counter[int] = Counter()
        """Successes by method."""
        self.allocation = Allocation(
            server=RelayServer(server) if server.family == 4 else RelayServer(ipv6=server),
            username=username,
            password=password,
            realm="firezone",
            software="test",
            entropy=os.urandom,
            now=clock(),
            over_stream=self._is_stream,
        )

    def run(self, until: Callable[[], bool], longest: int = 5 * SECOND) -> bool:
        """Let things happen until the condition holds; False if it never did."""
        deadline = clock() + longest
        while not until():
            if clock() >= deadline:
                return False
            self._step(20 * MILLISECOND)
        return True

    def send(self, payload: bytes, peer: Endpoint) -> None:
        """Over a channel, which has to be asked for."""
        channel = self.allocation.channel_to(peer, clock())
        assert channel is not None
        self._write(encode_channel_data(channel.number, payload))

    def close(self) -> None:
        self._socket.close()

    def _step(self, longest: int) -> None:
        self._flush()
        select.select([self._socket], [], [], longest / SECOND)
        while (data := self._read()) is not None:
            self._take_in(data)
        timeout = self.allocation.poll_timeout()
        if timeout is not None and timeout.deadline <= clock():
            self.allocation.handle_timeout(clock())
        while (event := self.allocation.poll_event()) is not None:
            self.events.append(event)
        self._flush()

    def _flush(self) -> None:
        while (transmit := self.allocation.poll_transmit()) is not None:
            self._write(transmit.payload)

    def _write(self, message: bytes) -> None:
        self._socket.sendall(encode_on_stream(message) if self._is_stream else message)

    def _read(self) -> bytes | None:
        """None: nothing is there, or the stream has ended."""
        with suppress(BlockingIOError, ssl.SSLWantReadError, ConnectionError):
            return self._socket.recv(65536) or None
        return None

    def _take_in(self, data: bytes) -> None:
        if not self._is_stream:
            self._handle_message(data)
            return
        self._reader.handle_data(data, clock())
        while (message := self._reader.poll_message()) is not None:
            self._handle_message(message)

    def _handle_message(self, message: bytes) -> None:
        if message[0] < 4:
            response = decode(message)
            if response.class_ is Class.SUCCESS:
                self.granted[response.method] += 1
            self.allocation.handle_datagram(self.local, self.server, message, clock())
        elif (inner := self.allocation.decapsulate(self.server, message, clock())) is not None:
            self.received.append(inner)


def connect(over: str, server: Endpoint) -> socket.socket:
    kind = socket.SOCK_DGRAM if over == "UDP" else socket.SOCK_STREAM
    sock = socket.socket(socket.AF_INET6 if server.family == 6 else socket.AF_INET, kind)
    sock.settimeout(5)
    sock.connect(server.sockaddr)
    if over == "TLS":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    sock.setblocking(False)
    return sock


def clock() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
