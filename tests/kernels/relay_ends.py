"""Sockets around a relay kernel, for its tests: listeners, allocations, clients and peers."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from types import TracebackType

from firezone._ext.relay import Forwarder
from firezone._ext.ring import Ring

Address = tuple[int, bytes, int]

HOST = {4: "127.0.0.1", 6: "::1"}
AF = {4: socket.AF_INET, 6: socket.AF_INET6}
SOL_UDP, UDP_SEGMENT = 17, 103


def address_of(end: socket.socket) -> Address:
    host, port = end.getsockname()[:2]
    ip = ipaddress.ip_address(host)
    return (ip.version, ip.packed, port)


def udp_socket(
    family: int, port: int = 0, protocol: int = 0, host: str = "", shared: bool = False
) -> socket.socket:
    made = socket.socket(AF[family], socket.SOCK_DGRAM, protocol)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    if family == 6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind((host or HOST[family], port))
    return made


def both_families(port: int = 0, shared: bool = False) -> dict[int, socket.socket]:
    """A port that is free in both, or one that others share."""
    v4 = udp_socket(4, port, shared=shared)
    try:
        return {4: v4, 6: udp_socket(6, v4.getsockname()[1], shared=shared)}
    except OSError:
        v4.close()
        return both_families(port, shared)


def send(end: socket.socket, to: Address, datagrams: list[bytes]) -> None:
    """One call each, or one for all if they are as UDP_SEGMENT wants them."""
    host = socket.inet_ntop(AF[to[0]], to[1])
    sizes = [len(d) for d in datagrams]
    if 1 < len(sizes) <= 64 and len(set(sizes[:-1])) == 1 and 0 < sizes[-1] <= sizes[0]:
        split = (SOL_UDP, UDP_SEGMENT, sizes[0].to_bytes(2, "little"))
        end.sendmsg(datagrams, [split], 0, (host, to[2]))
        return
    for datagram in datagrams:
        end.sendto(datagram, (host, to[2]))


def received(end: socket.socket) -> list[tuple[Address, bytes]]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            data, source = end.recvfrom(0x10000)
            ip = ipaddress.ip_address(source[0])
            found.append(((ip.version, ip.packed, source[1]), data))
    return found


class Ends:
    """Listeners and two allocations in both families; three clients and three peers.

    With two workers, each has listeners and one of the allocations; whose clients use it is chance.
    """

    def __init__(self, workers: int = 1) -> None:
        self.listeners = both_families(shared=workers > 1)
        others = [both_families(self.listen_port, shared=True) for _ in range(workers - 1)]
        self.groups = [self.listeners, *others]
        self.relays = [both_families(), both_families()]
        self.clients = [udp_socket(4), udp_socket(4), udp_socket(6)]
        self.peers = [udp_socket(4), udp_socket(4), udp_socket(6)]
        self.rings = [Ring(2048) for _ in range(workers)]
        self.ring = self.rings[0]

    def forwarder(self, **options: bool) -> Forwarder:
        """A fresh one on all these sockets."""
        made = Forwarder(os.urandom(16), *self.rings, **options)
        for worker, group in enumerate(self.groups):
            for family, listener in group.items():
                port = self.listen_port
                made.add(listener.fileno(), family, port, listens=True, worker=worker)
        for index, relay in enumerate(self.relays):
            worker = index % len(self.groups)
            for family, opened in relay.items():
                made.add(opened.fileno(), family, opened.getsockname()[1], worker=worker)
        return made

    @property
    def listen_port(self) -> int:
        port: int = self.listeners[4].getsockname()[1]
        return port

    def local(self, client: socket.socket) -> Address:
        """Where that client sends to."""
        return address_of(self.listeners[address_of(client)[0]])

    def relay_port(self, index: int) -> int:
        port: int = self.relays[index][4].getsockname()[1]
        return port

    def turn(self, forwarder: Forwarder) -> int:
        """Let it read until there is nothing more."""
        total = 0
        while count := sum(forwarder.turn(worker) for worker in range(forwarder.workers)):
            total += count
        return total

    def everyone(self) -> list[socket.socket]:
        relays = [opened for relay in self.relays for opened in relay.values()]
        listeners = [listener for group in self.groups for listener in group.values()]
        return [*listeners, *relays, *self.clients, *self.peers]

    def __enter__(self) -> Ends:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for end in self.everyone():
            end.close()
