"""A TURN client with a made-up clock, and a relay that answers as the test says."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from firezone import stun
from firezone.durations import SECOND
from firezone.model import Endpoint, Transmit
from firezone.stun import Class, Message, Method
from firezone.turn import Allocation, AllocationEvent, Credentials, RelayServer

RELAY_4 = Endpoint.parse("198.51.100.1:3478")
RELAY_6 = Endpoint.parse("[2001:db8:1::1]:3478")
LOCAL_4 = Endpoint.parse("192.168.1.5:52625")
LOCAL_6 = Endpoint.parse("[2001:db8:5::5]:52625")
MAPPED_4 = Endpoint.parse("203.0.113.5:40000")
RELAYED_4 = Endpoint.parse("198.51.100.1:50000")
RELAYED_6 = Endpoint.parse("[2001:db8:1::1]:50000")
PEER_4 = Endpoint.parse("192.0.2.77:7777")
PEER_4B = Endpoint.parse("192.0.2.78:7777")
PEER_6 = Endpoint.parse("[2001:db8:7::7]:7777")

CREDENTIALS = Credentials("1892160000:salt", "password", "firezone")
SOFTWARE = "snownet; session=test"
LIFETIME = 600
BOTH = RelayServer(RELAY_4, RELAY_6)
ONLY_4 = RelayServer(RELAY_4)


@dataclass
class Wire:
    """The client under test, what it has sent, and short words for the answers to it."""

    server: RelayServer = ONLY_4
    now: int = 0
    relayed: tuple[Endpoint, ...] = (RELAYED_4, RELAYED_6)
    sent: list[tuple[Message, Endpoint]] = field(default_factory=list)
    events: list[AllocationEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.allocation = Allocation(
            server=self.server,
            username=CREDENTIALS.username,
            password=CREDENTIALS.password,
            realm=CREDENTIALS.realm,
            software=SOFTWARE,
            entropy=random.Random(3).randbytes,
            now=self.now,
        )

    # The clock.

    def after(self, seconds: float) -> Wire:
        """Passes time in one go."""
        self.now += int(seconds * SECOND)
        self.allocation.handle_timeout(self.now)
        return self

    def alive_for(self, seconds: float) -> Wire:
        """Passes time wake by wake, with a relay that grants everything."""
        end = self.now + int(seconds * SECOND)
        while (timeout := self.allocation.poll_timeout()) and timeout.deadline <= end:
            assert timeout.deadline >= self.now, "it wakes in the past"
            self.now = timeout.deadline
            self.allocation.handle_timeout(self.now)
            self.grant_all()
        self.now = end
        self.allocation.handle_timeout(self.now)
        return self

    # What it says.

    def drain(self) -> list[Message]:
        """The requests it sent since, all of them signed where they should be."""
        fresh = []
        while (transmit := self.allocation.poll_transmit()) is not None:
            fresh.append(self._check(transmit))
        return [message for message, _ in fresh]

    def only(self, method: Method) -> Message:
        """The one request it sent since, which is of this method."""
        (message,) = self.drain()
        assert message.method == method
        return message

    def only_unsigned(self, method: Method) -> Message:
        """The one request it sent since, which names no user."""
        transmit = self.allocation.poll_transmit()
        assert transmit is not None and self.allocation.poll_transmit() is None
        message = stun.decode(transmit.payload)
        assert message.method == method and not message.has_integrity
        return message

    def methods(self) -> list[int]:
        return [message.method for message in self.drain()]

    def news(self) -> list[AllocationEvent]:
        """The events since."""
        fresh = []
        while (event := self.allocation.poll_event()) is not None:
            fresh.append(event)
        self.events += fresh
        return fresh

    def _check(self, transmit: Transmit) -> tuple[Message, Endpoint]:
        message = stun.decode(transmit.payload)
        assert message.class_ is Class.REQUEST and transmit.source is None
        assert message.get(stun.SOFTWARE) == SOFTWARE
        assert message.verify_integrity(CREDENTIALS.key) == (message.method != Method.BINDING)
        assert not message.has_fingerprint
        self.sent.append((message, transmit.destination))
        return message, transmit.destination

    # What the relay says.

    def answer(
        self,
        response: Message,
        *,
        key: bytes | None = CREDENTIALS.key,
        source: Endpoint = RELAY_4,
        local: Endpoint = LOCAL_4,
    ) -> bool:
        data = response.encode(integrity_key=key)
        return self.allocation.handle_datagram(local, source, data, self.now)

    def answer_binding(
        self,
        request: Message,
        mapped: Endpoint = MAPPED_4,
        source: Endpoint = RELAY_4,
        local: Endpoint = LOCAL_4,
    ) -> bool:
        response = request.success().with_(stun.XOR_MAPPED_ADDRESS, mapped)
        return self.answer(response, key=None, source=source, local=local)

    def answer_allocate(self, request: Message, lifetime: int = LIFETIME) -> bool:
        response = request.success().with_(stun.LIFETIME, lifetime)
        for relayed in self.relayed:
            response = response.with_(stun.XOR_RELAYED_ADDRESS, relayed)
        return self.answer(response.with_(stun.XOR_MAPPED_ADDRESS, MAPPED_4))

    def answer_refresh(self, request: Message, lifetime: int = LIFETIME) -> bool:
        return self.answer(request.success().with_(stun.LIFETIME, lifetime))

    def refuse(self, request: Message, code: int, *, nonce: str | None = None, **how: Any) -> bool:
        error = request.error(code)
        if nonce is not None:
            error = error.with_(stun.REALM, "firezone").with_(stun.NONCE, nonce)
        return self.answer(error, **how)

    def grant_all(self) -> list[int]:
        """Answers what it sent since with success, and gives the methods of that."""
        methods = []
        while requests := self.drain():
            for request in requests:
                methods.append(request.method)
                self._grant(request)
        return methods

    def _grant(self, request: Message) -> None:
        match request.method:
            case Method.BINDING:
                self.answer_binding(request)
            case Method.ALLOCATE:
                self.answer_allocate(request)
            case Method.REFRESH:
                lifetime = request.get(stun.LIFETIME)
                self.answer_refresh(request, LIFETIME if lifetime is None else lifetime)
            case Method.CHANNEL_BIND:
                self.answer(request.success())


def bound(server: RelayServer = ONLY_4, **fields: Any) -> Wire:
    """A client whose active socket is fixed; its Allocate waits to be taken."""
    wire = Wire(server, **fields)
    wire.answer_binding(wire.drain()[0])
    return wire


def challenged(server: RelayServer = ONLY_4, **fields: Any) -> Wire:
    """The same after a 401: the Allocate that waits has a nonce."""
    wire = bound(server, **fields)
    wire.refuse(wire.only(Method.ALLOCATE), 401, nonce="nonce-1")
    return wire


def allocated(server: RelayServer = ONLY_4, **fields: Any) -> Wire:
    """A client with an allocation; nothing waits."""
    wire = challenged(server, **fields)
    wire.answer_allocate(wire.only(Method.ALLOCATE))
    wire.news()
    return wire


def with_channel(peer: Endpoint = PEER_4) -> Wire:
    """A client with a bound channel."""
    wire = allocated()
    wire.allocation.bind_channel(peer, wire.now)
    wire.grant_all()
    wire.news()
    return wire
