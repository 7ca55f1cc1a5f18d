"""Requests by the thousand from strangers: what a relay answers, and whether it keeps any of it.

From many ports, as those of attackers are: what a server remembers of each shows in its memory.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass

from benchmarks.processes import resident_bytes
from benchmarks.relay_load import RelayProcess
from firezone import stun
from firezone._ext.batch import PacketBatch
from firezone._ext.udp import UdpSockets
from firezone.stun import Message, Method

STRANGERS = 3000
BURST = 4
AT_A_TIME = 50
"""Strangers that send before answers are looked for."""
PRIMING = 500
"""Bursts of the one that goes first."""
KINDS = ("Binding", "Allocate without credentials")


@dataclass(frozen=True, slots=True)
class Flood:
    """What was answered, and how resident memory grew from the first request to the last."""

    sent: int
    answered: int
    cpu_ns: int
    grown_bytes: int

    @property
    def per_cpu_second(self) -> float:
        return self.answered * 1e9 / max(self.cpu_ns, 1)


def measure(relay: RelayProcess, kind: str, seconds: float) -> Flood:
    """One stranger goes first, so that buffers which everybody uses are not taken for growth."""
    strangers = [_Stranger(relay, kind) for _ in range(STRANGERS)]
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    try:
        for _ in range(PRIMING):
            strangers[0].send()
            time.sleep(0.0005)
        time.sleep(0.2)
        strangers[0].receive()
        memory, cpu = resident_bytes(relay.pid), relay.cpu_ns()
        sent = answered = 0
        until = time.monotonic() + seconds
        while time.monotonic() < until or sent < STRANGERS * BURST:
            for at in range(0, STRANGERS, AT_A_TIME):
                group = strangers[at : at + AT_A_TIME]
                for stranger in group:
                    stranger.send()
                sent += BURST * len(group)
                time.sleep(0.0005)
                answered += sum(stranger.receive() for stranger in group)
                if time.monotonic() > until and sent >= STRANGERS * BURST:
                    break
        time.sleep(0.2)
        answered += sum(stranger.receive() for stranger in strangers)
        return Flood(sent, answered, relay.cpu_ns() - cpu, resident_bytes(relay.pid) - memory)
    finally:
        for stranger in strangers:
            stranger.socket.close()


class _Stranger:
    def __init__(self, relay: RelayProcess, kind: str) -> None:
        self.socket = relay.make_socket()
        request = Message.request(
            Method.BINDING if kind == KINDS[0] else Method.ALLOCATE, os.urandom
        )
        if kind != KINDS[0]:
            request = request.with_(stun.REQUESTED_TRANSPORT, 17)
        self._outgoing = PacketBatch(BURST, stride=2048)
        for _ in range(BURST):
            slot = self._outgoing.append(request.encode())
            self._outgoing.set_remote(slot, 4, socket.inet_aton(relay.address[0]), relay.address[1])
        self._sockets = UdpSockets(self.socket.fileno())

    def send(self) -> None:
        self._sockets.send(self._outgoing)

    def receive(self) -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(2048)
                count += 1
        return count
