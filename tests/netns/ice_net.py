"""Our agent with its relay, a program of others as its peer, and the networks between them.

  us 198.51.100.2 ──┐
them 192.0.2.2 ─────┤ router, with a NAT for either if wanted ── 203.0.113.2 relay
                    │ (198.51.100.77 and 192.0.2.77 outside)
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from firezone.durations import MILLISECOND, SECOND
from firezone.ice import Agent, Candidate, CandidateKind, IceState
from firezone.lab import netns, registry
from firezone.model import Endpoint, IceCredentials, RelayId
from firezone.node import Relay
from firezone.node.candidates import as_candidate
from firezone.node.transport import Transport
from firezone.stun import decode, looks_like_stun
from firezone.turn import CandidateAdded, CandidateInvalidated, ChannelConfirmed, RelayServer
from firezone.turn.relay_auth import password_of

US, THEM, RELAY = "198.51.100.2", "192.0.2.2", "203.0.113.2"
US_OUTSIDE, THEM_OUTSIDE = "198.51.100.77", "192.0.2.77"
OURS = IceCredentials("ours", "ourPasswordOf22IceChars")
SECRET = "1c" * 32

T = TypeVar("T")


class Peer:
    """Our end: the agent and the transport of the node, joined on one socket."""

    def __init__(self, namespace: str, controlling: bool, theirs: IceCredentials) -> None:
        self.agent = Agent(
            controlling=controlling, local=OURS, remote=theirs, entropy=os.urandom, now=clock()
        )
        self.transport = Transport(
            software="test", entropy=os.urandom, channel_received_at=lambda socket, number: 0
        )
        self.signalled: list[Candidate] = []
        """Candidates of ours that the peer has yet to be told."""
        self.received: list[bytes] = []
        self.kinds = frozenset(CandidateKind)
        self._socket = in_namespace(namespace, lambda: udp_socket(US))
        self._local = Endpoint.of(*self._socket.getsockname()[:2])

    def use(self, relay: Relay, *kinds: CandidateKind) -> None:
        """Have candidates of these kinds, which all come from the relay."""
        self.kinds = frozenset(kinds)
        self.transport.update((), [relay], clock())

    def add_remote(self, relay: Relay, candidate: Candidate) -> None:
        self.agent.add_remote_candidate(candidate, clock())
        if candidate.kind is not CandidateKind.HOST:
            self.transport.bind(relay.id, candidate.address, clock())

    def send(self, payload: bytes) -> None:
        """On the nominated pair."""
        pair = self.agent.nominated
        assert pair is not None
        self.transport.send(payload, pair.local.base, pair.remote.address, clock())
        self._flush()

    def step(self, longest: int) -> None:
        """Wait for a datagram or the next deadline, and take it in."""
        deadline = clock() + longest
        for timeout in (self.agent.poll_timeout(), self.transport.poll_timeout()):
            if timeout is not None:
                deadline = min(deadline, timeout.deadline)
        select.select([self._socket], [], [], max(0, deadline - clock()) / SECOND)
        with suppress(BlockingIOError, ConnectionError):
            while True:
                payload, source = self._socket.recvfrom(2048)
                self._take_in(Endpoint.of(*source[:2]), payload)
        self.transport.handle_timeout(clock())
        timeout = self.agent.poll_timeout()
        if timeout is not None and timeout.deadline <= clock():
            self.agent.handle_timeout(clock())
        self._flush()

    def close(self) -> None:
        self._socket.close()

    def _take_in(self, source: Endpoint, payload: bytes) -> None:
        arrival = self.transport.receive(self._local, source, payload, clock())
        if arrival is None:
            return
        if looks_like_stun(arrival.payload):
            message = decode(arrival.payload)
            self.agent.handle_stun(arrival.local, arrival.source, message, clock())
        else:
            self.received.append(arrival.payload)

    def _flush(self) -> None:
        self.transport.drain()
        while (relay_event := self.transport.poll_event()) is not None:
            self._handle_relay_event(relay_event.event)
        while self.agent.poll_event() is not None:
            pass
        while (check := self.agent.poll_transmit()) is not None:
            self.transport.send(check.payload, check.local, check.destination, clock())
        self.transport.drain()
        while (transmit := self.transport.poll_transmit()) is not None:
            # What a network refuses is lost, as on any other network.
            with suppress(OSError):
                self._socket.sendto(transmit.payload, transmit.destination.sockaddr)

    def _handle_relay_event(self, event: object) -> None:
        match event:
            case CandidateAdded():
                candidate = as_candidate(event)
                if candidate.kind in self.kinds:
                    adopted = self.agent.add_local_candidate(candidate, clock())
                    self.signalled += [adopted] if adopted is not None else []
            case CandidateInvalidated():
                self.agent.invalidate_local_candidate(as_candidate(event), clock())
            case ChannelConfirmed(peer, _, server):
                for relayed in self.transport.relayed_addresses(server):
                    self.agent.handle_path_opened(relayed, peer, clock())


class Program:
    """Their end: a program ruled by lines, as `nice_peer.c` says."""

    def __init__(self, namespace: str, argv: list[str]) -> None:
        self.candidates: list[Candidate] = []
        self.unsignalled: list[Candidate] = []
        self.selected: list[str] = []
        self.states: list[str] = []
        self.received: list[bytes] = []
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [*netns.prefix_argv(namespace), *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._partial = b""
        deadline = clock() + 10 * SECOND
        self.credentials: IceCredentials | None = None
        while self.credentials is None:
            assert clock() < deadline and self._process.poll() is None
            self.poll(10 * MILLISECOND)

    def poll(self, longest: int = 0) -> None:
        """Take in what it says."""
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        while select.select([output], [], [], longest / SECOND)[0]:
            data = os.read(output, 65536)
            if not data:
                return
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                self._take_in(line.decode())
            longest = 0

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _take_in(self, line: str) -> None:
        self.lines.append(line)
        word, _, rest = line.partition(" ")
        match word:
            case "credentials":
                self.credentials = IceCredentials(*rest.split())
            case "candidate":
                candidate = Candidate.from_sdp(rest)
                self.candidates.append(candidate)
                self.unsignalled.append(candidate)
            case "selected":
                self.selected.append(rest)
            case "state":
                self.states.append(rest)
            case "data":
                self.received.append(bytes.fromhex(rest))
            case "cannot-parse":
                raise AssertionError(line)


class Net:
    """All namespaces, the relay program, and both ends once they are started."""

    us: Peer
    them: Program

    def __init__(self, prefix: str, directory: Path) -> None:
        self.namespaces = {name: f"{prefix}-{name}" for name in ("us", "them", "relay", "router")}
        self._directory = directory
        self._ends: list[Peer | Program] = []
        self._relay: subprocess.Popen[bytes] | None = None
        self.username = f"{int(time.time()) + 3600}:salt"
        password = password_of(self.username, SECRET)
        assert password is not None
        self.password = password
        server = RelayServer(Endpoint.of(RELAY, 3478))
        self.relay = Relay(RelayId("relay"), server, self.username, password)

    def turn(self, over: str) -> str:
        """The setting that makes their program allocate. The colon of the username is escaped."""
        username = self.username.replace(":", "%3A")
        return f"turn={over}:{RELAY}:3478:{username}:{self.password}"

    def start_relay(self) -> None:
        (self._directory / "secret").touch(0o600)
        (self._directory / "secret").write_text(SECRET)
        log = self._directory / "log"
        settings = {
            "--public-ip4-addr": RELAY,
            "--health-check-addr": "",
            "--auth-secret-path": self._directory / "secret",
        }
        options = [str(part) for pair in settings.items() for part in pair]
        argv = [sys.executable, "-m", "firezone", "relay", *options]
        with log.open("w") as output:
            self._relay = subprocess.Popen(
                [*netns.prefix_argv(self.namespaces["relay"]), *argv], stderr=output
            )
        deadline = time.monotonic() + 15
        while "event=ready" not in log.read_text():
            assert time.monotonic() < deadline and self._relay.poll() is None, log.read_text()
            time.sleep(0.05)

    def start(self, argv: list[str], controlling: bool, they_control: bool | None = None) -> None:
        """Both ends, theirs first, for it draws its credentials."""
        if they_control is None:
            they_control = not controlling
        program, *settings = argv
        role = "controlling" if they_control else "controlled"
        self.them = Program(self.namespaces["them"], [program, role, THEM, *settings])
        self._ends.append(self.them)
        assert self.them.credentials is not None
        self.us = Peer(self.namespaces["us"], controlling, self.them.credentials)
        self._ends.append(self.us)
        self.them.tell(f"credentials {OURS.username} {OURS.password}")

    def filter(self, rules: str) -> None:
        """More rules for what the router forwards."""
        self._load("filter", f"type filter hook forward priority 0; {rules}")

    def block_direct(self) -> None:
        self.filter(f"ip saddr {US} ip daddr {THEM} drop; ip saddr {THEM} ip daddr {US} drop;")

    def hide(self, *inside: str) -> None:
        """Put a NAT before these addresses: it keeps ports, and lets in only what was asked for.
        What it does not let in must leave no trace, or it would not get the same port."""
        outside = {US: US_OUTSIDE, THEM: THEM_OUTSIDE}
        rules = "".join(f"ip saddr {a} snat to {outside[a]};" for a in inside)
        drop = "".join(f"ip daddr {outside[a]} drop;" for a in inside)
        self._load("input", f"type filter hook input priority 0; {drop}")
        self._load("nat", f"type nat hook postrouting priority 100; {rules}")
        self.filter("".join(f"ct state new ip daddr {a} drop;" for a in inside))

    def connect(self, limit: int = 10 * SECOND) -> None:
        """Signal candidates as they come until both have chosen the same pair."""
        assert self.run(self._is_connected, limit), self.them.lines
        # What is still under way may bring a better pair.
        self.run(lambda: False, 700 * MILLISECOND)
        assert self._is_connected(), self.them.lines

    def exchange(self, payload: bytes = b"payload") -> None:
        """One datagram each way, on what each has chosen."""
        self.us.send(payload)
        assert self.run(lambda: payload in self.them.received), self.them.lines
        self.them.tell(f"send {payload[::-1].hex()}")
        assert self.run(lambda: payload[::-1] in self.us.received), self.them.lines

    def run(self, until: Callable[[], bool], longest: int = 5 * SECOND) -> bool:
        """Let things happen until the condition holds; False if it never did."""
        deadline = clock() + longest
        while not until():
            if clock() >= deadline:
                return False
            self.us.step(min(10 * MILLISECOND, deadline - clock()))
            self.them.poll()
            self._trickle()
        return True

    def clear(self) -> None:
        """End both ends, and remove all filters and NATs."""
        for end in reversed(self._ends):
            end.close()
        self._ends.clear()
        netns.load_rules(self.namespaces["router"], "flush ruleset\n")

    def close(self) -> None:
        for end in reversed(self._ends):
            end.close()
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()

    def _load(self, table: str, chain: str) -> None:
        rules = f"table ip {table} {{\nchain c {{ {chain}\n}}\n}}\n"
        netns.load_rules(self.namespaces["router"], rules)

    def _trickle(self) -> None:
        for theirs in self.them.unsignalled:
            self.us.add_remote(self.relay, theirs)
        for ours in self.us.signalled:
            self.them.tell(f"candidate {ours.to_sdp()}")
        self.them.unsignalled.clear()
        self.us.signalled.clear()

    def _is_connected(self) -> bool:
        done = any(state in ("connected", "ready") for state in self.them.states)
        alive = self.us.agent.state in (IceState.CONNECTED, IceState.COMPLETED)
        return done and alive and bool(self.them.selected)


@contextmanager
def build(directory: Path) -> Iterator[Net]:
    """Everything up and the relay serving; removed in the end, whatever happened."""
    claim = registry.claim()
    net = Net(claim.name, directory)
    names = net.namespaces
    try:
        netns.ip_batch(f"netns add {namespace}" for namespace in names.values())
        for leaf, address in (("us", US), ("them", THEM), ("relay", RELAY)):
            link = f"link add eth0 netns {names[leaf]} type veth peer name {leaf}"
            netns.ip_batch([f"{link} netns {names['router']}"])
            router = address.removesuffix("2") + "1"
            up = ["link set lo up", f"address add {address}/24 dev eth0", "link set eth0 up"]
            netns.ip_batch([*up, f"route add default via {router}"], names[leaf])
            up = [f"address add {router}/24 dev {leaf}", f"link set {leaf} up"]
            netns.ip_batch(up, names["router"])
        netns.set_sysctls(names["router"], {"net/ipv4/ip_forward": "1"})
        outside = [f"address add {a}/32 dev lo" for a in (US_OUTSIDE, THEM_OUTSIDE)]
        netns.ip_batch(["link set lo up", *outside], names["router"])
        net.start_relay()
        yield net
    finally:
        net.close()
        netns.remove(names.values())
        claim.release()


def in_namespace(namespace: str, function: Callable[[], T]) -> T:
    """Call a function in a thread that went to a namespace, and ends."""
    results: list[T] = []

    def call() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with (netns.DIRECTORY / namespace).open() as file:
            if libc.setns(file.fileno(), 0x40000000) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        results.append(function())

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    (result,) = results
    return result


def udp_socket(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((address, 0))
    return sock


def clock() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
