"""The relay kernel on paths with a small MTU, and where nothing gets away."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from kernels.relay_ends import Ends, address_of, received, send, udp_socket

from firezone._ext.relay import Forwarder


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def data(number: int, payload: bytes) -> bytes:
    return number.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload


def bind(ends: Ends, kernel: Forwarder, index: int = 0) -> None:
    client, peer = ends.clients[index], ends.peers[index]
    kernel.bind(
        *(address_of(client), ends.local(client), 0x4000),
        *(ends.relay_port(0), address_of(peer)),
    )


@pytest.mark.parametrize("index", [0, 2], ids=["IPv4", "IPv6"])
def test_larger_than_the_mtu(fresh_netns: ThreadPoolExecutor, index: int) -> None:
    """They go one by one, in fragments, and what fits is still merged, on all channels."""

    def run() -> None:
        ip("link", "set", "lo", "mtu", "1500")
        with Ends() as ends:
            kernel = ends.forwarder()
            bind(ends, kernel, index)
            client, peer = ends.clients[index], ends.peers[index]

            def calls(size: int, count: int = 20) -> int:
                before = kernel.traffic()[0][2]
                for i in range(count):
                    send(client, ends.local(client), [data(0x4000, bytes([i]) * size)])
                ends.turn(kernel)
                assert [p for _, p in received(peer)] == [bytes([i]) * size for i in range(count)]
                return kernel.traffic()[0][2] - before

            assert calls(1400) == 1
            assert calls(2000) == 20  # refused once
            assert calls(2000) == 20  # and not tried again
            assert calls(1400) == 1
            bind(ends, kernel, index)  # a refreshed channel
            ip("link", "set", "lo", "mtu", "9000")
            assert calls(2000) == 1
            assert kernel.drops() == {}

    fresh_netns.submit(run).result(60)


def on_a_dead_link(run: Callable[[], None]) -> Callable[[], None]:
    """A link on which nobody answers: what is sent waits for its neighbour."""

    def prepared() -> None:
        ip("link", "add", "rl0", "type", "veth", "peer", "name", "rl1")
        ip("address", "add", "192.0.2.1/24", "dev", "rl0")
        for link in ("rl0", "rl1"):
            ip("link", "set", link, "up")
        run()

    return prepared


def test_full_send_buffer_stops_nobody_else(fresh_netns: ThreadPoolExecutor) -> None:
    def run() -> None:
        with Ends() as ends, closing(udp_socket(4)) as other:
            kernel = ends.forwarder()
            bind(ends, kernel)
            stuck = udp_socket(4, host="0.0.0.0")
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
            kernel.add(stuck.fileno(), 4, address_of(stuck)[2])
            nobody = (4, socket.inet_aton("192.0.2.99"), 9)
            where = (address_of(other), ends.local(other), 0x4000, address_of(stuck)[2], nobody)
            kernel.bind(*where)
            for _ in range(40):
                send(other, ends.local(other), [data(0x4000, os.urandom(1000))])
                send(ends.clients[0], ends.local(other), [data(0x4000, b"payload")])
            ends.turn(kernel)
            assert [p for _, p in received(ends.peers[0])] == [b"payload"] * 40
            for _ in range(4):
                send(other, ends.local(other), [data(0x4000, os.urandom(1000))] * 40)
                send(ends.clients[0], ends.local(other), [data(0x4000, b"payload")] * 10)
                ends.turn(kernel)
            assert [p for _, p in received(ends.peers[0])] == [b"payload"] * 40
            assert set(kernel.drops()) == {"send_to_peer_EAGAIN"}
            kernel.unbind(*where[:3])
            kernel.remove(4, address_of(stuck)[2])
            assert kernel.settle()
            stuck.close()

    fresh_netns.submit(on_a_dead_link(run)).result(60)
