"""What a stranger's flood costs an established peer, and the program that is flooded.

One end is sent `RATE` datagrams a second of one kind from another address, while its peer sends it
200 Mbit/s of UDP, which is well within what it can take. What of that still arrives is what others
feel; memory must stay as it is.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks import throughput
from benchmarks.handshakes import NO_MAC2, initiation, socket_in
from benchmarks.processes import cpu_seconds, resident_bytes
from benchmarks.throughput import Load
from benchmarks.tunnel_net import INSIDE, PORT, UNDERLAY, Implementation, Net
from firezone.noise import StaticKeypair

RATE = 20_000
BURST = 100
STRANGERS = 200
SOURCES = "198.18.0.0/24"
SOURCE = "198.18.0.7"
NOTHING = "nothing"
_PACED = Load("paced", ("-u", "-b", "200M", "-l", "1280"), udp=True)
_TRANSPORT_DATA = b"\4\0\0\0"
_ETH_P_IP = 0x0800
_HEADERS = 28  # IPv4 and UDP


@dataclass(frozen=True, slots=True)
class Flooded:
    """`rate` is of the flood, a second; `cpu` and `grown` are of the flooded program.

    `grown` is its memory in bytes; at first some buffers are touched for the first time.
    """

    rate: float
    arrived_percent: float
    cpu: float
    grown: int


def measure(
    net: Net, implementation: Implementation, seconds: int
) -> Iterator[tuple[str, Flooded]]:
    """Each kind in turn, on one tunnel."""
    net.add_addresses("a", SOURCES)
    with net.tunnel(implementation) as pids:
        for kind, make in KINDS.items():
            yield kind, _measure(net, pids, make(net), seconds)


def _measure(net: Net, pids: list[int], datagrams: list[bytes], seconds: int) -> Flooded:
    flooded = pids[1]
    with _flooding(net, datagrams) as sent:
        time.sleep(0.5)  # what is made once is made
        before, started = sent(), time.monotonic()
        memory, cpu = resident_bytes(flooded), cpu_seconds(flooded)
        result = throughput.measure(net, _PACED, pids, seconds)
        cpu, grown = cpu_seconds(flooded) - cpu, resident_bytes(flooded) - memory
        rate = (sent() - before) / (time.monotonic() - started)
    return Flooded(rate, 100 - result.lost_percent, cpu, grown)


@contextmanager
def _flooding(net: Net, datagrams: list[bytes]) -> Iterator[Callable[[], int]]:
    """Send these by turns until left. Gives a function that says how many were sent."""
    ended, sent = threading.Event(), 0

    def run() -> None:
        nonlocal sent
        following = itertools.cycle(datagrams)
        due = time.monotonic()
        while not ended.is_set():
            for _ in range(BURST):
                link.send(next(following))
            sent += BURST
            due = max(due + BURST / RATE, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))

    with socket_in(net.namespaces["a"]) as link:
        link.bind((SOURCE, 0))
        link.connect((UNDERLAY["b"], PORT))
        thread = threading.Thread(target=run)
        if datagrams:
            thread.start()
        try:
            yield lambda: sent
        finally:
            ended.set()
            if datagrams:
                thread.join()


# Kinds.


def _nothing(_: Net) -> list[bytes]:
    return []


def _bad_mac1(_: Net) -> list[bytes]:
    return [b"\1\0\0\0" + os.urandom(144) for _ in range(STRANGERS)]


def _initiations(net: Net) -> list[bytes]:
    """Good ones, of strangers who know the public key."""
    responder = net.keys["b"].public
    statics = [StaticKeypair.generate(os.urandom) for _ in range(STRANGERS)]
    return [
        initiation(static, responder, static.dh(responder), number) + NO_MAC2
        for number, static in enumerate(statics)
    ]


def _cookie_replies(_: Net) -> list[bytes]:
    return [b"\3\0\0\0" + os.urandom(60) for _ in range(STRANGERS)]


def _stun(_: Net) -> list[bytes]:
    """Binding requests (RFC 8489), of which WireGuard knows nothing."""
    return [b"\0\1\0\0\x21\x12\xa4\x42" + os.urandom(12) for _ in range(STRANGERS)]


def _replays(net: Net) -> list[bytes]:
    """What the peer itself has sent."""
    return _captured(net, 50)


def _forgeries(net: Net) -> list[bytes]:
    """The same with a counter to come, and so a wrong tag."""
    return [
        datagram[:8] + (1 << 40 | number).to_bytes(8, "little") + datagram[16:]
        for number, datagram in enumerate(_captured(net, 50))
    ]


def _unknown_indices(_: Net) -> list[bytes]:
    return [_TRANSPORT_DATA + os.urandom(60) for _ in range(STRANGERS)]


def _truncated(net: Net) -> list[bytes]:
    (datagram, *_) = _captured(net, 1)
    return [datagram[:length] for length in range(1, min(32, len(datagram)))]


def _oversized(net: Net) -> list[bytes]:
    (datagram, *_) = _captured(net, 1)
    return [datagram.ljust(1472, b"\0"), datagram.ljust(3000, b"\0")]


def _captured(net: Net, count: int) -> list[bytes]:
    """Transport data on its way to the flooded end, which ping makes."""
    with socket_in(net.namespaces["a"], socket.AF_PACKET, socket.SOCK_DGRAM, _ETH_P_IP) as tap:
        tap.bind(("eth0", 3))  # 3: all protocols, which what is sent wants
        tap.settimeout(5)
        with throughput.background(net, ("-u", "-b", "1M", "-l", "200"), INSIDE["b"]):
            found: list[bytes] = []
            while len(found) < count:
                packet = tap.recv(4096)
                datagram = packet[_HEADERS:]
                to = packet[16:20] == socket.inet_aton(UNDERLAY["b"])
                if to and datagram.startswith(_TRANSPORT_DATA) and len(datagram) > 100:
                    found.append(datagram)
    return found


KINDS: dict[str, Callable[[Net], list[bytes]]] = {
    NOTHING: _nothing,
    "bad mac1": _bad_mac1,
    "initiations": _initiations,
    "cookie replies": _cookie_replies,
    "STUN": _stun,
    "replays": _replays,
    "forged data": _forgeries,
    "unknown indices": _unknown_indices,
    "truncated": _truncated,
    "oversized": _oversized,
}
