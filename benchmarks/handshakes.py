"""Handshakes a second of CPU time as responder: a crowd of initiators before a real program.

The program has one core; the crowd, which only sends what it made before, another one. A thousand
peers take turns, from a hundred addresses, so that no limit of a single peer or address comes into
play. Beyond a hundred initiations a second or so a responder may ask for a cookie (WireGuard paper,
section 5.4.7), which the crowd then uses: one for each address. It gets them in the second before
the measured ones.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network

from benchmarks.processes import cpu_seconds
from benchmarks.tunnel_net import PORT, UNDERLAY, Implementation, Net, Peer, address_of
from firezone.noise import MessageType, StaticKeypair, message_type
from firezone.noise.handshake import create_initiation, tai64n
from firezone.noise.messages import HandshakeCookie, decode
from firezone.noise.primitives import MAC_SIZE, hash_of, mac, xunseal
from firezone.shell.clock import unix_ns

CROWD = 1000
SOURCES = "198.18.0.0/24"
"""Where the crowd sends from, an address for each ten of it."""
PEERS_OF_AN_ADDRESS = 10
WARM_UP_SECONDS = 1
"""Until the crowd has its cookies."""
RATE = 12000
"""Initiations made for each second: more than any responder answers."""
UNDER_WAY = 16
"""Initiations that wait for an answer at a time."""
PATIENCE_SECONDS = 0.05
CLONE_NEWNET = 0x40000000
NO_MAC2 = bytes(MAC_SIZE)


@dataclass(frozen=True, slots=True)
class Handshakes:
    """What one core answered. `cpu` is the program's."""

    answered: int
    seconds: float
    cpu: float

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds

    @property
    def per_cpu_second(self) -> float:
        return self.answered / self.cpu if self.cpu else 0.0


class Crowd:
    """Initiators of one responder, with more than enough initiations for so many seconds.

    `messages` lack nothing but mac2. They serve any number of responders with that key, one after
    the other, as long as each is new.
    """

    def __init__(self, responder: bytes, seconds: int) -> None:
        self.seconds = seconds
        self._cookie_key = hash_of(b"cookie--", responder)
        statics = [StaticKeypair.generate(os.urandom) for _ in range(CROWD)]
        self.peers = [Peer(one.public, address_of(n)) for n, one in enumerate(statics)]
        secrets = [one.dh(responder) for one in statics]
        self.messages = [
            initiation(statics[n % CROWD], responder, secrets[n % CROWD], n)
            for n in range((WARM_UP_SECONDS + seconds) * RATE)
        ]

    def open_cookie(self, answer: bytes) -> bytes:
        reply = decode(answer)
        assert isinstance(reply, HandshakeCookie)
        mac1 = self.messages[reply.receiver_index][-MAC_SIZE:]
        return xunseal(self._cookie_key, reply.nonce, reply.encrypted_cookie, mac1)


class Turn:
    """The crowd before one responder."""

    def __init__(self, crowd: Crowd, links: list[socket.socket]) -> None:
        self._crowd = crowd
        self._links = links
        self._messages = enumerate(crowd.messages)
        self._cookies: dict[socket.socket, bytes] = {}
        self._under_way = 0

    def initiate(self, seconds: float) -> int:
        """Send for that time, or all there is; returns how many handshakes were answered."""
        answered = 0
        waiting = select.epoll()
        by_fd = {link.fileno(): link for link in self._links}
        for fd in by_fd:
            waiting.register(fd, select.EPOLLIN)
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._send():
            ready = waiting.poll(PATIENCE_SECONDS)
            if not ready:
                self._under_way = 0
            answered += sum(self._receive(by_fd[fd]) for fd, _ in ready)
        return answered

    def _send(self) -> bool:
        """As much as may be under way. False at the end of all messages."""
        while self._under_way < UNDER_WAY:
            number, message = next(self._messages, (0, b""))
            if not message:
                return False
            link = self._links[number % CROWD // PEERS_OF_AN_ADDRESS]
            cookie = self._cookies.get(link)
            link.send(message + (mac(cookie, message) if cookie else NO_MAC2))
            self._under_way += 1
        return True

    def _receive(self, link: socket.socket) -> bool:
        """Whether the answer is a response."""
        answer = link.recv(2048)
        self._under_way = max(0, self._under_way - 1)
        kind = message_type(answer)
        if kind is MessageType.HANDSHAKE_COOKIE:
            self._cookies[link] = self._crowd.open_cookie(answer)
        return kind is MessageType.HANDSHAKE_RESPONSE


def initiation(static: StaticKeypair, responder: bytes, secret: bytes, index: int) -> bytes:
    """One without mac2. `secret` is what the two static keys share."""
    _, message = create_initiation(static, responder, secret, index, tai64n(unix_ns()), os.urandom)
    body = message.encode()
    return body + mac(hash_of(b"mac1----", responder), body)


def measure(net: Net, implementation: Implementation, crowd: Crowd) -> Handshakes:
    """At end b, by a crowd in the namespace of end a."""
    net.add_addresses("a", SOURCES)
    with (
        net.running(_for_one_source(implementation), "b", crowd.peers, cpus="0") as pid,
        _links(net) as links,
        _on_last_cpu(),
    ):
        turn = Turn(crowd, links)
        turn.initiate(WARM_UP_SECONDS)
        cpu, started = cpu_seconds(pid), time.monotonic()
        answered = turn.initiate(crowd.seconds)
        elapsed = time.monotonic() - started
        return Handshakes(answered, elapsed, cpu_seconds(pid) - cpu)


@contextmanager
def _links(net: Net) -> Iterator[list[socket.socket]]:
    """A socket at each of the crowd's addresses, connected to end b."""
    with ExitStack() as opened:
        links = []
        for address in itertools.islice(ip_network(SOURCES).hosts(), CROWD // PEERS_OF_AN_ADDRESS):
            link = opened.enter_context(socket_in(net.namespaces["a"]))
            link.bind((str(address), 0))
            link.connect((UNDERLAY["b"], PORT))
            links.append(link)
        yield links


def _for_one_source(implementation: Implementation) -> Implementation:
    """boringtun else opens a connected socket for the first peer, which takes all of the others'
    messages, too, as they come from the same address and port."""
    if implementation.kind != "boringtun":
        return implementation
    return replace(implementation, command=(*implementation.command, "--disable-connected-udp"))


def socket_in(
    namespace: str,
    family: int = socket.AF_INET,
    kind: int = socket.SOCK_DGRAM,
    protocol: int = 0,
) -> socket.socket:
    """Only a thread moves into the namespace; the socket stays there after its end."""
    made: list[socket.socket] = []

    def make() -> None:
        with open(f"/run/netns/{namespace}") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        made.append(socket.socket(family, kind, protocol))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@contextmanager
def _on_last_cpu() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
