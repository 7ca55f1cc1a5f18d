"""A node with a made-up clock, beside a relay that grants everything and a peer that is bytes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from firezone import commands, stun
from firezone.commands import Activity
from firezone.durations import SECOND
from firezone.ice import Candidate
from firezone.model import Endpoint, IceCredentials, RelayId, Transmit
from firezone.node import Node, NodeEvent, PeerKeys, Relay
from firezone.noise import StaticKeypair
from firezone.stun import Class, Message, Method
from firezone.turn import Credentials, RelayServer

START = 1_000 * SECOND
UNIX_START = 1_800_000_000 * SECOND
LOCAL = Endpoint.parse("192.168.1.5:52625")
MAPPED = Endpoint.parse("203.0.113.5:40000")
SERVER = Endpoint.parse("198.51.100.1:3478")
RELAYED = Endpoint.parse("198.51.100.1:50000")
PEER = Endpoint.parse("192.0.2.77:7777")
RELAY = Relay(RelayId("relay"), RelayServer(SERVER), "1892160000:salt", "password")
KEY = Credentials(RELAY.username, RELAY.password, "firezone").key

OURS = IceCredentials("ours", "our-password-of-22-chs")
THEIRS = IceCredentials("them", "their-password-22-char")
STRANGER = StaticKeypair.generate(random.Random(99).randbytes)


def keys(static: StaticKeypair = STRANGER, psk: bytes = bytes(32)) -> PeerKeys:
    return PeerKeys(static.public, psk, OURS, THEIRS)


@dataclass
class Bench:
    """The node, and what came out of it that no relay answered."""

    controlling: bool = True
    now: int = START
    sent: list[Transmit] = field(default_factory=list)
    events: list[NodeEvent] = field(default_factory=list)
    commands: list[commands.Command] = field(default_factory=list)
    relay_answers: bool = True

    def __post_init__(self) -> None:
        self.node = Node(
            controlling=self.controlling,
            entropy=random.Random(5).randbytes,
            activity=lambda slot: Activity(),
            channel_received_at=lambda socket, number: 0,
            unix_now=UNIX_START,
            now=self.now,
        )

    def with_relay(self) -> Bench:
        self.node.update_relays((), [RELAY], self.now)
        self.drain()
        return self

    def after(self, seconds: float) -> Bench:
        """Passes time wake by wake."""
        end = self.now + int(seconds * SECOND)
        for _ in range(10_000):
            timeout = self.node.poll_timeout()
            if timeout is None or timeout.deadline > end:
                break
            self.now = max(self.now, timeout.deadline)
            self.node.handle_timeout(self.now)
            self.drain()
        self.now = end
        return self

    def receive(self, payload: bytes, source: Endpoint = PEER, local: Endpoint = LOCAL) -> None:
        self.node.handle_datagram(local, source, payload, self.now)
        self.drain()

    def drain(self) -> None:
        while (transmit := self.node.poll_transmit()) is not None:
            if transmit.destination == SERVER and stun.looks_like_stun(transmit.payload):
                self._answer(stun.decode(transmit.payload))
            else:
                self.sent.append(transmit)
        while (command := self.node.poll_command()) is not None:
            self.commands.append(command)
        while (event := self.node.poll_event()) is not None:
            self.events.append(event)

    def of(self, kind: type[NodeEvent]) -> list[NodeEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    def _answer(self, request: Message) -> None:
        if not self.relay_answers or request.class_ is not Class.REQUEST:
            return
        response = request.success().with_(stun.XOR_MAPPED_ADDRESS, MAPPED)
        if request.method == Method.ALLOCATE:
            response = response.with_(stun.XOR_RELAYED_ADDRESS, RELAYED)
        if request.method in (Method.ALLOCATE, Method.REFRESH):
            response = response.with_(stun.LIFETIME, 600)
        key = None if request.method == Method.BINDING else KEY
        self.receive(response.encode(integrity_key=key), SERVER)


def host(text: str) -> Candidate:
    return Candidate.host(Endpoint.parse(text))
