"""The same traffic through two data planes with every choice of offloads.

    application - TUN device - data plane === UDP === data plane - TUN device - application
       (left)                                                                   (right)

Each end is a network namespace of its own; all runs in this process. One end has the offloads of
the case, the other one first the same and then all the others.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import platform
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import TypeVar

import pytest

from firezone import commands
from firezone._ext import ip
from firezone._ext.batch import PacketBatch
from firezone.model import Endpoint
from firezone.shell.dataplane import Dataplane
from firezone.shell.offload import ALL, Offload, Offloads, describe
from firezone.shell.tun import Tun, open_tun

T = TypeVar("T")
SLOT, FOREVER, MTU, PORT = 1, 1 << 62, 1280, 7777
CASES = [frozenset(c) for n in range(6) for c in itertools.combinations(Offload, n)]
KERNEL = tuple(map(int, platform.release().split(".")[:2]))
AVAILABLE = ALL if KERNEL >= (6, 2) else ALL - {Offload.TUN_USO}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
ADDRESSES = {4: ("10.99.0.1", "10.99.0.2"), 6: ("fd99::1", "fd99::2")}
BLOB = hashlib.shake_256(b"firezone").digest(300_000)
UDP_SEGMENT = 103


class End:
    """A namespace with a TUN device, and the data plane behind it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._thread = ThreadPoolExecutor(1, initializer=enter_fresh_netns)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.endpoint = Endpoint.of(*self.udp.getsockname())

    def run(self, do: Callable[[], T]) -> T:
        """In the namespace."""
        return self._thread.submit(do).result(20)

    def start(self, offloads: Offloads, peer: End) -> None:
        self.tun = self.run(lambda: self._open(offloads))
        self.plane = Dataplane(
            tun=self.tun,
            udp4_fd=self.udp.fileno(),
            udp6_fd=None,
            own_public_key=bytes(32),
            slots=4,
            flow_capacity=256,
            mtu=MTU,
            offloads=offloads,
        )
        keys = (b"\1" * 32, b"\2" * 32)[:: 1 if self.number else -1]
        for command in (
            commands.AddPeer(SLOT, 7),
            commands.InstallKeypair(
                SLOT, 0x701, 0x701, *keys, bool(self.number), 1, FOREVER, FOREVER
            ),
            commands.SetPath(SLOT, commands.Path(peer.endpoint, self.endpoint)),
        ):
            self.plane.apply(command)
        self.plane.start()
        self._deciding = True
        self._decider = threading.Thread(target=self._decide)
        self._decider.start()

    def stop(self) -> None:
        self._deciding = False
        self._decider.join(5)
        self.plane.close()
        self.tun.close()

    def close(self) -> None:
        self._thread.shutdown()
        self.udp.close()

    def _decide(self) -> None:
        """Allow every flow."""
        while self._deciding:
            select.select([self.plane.events_fd], [], [], 0.05)
            while (event := self.plane.poll_event()) is not None:
                if isinstance(event, commands.FlowMissed):
                    self.plane.apply(allowed(event))
                    self.plane.apply(commands.Reinject(event.direction, event.slot, event.packet))

    def _open(self, offloads: Offloads) -> Tun:
        tun = open_tun("fzoff", offloads)
        for arguments in (
            f"addr add {ADDRESSES[4][self.number]}/24 dev fzoff",
            f"addr add {ADDRESSES[6][self.number]}/64 dev fzoff nodad",
            f"link set fzoff mtu {MTU} up",
        ):
            subprocess.run(["ip", *arguments.split()], check=True, timeout=10)
        return tun


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[End, End]]:
    made = End(0), End(1)
    yield made
    for end in made:
        end.close()


@pytest.mark.parametrize("offloads", CASES, ids=lambda case: "+".join(describe(case)) or "none")
@pytest.mark.parametrize("others", ["same", "opposite"])
def test_every_choice_of_offloads(ends: tuple[End, End], offloads: Offloads, others: str) -> None:
    left, right = ends
    left.start(offloads, right)
    right.start(offloads if others == "same" else ALL - offloads, left)
    try:
        assert left.plane.offloads() == offloads & AVAILABLE
        for family in FAMILIES:
            streams_pass(left, right, family)
            datagrams_pass(left, right, family)
    finally:
        left.stop()
        right.stop()


def streams_pass(left: End, right: End, family: int) -> None:
    """Both ways at once."""
    with right.run(lambda: listening(family)) as listener:
        one = left.run(lambda: connected(family))
        other, _ = listener.accept()
    with one, other:
        senders = [threading.Thread(target=send_all, args=(end,)) for end in (one, other)]
        for sender in senders:
            sender.start()
        assert received(one) == received(other) == BLOB
        for sender in senders:
            sender.join(5)


def datagrams_pass(left: End, right: End, family: int) -> None:
    """One by one and, as QUIC does, as segments of one message."""
    sent = [BLOB[i : i + size] for i, size in enumerate((1, 1200, 1200, 700, 3, 3, 0, 1200))]
    with right.run(lambda: datagram_socket(family)) as receiver:
        receiver.bind((ADDRESSES[family][1], PORT))
        with left.run(lambda: datagram_socket(family)) as sender:
            sender.connect((ADDRESSES[family][1], PORT))
            sender.send(b"allow")
            assert receiver.recv(9000) == b"allow", "what follows keeps its order from here on"
            for datagram in sent:
                sender.send(datagram)
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 600)
            sender.send(BLOB[:12_345])
        sent += [BLOB[i : min(i + 600, 12_345)] for i in range(0, 12_345, 600)]
        assert [receiver.recv(9000) for _ in sent] == sent


def listening(family: int) -> socket.socket:
    return socket.create_server((ADDRESSES[family][1], PORT), family=FAMILIES[family])


def connected(family: int) -> socket.socket:
    return socket.create_connection((ADDRESSES[family][1], PORT), timeout=10)


def datagram_socket(family: int) -> socket.socket:
    made = socket.socket(FAMILIES[family], socket.SOCK_DGRAM)
    made.settimeout(10)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return made


def send_all(end: socket.socket) -> None:
    end.sendall(BLOB)
    end.shutdown(socket.SHUT_WR)


def received(end: socket.socket) -> bytes:
    end.settimeout(10)
    return b"".join(iter(lambda: end.recv(1 << 20), b""))


def allowed(event: commands.FlowMissed) -> commands.InstallFlow:
    batch = PacketBatch(1)
    batch.append(event.packet)
    ip.parse(batch)
    _, protocol, source, destination, source_port, destination_port, _ = batch.tuple(0)
    key = commands.FlowKey(
        event.direction,
        event.slot,
        protocol,
        ip_address(source),
        ip_address(destination),
        source_port,
        destination_port,
    )
    return commands.InstallFlow(key, commands.Action.FORWARD, SLOT, SLOT, 0, 0, None)


def enter_fresh_netns() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newnet = 0x40000000
    if libc.unshare(clone_newnet) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
