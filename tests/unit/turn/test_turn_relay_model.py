"""The relay against a plain model of RFC 8656: random clients, who come, bind, send and leave.

The model keeps lists and times and looks at all of them at every step; it knows neither heaps nor
commands. What the shell was told to have open has to agree with it at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from turn_relay_kit import CLIENT_4, Client, World, error_of

from firezone import stun
from firezone.model import Endpoint, IPAddress, Transmit
from firezone.stun import Message, Method
from firezone.turn.relay_commands import BindChannel, RelayCommand, SendToPeer, UnbindChannel

PORTS = range(50000, 50002)
CLIENTS = [Endpoint(CLIENT_4.address, 40000 + index) for index in range(3)]
PEERS = [Endpoint.of(f"192.0.2.{host}", port) for host, port in ((7, 1), (7, 2), (8, 1))]
NUMBERS = [0x4000, 0x4001, 0x7FFF]

clients, peers = st.integers(0, len(CLIENTS) - 1), st.sampled_from(PEERS)
numbers = st.sampled_from(NUMBERS)
steps = st.one_of(
    st.tuples(st.just("allocate"), clients, st.sampled_from([60, 3600])),
    st.tuples(st.just("refresh"), clients, st.sampled_from([0, 60, 3600])),
    st.tuples(st.just("permit"), clients, st.lists(peers, min_size=1, max_size=3)),
    st.tuples(st.just("bind"), clients, numbers, peers),
    st.tuples(st.just("send"), clients, peers),
    st.tuples(st.just("channel_data"), clients, numbers),
    st.tuples(st.just("peer_data"), clients, peers),
    st.tuples(st.just("wait"), st.sampled_from([1, 60, 300, 600])),
)


@dataclass
class Held:
    """What one client has; the numbers are seconds at which it ends."""

    port: int
    until: int
    takes_data: bool = False
    permissions: dict[IPAddress, int] = field(default_factory=dict)
    channels: dict[int, tuple[Endpoint, int]] = field(default_factory=dict)


class Pair:
    """The relay and its model."""

    def __init__(self) -> None:
        self.world = World(ports=PORTS)
        self.now = 0
        self.held: dict[int, Held] = {}
        self.bound: set[tuple[int, int, Endpoint]] = set()
        self.clients = [
            Client(self.world, address, username=f"{2**40}:{address.port}") for address in CLIENTS
        ]

    def watch(self, commands: list[RelayCommand]) -> list[RelayCommand]:
        for command in commands:
            match command:
                case BindChannel(_, number, port, peer):
                    self.bound.add((port, number, peer))
                case UnbindChannel(_, number, port, peer):
                    self.bound.remove((port, number, peer))
        return commands

    def ask(self, index: int, method: int, *values: tuple[stun.Attribute[Any], Any]) -> Message:
        client = self.clients[index]
        client.nonce = None  # they grow old
        client.learn_nonce()
        request = client.signed(client.request(method, *values))
        [answer] = client.read(self.watch(self.world.send(request, client.address)))
        return answer

    # Each does a step on both sides.

    def allocate(self, index: int, lifetime: int) -> None:
        values = [(stun.REQUESTED_TRANSPORT, 17), (stun.LIFETIME, lifetime)]
        answer = self.ask(index, Method.ALLOCATE, *values)
        if index in self.held:
            assert error_of(answer) == 437
        elif len(self.held) == len(PORTS):
            assert error_of(answer) == 508
        else:
            relayed = answer.get(stun.XOR_RELAYED_ADDRESS)
            assert relayed is not None
            self.held[index] = Held(relayed.port, self.now + lifetime)

    def refresh(self, index: int, lifetime: int) -> None:
        answer = self.ask(index, Method.REFRESH, (stun.LIFETIME, lifetime))
        assert error_of(answer) == (None if index in self.held else 437)
        if lifetime == 0:
            self.held.pop(index, None)
        elif index in self.held:
            self.held[index].until = self.now + lifetime

    def permit(self, index: int, peers: list[Endpoint]) -> None:
        values = [(stun.XOR_PEER_ADDRESS, peer) for peer in peers]
        answer = self.ask(index, Method.CREATE_PERMISSION, *values)
        held = self.held.get(index)
        assert error_of(answer) == (437 if held is None else None)
        if held is not None:
            held.takes_data = True
            held.permissions |= {peer.address: self.now + 300 for peer in peers}

    def bind(self, index: int, number: int, peer: Endpoint) -> None:
        values = [(stun.CHANNEL_NUMBER, number), (stun.XOR_PEER_ADDRESS, peer)]
        answer = self.ask(index, Method.CHANNEL_BIND, *values)
        held = self.held.get(index)
        if held is None:
            assert error_of(answer) == 437
            return
        pairs = {(n, p) for n, (p, _) in held.channels.items()}
        if any((n == number) != (p == peer) for n, p in pairs):
            assert error_of(answer) == 400
            return
        assert error_of(answer) is None
        held.channels[number] = (peer, self.now + 600)
        held.permissions[peer.address] = self.now + 300

    def send(self, index: int, peer: Endpoint) -> None:
        held = self.held.get(index)
        sent = [c for c in self.clients[index].send(peer, b"up") if isinstance(c, SendToPeer)]
        if held is None or peer.address not in held.permissions:
            assert sent == []
        else:
            assert sent == [SendToPeer(held.port, peer, b"up")]
            held.takes_data = True

    def channel_data(self, index: int, number: int) -> None:
        held = self.held.get(index)
        data = number.to_bytes(2, "big") + b"\x00\x02up"
        peer = None if held is None else self.peer_of(held, number)
        expected = [] if held is None or peer is None else [SendToPeer(held.port, peer, b"up")]
        assert self.world.send(data, CLIENTS[index]) == expected

    def peer_data(self, index: int, peer: Endpoint) -> None:
        held = self.held.get(index)
        arrived = self.world.from_peer(PORTS[0] if held is None else held.port, b"down", peer)
        if held is None:
            return
        number = next((n for n in held.channels if self.peer_of(held, n) == peer), None)
        if number is None and not (held.takes_data and peer.address in held.permissions):
            assert arrived == []
            return
        [command] = arrived
        assert isinstance(command, Transmit) and command.destination == CLIENTS[index]
        if number is not None:
            assert command.payload == number.to_bytes(2, "big") + b"\x00\x04down"
            return
        message = stun.decode(bytes(command.payload))
        assert (message.method, message.get(stun.DATA)) == (Method.DATA, b"down")

    def wait(self, seconds: int) -> None:
        self.watch(self.world.wait(seconds))
        self.now += seconds
        for index, held in [*self.held.items()]:
            held.permissions = {a: t for a, t in held.permissions.items() if t > self.now}
            held.channels = {n: c for n, c in held.channels.items() if c[1] + 300 > self.now}
            if held.until <= self.now:
                del self.held[index]

    def peer_of(self, held: Held, number: int) -> Endpoint | None:
        peer, until = held.channels.get(number, (None, 0))
        return peer if until > self.now else None

    def check(self) -> None:
        """Counts, and what the shell was told."""
        relay, held = self.world.relay, self.held.values()
        bound = {
            (h.port, number, peer)
            for h in held
            for number in h.channels
            if (peer := self.peer_of(h, number)) is not None
        }
        assert self.world.open == {(h.port, 4) for h in held}
        assert self.bound == bound
        taking = [h for h in held if h.takes_data]
        assert self.world.permits == {(h.port, a) for h in taking for a in h.permissions}
        assert relay.allocation_count == relay.user_count == len(held)
        assert relay.channel_count == len(bound)
        assert relay.permission_count == sum(len(h.permissions) for h in held)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, min_size=20, max_size=40))
def test_agrees_with_the_model(walk: list[tuple[Any, ...]]) -> None:
    pair = Pair()
    pair.allocate(0, 3600)
    for verb, *arguments in walk:
        step: Callable[..., None] = getattr(pair, verb)
        step(*arguments)
        pair.check()
    pair.wait(4600)
    pair.check()
    assert pair.held == {} and pair.world.relay.poll_timeout() is None
