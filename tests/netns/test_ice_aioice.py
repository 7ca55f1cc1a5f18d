"""Our agent against aioice, an independent one, over a veth between two namespaces.

here: Peer, one UDP socket a family         aioice, an event loop of its own
  "a" 192.0.2.1, 2001:db8::1  ─── veth ───  192.0.2.2, 2001:db8::2 "b"
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import aioice
import pytest

from firezone.durations import MILLISECOND, SECOND
from firezone.ice import Agent, Candidate, CandidateKind, CheckState, IceState
from firezone.lab import netns, registry
from firezone.model import Endpoint, IceCredentials
from firezone.stun import decode, looks_like_stun

OURS = IceCredentials("ours", "ourPasswordOf22IceChars")
THEIRS = IceCredentials("them", "theirPasswordOf22IceCh")
ADDRESSES_US = ["192.0.2.1", "2001:db8::1"]
ADDRESSES_THEM = ["192.0.2.2", "2001:db8::2"]

T = TypeVar("T")


@pytest.mark.parametrize("controlling", [True, False])
def test_connects_and_carries_data(net: Net, controlling: bool) -> None:
    net.start(controlling, not controlling)
    net.signal_theirs()
    net.signal_ours()
    net.connect()
    nominated = net.us.agent.nominated
    assert nominated is not None
    # Both use IPv6, which we prefer and which they check first.
    assert nominated.local.address.family == nominated.remote.address.family == 6
    net.exchange()


@pytest.mark.parametrize("controlling", [True, False])
def test_they_learn_us_as_peer_reflexive(net: Net, controlling: bool) -> None:
    net.start(controlling, not controlling)
    net.signal_theirs()
    net.connect()
    assert {c.type for c in net.them.connection.remote_candidates} == {"prflx"}
    net.exchange()


@pytest.mark.parametrize("controlling", [True, False])
def test_we_learn_them_as_peer_reflexive(net: Net, controlling: bool) -> None:
    net.start(controlling, not controlling)
    net.signal_ours()
    net.connect()
    nominated = net.us.agent.nominated
    assert nominated is not None and nominated.remote.kind is CandidateKind.PEER_REFLEXIVE
    net.exchange()


@pytest.mark.parametrize("both_controlling", [True, False])
def test_a_role_conflict_is_resolved(net: Net, both_controlling: bool) -> None:
    net.start(both_controlling, both_controlling)
    net.signal_theirs()
    net.signal_ours()
    net.connect()
    assert net.us.agent.controlling is not net.them.connection.ice_controlling
    net.exchange()


@pytest.mark.parametrize("controlling", [True, False])
def test_takes_the_family_that_works(net: Net, controlling: bool) -> None:
    net.drop("meta nfproto ipv6 meta l4proto udp")
    net.start(controlling, not controlling)
    net.signal_theirs()
    net.signal_ours()
    net.connect()
    nominated = net.us.agent.nominated
    assert nominated is not None and nominated.local.address.family == 4
    net.exchange()


def test_stays_connected_while_both_check(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.1)
    net.start(controlling=True, they_control=False)
    net.signal_theirs()
    net.signal_ours()
    net.connect()
    assert not net.run(lambda: net.us.agent.state is IceState.DISCONNECTED, 4 * SECOND)
    assert all(p.state is CheckState.SUCCEEDED for p in net.us.agent.pairs() if p.nominated)
    net.exchange()


@pytest.mark.slow
def test_notices_that_they_are_gone(net: Net) -> None:
    net.start(controlling=True, they_control=False)
    net.signal_theirs()
    net.signal_ours()
    net.connect()
    net.drop("meta l4proto udp")
    began = clock()
    assert net.run(lambda: net.us.agent.state is IceState.DISCONNECTED, 20 * SECOND)
    assert 15 * SECOND < clock() - began < 18.5 * SECOND


@pytest.fixture
def net() -> Iterator[Net]:
    claim = registry.claim()
    try:
        with build(claim.name) as net:
            yield net
    finally:
        claim.release()


class Peer:
    """Our end: an agent, its sockets, and a blocking loop in `step`."""

    def __init__(self, namespace: str, controlling: bool) -> None:
        self.agent = Agent(
            controlling=controlling, local=OURS, remote=THEIRS, entropy=os.urandom, now=clock()
        )
        self.received: list[bytes] = []
        self._sockets: dict[Endpoint, socket.socket] = {}
        for address in ADDRESSES_US:
            sock = in_namespace(namespace, lambda a=address: udp_socket(a))
            base = Endpoint.of(*sock.getsockname()[:2])
            self._sockets[base] = sock
            assert self.agent.add_local_candidate(Candidate.host(base), clock())

    def send(self, payload: bytes) -> None:
        """On the nominated pair."""
        nominated = self.agent.nominated
        assert nominated is not None
        self._sockets[nominated.local.base].sendto(payload, nominated.remote.address.sockaddr)

    def step(self, longest: int) -> None:
        """Wait for a datagram or the next deadline, and take it in."""
        deadline = clock() + longest
        timeout = self.agent.poll_timeout()
        if timeout is not None:
            deadline = min(deadline, timeout.deadline)
        select.select(self._sockets.values(), [], [], max(0, deadline - clock()) / SECOND)
        for base, sock in self._sockets.items():
            with suppress(BlockingIOError):
                while True:
                    payload, source = sock.recvfrom(2048)
                    self._take_in(base, Endpoint.of(*source[:2]), payload)
        timeout = self.agent.poll_timeout()
        if timeout is not None and timeout.deadline <= clock():
            self.agent.handle_timeout(clock())
        while self.agent.poll_event() is not None:
            pass
        while (transmit := self.agent.poll_transmit()) is not None:
            # What a network refuses is lost, as on any other network.
            with suppress(OSError):
                sock = self._sockets[transmit.local]
                sock.sendto(transmit.payload, transmit.destination.sockaddr)

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()

    def _take_in(self, base: Endpoint, source: Endpoint, payload: bytes) -> None:
        if looks_like_stun(payload):
            assert self.agent.handle_stun(base, source, decode(payload), clock())
        else:
            self.received.append(payload)


class TheirPeer:
    """aioice on an event loop in a thread that lives in the other namespace."""

    def __init__(self, namespace: str, controlling: bool) -> None:
        loops: queue.Queue[asyncio.AbstractEventLoop] = queue.Queue()

        def serve() -> None:
            enter(namespace)
            loop = asyncio.new_event_loop()
            loops.put(loop)
            loop.run_forever()
            loop.close()

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        self._loop = loops.get(timeout=5)
        self.connection = self.call(self._make(controlling)).result(5)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        self.call(self.connection.close()).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    @staticmethod
    async def _make(controlling: bool) -> aioice.Connection:
        connection = aioice.Connection(
            controlling, local_username=THEIRS.username, local_password=THEIRS.password
        )
        connection.remote_username = OURS.username
        connection.remote_password = OURS.password
        await connection.gather_candidates()
        return connection


class Net:
    """Both ends and the wire between them."""

    us: Peer
    them: TheirPeer

    def __init__(self, prefix: str) -> None:
        self.namespaces = (f"{prefix}-a", f"{prefix}-b")
        self._open: list[Peer | TheirPeer] = []

    def start(self, controlling: bool, they_control: bool) -> None:
        self.us = Peer(self.namespaces[0], controlling)
        self._open.append(self.us)
        self.them = TheirPeer(self.namespaces[1], they_control)
        self._open.append(self.them)
        assert {c.host for c in self.them.connection.local_candidates} == set(ADDRESSES_THEM)

    def drop(self, what: str) -> None:
        chain = f"type filter hook input priority 0; {what} drop;"
        netns.load_rules(self.namespaces[1], f"table inet t {{\n chain c {{ {chain} }}\n}}\n")

    def signal_theirs(self) -> None:
        for candidate in self.them.connection.local_candidates:
            line = f"candidate:{candidate.to_sdp()}"
            self.us.agent.add_remote_candidate(Candidate.from_sdp(line), clock())

    def signal_ours(self) -> None:
        for ours in self.us.agent.local_candidates():
            candidate = aioice.Candidate.from_sdp(ours.to_sdp().removeprefix("candidate:"))
            self.them.call(self.them.connection.add_remote_candidate(candidate)).result(5)

    def connect(self) -> None:
        connected = self.them.call(self.them.connection.connect())
        assert self.run(lambda: connected.done() and self.us.agent.nominated is not None)
        connected.result(0)
        # What is still under way may bring a better pair.
        self.run(lambda: False, 500 * MILLISECOND)

    def exchange(self) -> None:
        """One datagram each way, on what both have nominated."""
        self.us.send(b"from us")
        assert self.them.call(self.them.connection.recv()).result(5) == b"from us"
        self.them.call(self.them.connection.send(b"from them")).result(5)
        assert self.run(lambda: self.us.received == [b"from them"])

    def run(self, until: Callable[[], bool], longest: int = 5 * SECOND) -> bool:
        """Let things happen until the condition holds; False if it never did."""
        deadline = clock() + longest
        while not until():
            if clock() >= deadline:
                return False
            self.us.step(min(10 * MILLISECOND, deadline - clock()))
        return True

    def close(self) -> None:
        for end in reversed(self._open):
            end.close()


@contextmanager
def build(prefix: str) -> Iterator[Net]:
    """Namespaces and a veth; removed in the end, whatever happened."""
    net = Net(prefix)
    a, b = net.namespaces
    try:
        netns.ip_batch(
            [
                *(f"netns add {namespace}" for namespace in net.namespaces),
                f"link add eth0 netns {a} type veth peer name eth0 netns {b}",
            ]
        )
        for namespace, (v4, v6) in zip((a, b), (ADDRESSES_US, ADDRESSES_THEM), strict=True):
            netns.ip_batch(
                [
                    f"address add {v4}/24 dev eth0",
                    f"address add {v6}/64 dev eth0 nodad",
                    "link set eth0 up",
                ],
                namespace,
            )
        yield net
    finally:
        net.close()
        netns.remove(net.namespaces)


def in_namespace(namespace: str, function: Callable[[], T]) -> T:
    """Call a function in a thread that went to a namespace, and ends."""
    results: list[T] = []

    def call() -> None:
        enter(namespace)
        results.append(function())

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    (result,) = results
    return result


def enter(namespace: str) -> None:
    """Move this thread to a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (netns.DIRECTORY / namespace).open() as file:
        if libc.setns(file.fileno(), 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def udp_socket(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((address, 0))
    return sock


def clock() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
