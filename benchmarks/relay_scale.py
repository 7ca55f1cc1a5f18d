"""Many allocations at once on one relay: what each costs, and whether all of them pass data.

    python -m benchmarks.relay_scale [--count 10000] [--workers N] [--coturn] [--json FILE]

The real program and the clients share a network of their own. Each client allocates and binds a
channel to the one peer; then a datagram goes through each, both ways. Set-up is three requests: the
challenge, the Allocate, the ChannelBind; per second of the relay's CPU time, and by the clock,
which counts the clients' own work, too. Memory is what the relay's process has grown by; sockets
are the kernel's and not in it.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import socket
import struct
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.private_net import in_private_net
from benchmarks.processes import cpu_seconds, resident_bytes
from benchmarks.relay_load import (
    CHANNEL,
    Coturn,
    Firezone,
    RelayProcess,
    Value,
    authenticated,
    udp_socket,
)
from benchmarks.report import Samples, write
from firezone import stun
from firezone.explain.relay import RelayReport
from firezone.model import Endpoint
from firezone.shell.status_socket import Request, ask
from firezone.stun import Message, Method

UNDER_WAY = 64
"""Clients that wait for an answer at a time."""
PATIENCE_SECONDS = 1.0
WARM_UP = 20
BURST = 256


@dataclass(frozen=True, slots=True)
class Scale:
    """What so many allocations took. `to_peer` and `to_client` are those that passed data so."""

    count: int
    seconds: float
    cpu: float
    grown_bytes: int
    to_peer: int
    to_client: int
    workers: tuple[int, ...] = ()
    """Datagrams that each of ours has moved."""

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    @property
    def per_cpu_second(self) -> float:
        return self.count / max(self.cpu, 1e-9)

    @property
    def bytes_each(self) -> float:
        return self.grown_bytes / self.count


class Client:
    """On its way to a bound channel: each answer brings the next request."""

    def __init__(self, relay: RelayProcess, number: int, peer: Endpoint) -> None:
        self.socket = udp_socket()
        self.relayed: Endpoint | None = None
        self._relay, self._peer, self._nonce = relay, peer, ""
        self._name, password = relay.user(number)
        self._key = stun.long_term_key(self._name, "firezone", password)
        self._request = b""

    def begin(self) -> None:
        self._ask(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17))

    def again(self) -> None:
        self.socket.sendto(self._request, self._relay.address)

    def go_on(self, answer: bytes) -> bool:
        """True when the channel is bound."""
        response = stun.decode(answer)
        if not self._nonce:
            self._nonce = response.get(stun.NONCE) or ""
            self.begin()
        elif response.class_ is not stun.Class.SUCCESS:
            raise RuntimeError(f"refused with {response.get(stun.ERROR_CODE)}")
        elif response.method == Method.ALLOCATE:
            self.relayed = response.get(stun.XOR_RELAYED_ADDRESS)
            number, peer = (stun.CHANNEL_NUMBER, CHANNEL), (stun.XOR_PEER_ADDRESS, self._peer)
            self._ask(Method.CHANNEL_BIND, number, peer)
        else:
            return True
        return False

    def _ask(self, method: Method, *values: Value) -> None:
        request = Message.request(method, os.urandom)
        for attribute, value in values:
            request = request.with_(attribute, value)
        if self._nonce:
            self._request = authenticated(request, self._name, self._nonce).encode(self._key)
        else:
            self._request = request.encode()
        self.again()


class Asked(Firezone):
    """One that tells what its workers did."""

    def __init__(self, workers: int, ports: tuple[int, int]) -> None:
        self._status = tempfile.TemporaryDirectory()
        self.path = Path(self._status.name) / "relay.sock"
        options = ("--workers", str(workers), "--status-socket", str(self.path))
        super().__init__(options=options, ports=ports)

    def workers(self) -> tuple[int, ...]:
        return ask(self.path, Request("status"), RelayReport).workers


def measure(relay: RelayProcess, count: int) -> Scale:
    """Set up so many clients of a running relay, then pass data through all of them."""
    peer = udp_socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    where = Endpoint.of(*peer.getsockname())
    clients = [Client(relay, number, where) for number in range(count + WARM_UP)]
    try:
        set_up(clients[:WARM_UP])
        before, cpu, started = resident_bytes(relay.pid), cpu_seconds(relay.pid), time.monotonic()
        set_up(clients[WARM_UP:])
        seconds, cpu = time.monotonic() - started, cpu_seconds(relay.pid) - cpu
        grown = resident_bytes(relay.pid) - before
        to_peer, to_client = pass_data(relay, clients[WARM_UP:], peer)
        loads = relay.workers() if isinstance(relay, Asked) else ()
        return Scale(count, seconds, cpu, grown, to_peer, to_client, loads)
    finally:
        for client in clients:
            client.socket.close()
        peer.close()


def set_up(clients: list[Client]) -> None:
    """A window of them is under way at any time; what gets lost is sent again."""
    with select.epoll() as waiting:
        coming, pending = deque(clients), dict[int, Client]()
        while coming or pending:
            while coming and len(pending) < UNDER_WAY:
                client = coming.popleft()
                pending[client.socket.fileno()] = client
                waiting.register(client.socket.fileno(), select.EPOLLIN)
                client.begin()
            ready = waiting.poll(PATIENCE_SECONDS)
            if not ready:
                for client in pending.values():
                    client.again()
            for fd, _ in ready:
                if pending[fd].go_on(pending[fd].socket.recv(2048)):
                    waiting.unregister(fd)
                    del pending[fd]


def pass_data(relay: RelayProcess, clients: list[Client], peer: socket.socket) -> tuple[int, int]:
    """How many got a datagram of theirs to the peer, and how many one from it."""
    by_port = {client.relayed.port: client for client in clients if client.relayed is not None}
    up: set[int] = set()
    down: set[int] = set()
    for at in range(0, len(clients), BURST):
        wanted = [client for client in clients[at : at + BURST] if client.relayed is not None]
        for client in wanted:
            payload = struct.pack(">HHI", CHANNEL, 4, client.relayed.port if client.relayed else 0)
            client.socket.sendto(payload, relay.address)
        for data, source in _received(peer, len(wanted)):
            if struct.unpack(">I", data)[0] == source[1]:
                up.add(source[1])
            peer.sendto(data, source)
        for client in wanted:
            for data, _ in _received(client.socket, 1):
                number, _, port = struct.unpack(">HHI", data)
                if number == CHANNEL and by_port.get(port) is client:
                    down.add(port)
    return len(up), len(down)


def _received(end: socket.socket, wanted: int) -> list[tuple[bytes, tuple[str, int]]]:
    """So many datagrams, or what has come when no more does."""
    found: list[tuple[bytes, tuple[str, int]]] = []
    waiting = select.poll()
    waiting.register(end, select.POLLIN)
    while len(found) < wanted and waiting.poll(PATIENCE_SECONDS * 1000):
        found.append(end.recvfrom(2048))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--coturn", action="store_true", help="measure coturn after it")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    _raise_file_limit(options.count)
    ports = (2000, 2000 + 2 * options.count)
    made: list[Callable[[], RelayProcess]] = [lambda: Asked(options.workers, ports)]
    if options.coturn:
        made.append(lambda: Coturn(ports=ports))
    samples = Samples()
    for make in made:
        name, result = in_private_net(lambda make=make: _one(make, options.count))  # type: ignore[misc]
        samples.add(f"{options.count} allocations", name, result)
        print(
            f"{name:10}{result.count:>7} allocations{result.per_second:>8.0f}/s"
            f"{result.per_cpu_second:>8.0f}/CPU s{result.bytes_each:>8.0f} bytes each"
            f"   data passed {result.to_peer} up, {result.to_client} down"
        )
        if min(result.to_peer, result.to_client) < result.count:
            print(f"{name}: not all of them passed data", file=sys.stderr)
            return 1
    if options.json:
        settings = {"count": options.count, "workers": options.workers}
        write(options.json, settings, {"scale": samples})
    return 0


def _one(make: Callable[[], RelayProcess], count: int) -> tuple[str, Scale]:
    with make() as relay:
        return relay.name, measure(relay, count)


def _raise_file_limit(count: int) -> None:
    """Ours for the clients, which the relay inherits: one for each allocation, too."""
    wanted = count + WARM_UP + 128
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        raise SystemExit(f"{count} allocations take {wanted} open files, this host allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    raise SystemExit(main())
