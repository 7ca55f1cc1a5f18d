"""A relay with a made-up clock and a client that speaks to it, for the tests of both."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from firezone import stun
from firezone.durations import SECOND
from firezone.model import Endpoint, IPAddress, Transmit
from firezone.stun import Message, Method
from firezone.turn.relay import Relay
from firezone.turn.relay_allocate import Quotas
from firezone.turn.relay_auth import password_of
from firezone.turn.relay_commands import CloseSocket, Forbid, OpenSocket, Permit, RelayCommand
from firezone.turn.relay_peers import PeerPolicy

SECRET = "0f" * 32
UNIX_NOW = 1_790_000_000
START = 1_000 * SECOND
SOFTWARE = "relay under test"

RELAY_4 = Endpoint.of("198.51.100.1", 3478)
RELAY_6 = Endpoint.of("2001:db8::1", 3478)
CLIENT_4 = Endpoint.of("203.0.113.5", 40000)
CLIENT_6 = Endpoint.of("2001:db8:5::5", 40006)
PEER_4 = Endpoint.of("192.0.2.77", 52625)
PEER_6 = Endpoint.of("2001:db8:7::7", 52625)


@dataclass
class World:
    """A relay, its clock, the relay sockets that are open, and every command it gave."""

    ipv4: IPv4Address | None = field(default_factory=lambda: IPv4Address("198.51.100.1"))
    ipv6: IPv6Address | None = field(default_factory=lambda: IPv6Address("2001:db8::1"))
    ports: range = range(49152, 65536)
    one_port: bool = False
    peers: PeerPolicy | None = None
    quotas: Quotas | None = None
    alternates: dict[int, Endpoint] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    secret: str | None = SECRET
    realm: str = "firezone"
    busy: set[tuple[int, int]] = field(default_factory=set)
    """Sockets that the host refuses."""

    def __post_init__(self) -> None:
        self.now = START
        self.open: set[tuple[int, int]] = set()
        self.permits: set[tuple[int, IPAddress]] = set()
        """Whose Send and Data the shell was told to relay, by port."""
        self.any_port: dict[tuple[int, IPAddress], bool] = {}
        """Whether each of these may be sent to at any port."""
        self.entropy = random.Random(7).randbytes
        self.relay = Relay(
            public_ipv4=self.ipv4,
            public_ipv6=self.ipv6,
            ports=self.ports,
            one_port=self.one_port,
            auth_secret=self.secret,
            users=self.users,
            realm=self.realm,
            software=SOFTWARE,
            peers=self.peers,
            quotas=self.quotas,
            alternates=self.alternates,
            entropy=self.entropy,
            unix_now=UNIX_NOW * SECOND,
            now=START,
        )

    def commands(self) -> list[RelayCommand]:
        """Carries out what the relay wants, sockets included, and lists it."""
        done = []
        while (command := self.relay.poll_command()) is not None:
            done.append(command)
            match command:
                case OpenSocket(port, family):
                    ok = (port, family) not in self.busy
                    if ok:
                        assert (port, family) not in self.open
                        self.open.add((port, family))
                    self.relay.handle_socket_opened(port, family, ok, self.now)
                case CloseSocket(port, family):
                    self.open.discard((port, family))
                    assert not any(p == port and a.version == family for p, a in self.permits)
                case Permit(five_tuple, port, address, any_port):
                    assert (port, address.version) in self.open
                    assert self.any_port.get((port, address)) is not any_port
                    assert any_port or address in (self.ipv4, self.ipv6)
                    assert five_tuple.client.port and five_tuple.local is not None
                    self.any_port[port, address] = any_port
                    self.permits.add((port, address))
                case Forbid(port, address):
                    self.permits.remove((port, address))
                    del self.any_port[port, address]
        return done

    def send(self, data: bytes, source: Endpoint = CLIENT_4) -> list[RelayCommand]:
        local = RELAY_4 if source.family == 4 else RELAY_6
        if source.address.is_loopback:
            local = Endpoint(source.address, local.port)
        self.relay.handle_client_datagram(local, source, data, self.now)
        return self.commands()

    def from_peer(self, port: int, data: bytes, peer: Endpoint = PEER_4) -> list[RelayCommand]:
        self.relay.handle_peer_datagram(port, peer, data, self.now)
        return self.commands()

    def wait(self, seconds: float) -> list[RelayCommand]:
        """Lets time pass, stopping at every deadline on the way."""
        until, done = self.now + int(seconds * SECOND), []
        while (timeout := self.relay.poll_timeout()) is not None and timeout.deadline <= until:
            self.now = max(self.now, timeout.deadline)
            self.relay.handle_timeout(self.now)
            done += self.commands()
        self.now = until
        self.relay.handle_timeout(until)
        return done + self.commands()

    def seconds_to_timeout(self) -> float | None:
        timeout = self.relay.poll_timeout()
        return None if timeout is None else (timeout.deadline - self.now) / SECOND


@dataclass
class Client:
    """A TURN client of the long-term credential mechanism; it believes in what it is told."""

    world: World
    address: Endpoint = CLIENT_4
    username: str = f"{UNIX_NOW + 86_400}:salt"
    secret: str = SECRET
    nonce: str | None = None
    password: str | None = None
    """If it does not follow from the secret."""

    @property
    def key(self) -> bytes:
        password = self.password or password_of(self.username, self.secret) or "none"
        return stun.long_term_key(self.username, self.world.realm, password)

    def request(self, method: int, *values: tuple[stun.Attribute[Any], Any]) -> Message:
        message = Message.request(method, self.world.entropy)
        for attribute, value in values:
            message = message.with_(attribute, value)
        return message

    def signed(self, message: Message) -> bytes:
        """With username, realm, nonce if known, and integrity."""
        message = message.with_(stun.USERNAME, self.username).with_(stun.REALM, self.world.realm)
        if self.nonce is not None:
            message = message.with_(stun.NONCE, self.nonce)
        return message.encode(self.key)

    def call(self, method: int, *values: tuple[stun.Attribute[Any], Any]) -> Message:
        """Sends a request, with a nonce fetched first if there is none; the only response."""
        return self.responses(method, *values)[-1]

    def responses(self, method: int, *values: tuple[stun.Attribute[Any], Any]) -> list[Message]:
        self.learn_nonce()
        return self.read(self.world.send(self.signed(self.request(method, *values)), self.address))

    def learn_nonce(self) -> None:
        if self.nonce is None:
            request = self.request(Method.REFRESH).encode()
            [response] = self.read(self.world.send(request, self.address))
            self.nonce = response.get(stun.NONCE)
            assert self.nonce is not None

    def read(self, commands: list[RelayCommand]) -> list[Message]:
        """The STUN messages for this client among commands."""
        return [
            stun.decode(bytes(command.payload))
            for command in commands
            if isinstance(command, Transmit)
            and command.destination == self.address
            and command.payload[0] < 4
        ]

    def allocate(self, *values: tuple[stun.Attribute[Any], Any]) -> Message:
        return self.call(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17), *values)

    def allocated_port(self, *values: tuple[stun.Attribute[Any], Any]) -> int:
        relayed = self.allocate(*values).get(stun.XOR_RELAYED_ADDRESS)
        assert relayed is not None
        return relayed.port

    def bind(self, number: int, peer: Endpoint = PEER_4) -> Message:
        return self.call(
            Method.CHANNEL_BIND, (stun.CHANNEL_NUMBER, number), (stun.XOR_PEER_ADDRESS, peer)
        )

    def permit(self, *peers: Endpoint) -> Message:
        return self.call(
            Method.CREATE_PERMISSION, *((stun.XOR_PEER_ADDRESS, peer) for peer in peers)
        )

    def send(
        self, peer: Endpoint, data: bytes, *values: tuple[stun.Attribute[Any], Any]
    ) -> list[RelayCommand]:
        """What comes of a Send indication."""
        message = Message.indication(Method.SEND, self.world.entropy)
        for attribute, value in ((stun.XOR_PEER_ADDRESS, peer), *values, (stun.DATA, data)):
            message = message.with_(attribute, value)
        return self.world.send(message.encode(), self.address)

    def refresh(self, lifetime: int) -> Message:
        return self.call(Method.REFRESH, (stun.LIFETIME, lifetime))


def error_of(message: Message) -> int | None:
    """The code of an error response, None for a success."""
    error = message.get(stun.ERROR_CODE)
    return None if error is None else error.code
