"""Several workers of one relay kernel: their sockets, their order, and the table they share."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
from kernels.relay_ends import Ends, address_of, received, send, udp_socket

from firezone._ext.relay import MAX_WORKERS, Forwarder
from firezone._ext.ring import Ring

STUN = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)


def data(number: int, payload: bytes) -> bytes:
    return struct.pack(">HH", number, len(payload)) + payload


@contextmanager
def running(kernel: Forwarder) -> Iterator[None]:
    """Every worker in its thread."""
    threads = [threading.Thread(target=kernel.run, args=(i,)) for i in range(kernel.workers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        kernel.stop()
        for thread in threads:
            thread.join(5)
        assert not any(thread.is_alive() for thread in threads)


class Flow:
    """A client with a channel to a peer of its own."""

    def __init__(self, ends: Ends, kernel: Forwarder, relay: int, number: int) -> None:
        self.client, self.peer = udp_socket(4), udp_socket(4)
        self.listener, self.number = ends.local(self.client), number
        self.relay, port = address_of(ends.relays[relay][4]), ends.relay_port(relay)
        where = (address_of(self.client), self.listener, number, port, address_of(self.peer))
        kernel.bind(*where)

    def send(self, count: int, at: int) -> None:
        """To both sides, numbered."""
        payloads = [struct.pack(">I", i) * 50 for i in range(at, at + count)]
        send(self.client, self.listener, [data(self.number, payload) for payload in payloads])
        send(self.peer, self.relay, payloads)

    def close(self) -> None:
        self.client.close()
        self.peer.close()


def serial(datagram: bytes, skipped: int) -> int:
    number: int = struct.unpack_from(">I", datagram, skipped)[0]
    return number


def test_many_flows_keep_their_order_both_ways() -> None:
    """Whichever worker the kernel gives them to, and whoever reads the allocation."""
    rounds, count, flows = 20, 16, 24
    with Ends(2) as ends, ExitStack() as opened:
        kernel = ends.forwarder()
        made = [Flow(ends, kernel, i % 2, 0x4000 + i) for i in range(flows)]
        for flow in made:
            opened.enter_context(closing(flow))
        seen: dict[socket.socket, list[int]] = defaultdict(list)
        with running(kernel):
            for turn in range(rounds):
                for flow in made:
                    flow.send(count, turn * count)
                deadline, wanted = time.monotonic() + 5, (turn + 1) * count
                waiting = [end for flow in made for end in (flow.client, flow.peer)]
                while waiting and time.monotonic() < deadline:
                    for flow in made:
                        for end, skipped in ((flow.client, 4), (flow.peer, 0)):
                            seen[end] += [serial(found, skipped) for _, found in received(end)]
                    waiting = [end for end in waiting if len(seen[end]) < wanted]
        assert all(numbers == list(range(rounds * count)) for numbers in seen.values())
        assert len(seen) == 2 * flows
        loads = kernel.loads()
        assert sum(loads) == 2 * flows * rounds * count and min(loads) > 0


def test_requests_come_up_where_their_client_is_read() -> None:
    with Ends(2) as ends, ExitStack() as opened:
        kernel = ends.forwarder()
        clients = [opened.enter_context(closing(udp_socket(4))) for _ in range(40)]
        for _ in range(2):
            for client in clients:
                send(client, ends.local(client), [STUN])
            ends.turn(kernel)
        found = [[item[5] for item in iter(ring.pop, None)] for ring in ends.rings]
        assert sorted(map(len, found)) != [0, 80] and sum(map(len, found)) == 80
        assert not set(found[0]) & set(found[1])  # each client has one worker
        assert all(sources.count(one) == 2 for sources in found for one in sources)


def test_nothing_removed_is_used_by_any_worker() -> None:
    """Once `settle` returns, sockets may be closed: their descriptors are soon another's."""
    with Ends(2) as ends:
        kernel = ends.forwarder()
        client, stop = ends.clients[0], threading.Event()
        here = (4, bytes([127, 0, 0, 1]))

        def flood() -> None:
            with closing(udp_socket(4)) as other:
                while not stop.is_set():
                    for source in (client, other):
                        for number in (0x4100, 0x4101):
                            send(source, ends.local(source), [data(number, bytes(300))] * 30)

        flooding = threading.Thread(target=flood)
        with running(kernel):
            flooding.start()
            try:
                for turn in range(200):
                    with closing(udp_socket(4)) as relay:
                        port = address_of(relay)[2]
                        kernel.add(relay.fileno(), 4, port, worker=turn % 2)
                        for number in range(0x4100, 0x4120):
                            peer = (*here, 1 + number)
                            kernel.bind(address_of(client), ends.local(client), number, port, peer)
                        for number in range(0x4100, 0x4120):
                            kernel.unbind(address_of(client), ends.local(client), number)
                        kernel.remove(4, port)
                        assert kernel.settle(5_000_000_000)
            finally:
                stop.set()
                flooding.join()
        assert kernel.traffic()[0][0] > 0


def test_settling_waits_for_the_one_that_is_busy() -> None:
    """A worker within a batch holds up what was removed, whatever the others do."""
    with Ends(2) as ends:
        kernel, stop = ends.forwarder(), threading.Event()
        with closing(Flow(ends, kernel, 1, 0x4000)) as flow:

            def flood() -> None:
                while not stop.is_set():
                    send(flow.peer, flow.relay, [bytes(1000)] * 60)
                    received(flow.client)

            flooding = threading.Thread(target=flood)
            with running(kernel):
                flooding.start()
                try:
                    assert any(settles_at_once(ends, kernel) is False for _ in range(100_000))
                    assert kernel.settle(5_000_000_000)
                finally:
                    stop.set()
                    flooding.join()
            assert kernel.loads()[0] == 0


def settles_at_once(ends: Ends, kernel: Forwarder) -> bool:
    """Whether what was removed is free at once."""
    where = (address_of(ends.clients[0]), ends.local(ends.clients[0]), 0x4300)
    kernel.bind(*where, ends.relay_port(0), address_of(ends.peers[0]))
    kernel.unbind(*where)
    return kernel.settle(0)


def test_misuse_of_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="workers"):
        Forwarder(os.urandom(16))
    with pytest.raises(ValueError, match="workers"):
        Forwarder(os.urandom(16), *[Ring(2)] * (MAX_WORKERS + 1))
    with Ends(2) as ends:
        kernel = ends.forwarder()
        for worker in (-1, 2):
            with pytest.raises(ValueError, match="no worker"):
                kernel.turn(worker)
            with pytest.raises(ValueError, match="no worker"):
                kernel.add(ends.clients[0].fileno(), 4, 9, worker=worker)
        with pytest.raises(ValueError, match="there is a socket"):
            kernel.add(ends.clients[0].fileno(), 4, 9, listens=True, worker=1)
