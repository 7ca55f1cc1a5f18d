"""Our own TURN client against our own relay, over a wire without delay."""

from __future__ import annotations

import pytest
from turn_relay_kit import (
    CLIENT_4,
    CLIENT_6,
    PEER_4,
    PEER_6,
    RELAY_4,
    RELAY_6,
    SECRET,
    UNIX_NOW,
    World,
)

from firezone.durations import MINUTE, SECOND
from firezone.model import Endpoint, Transmit
from firezone.turn import Allocation, RelayServer
from firezone.turn.channel_data import encode_channel_data
from firezone.turn.relay import Relay
from firezone.turn.relay_auth import password_of
from firezone.turn.relay_commands import RelayCommand, SendToPeer


class Wire:
    """Carries everything between one client and one relay, and makes time pass for both."""

    def __init__(self, lifetime_days: int = 1) -> None:
        self.world = World()
        self.local = {4: CLIENT_4, 6: CLIENT_6}
        self.username = f"{UNIX_NOW + lifetime_days * 86_400}:salt"
        self.client = self.new_client(self.username)
        self.to_peers: list[SendToPeer] = []
        self.received: list[bytes] = []

    def new_client(self, username: str) -> Allocation:
        return Allocation(
            server=RelayServer(RELAY_4, RELAY_6),
            username=username,
            password=password_of(username, SECRET) or "",
            realm="firezone",
            software="client under test",
            entropy=self.world.entropy,
            now=self.world.now,
        )

    def settle(self) -> None:
        """Until neither side has anything to say."""
        while (transmit := self.client.poll_transmit()) is not None:
            self.deliver(self.world.send(transmit.payload, self.local[transmit.destination.family]))

    def deliver(self, commands: list[RelayCommand]) -> None:
        for command in commands:
            match command:
                case SendToPeer():
                    self.to_peers.append(command)
                case Transmit(payload, destination, source):
                    assert source is not None and destination == self.local[source.family]
                    if payload[0] < 4:
                        self.client.handle_datagram(destination, source, payload, self.world.now)
                    elif inner := self.client.decapsulate(source, payload, self.world.now):
                        self.received.append(inner.payload)

    def wait(self, duration: int, step: int = 1 * SECOND) -> None:
        for _ in range(duration // step):
            self.deliver(self.world.wait(step // SECOND))
            self.client.handle_timeout(self.world.now)
            self.settle()

    def echo(self, peer: Endpoint) -> None:
        """Sends a datagram to the peer and one back."""
        channel = self.client.channel_to(peer, self.world.now)
        assert channel is not None
        local = self.local[channel.socket.family]
        self.deliver(self.world.send(encode_channel_data(channel.number, b"to"), local))
        sent = self.to_peers.pop()
        assert (sent.peer, sent.payload) == (peer, b"to")
        self.deliver(self.world.from_peer(sent.port, b"fro", peer))
        assert self.received.pop() == b"fro"


@pytest.fixture
def wire() -> Wire:
    made = Wire()
    made.settle()
    return made


def relayed(client: Allocation) -> list[Endpoint]:
    return client.relayed_addresses()


def test_allocates_in_both_families_and_talks_to_both(wire: Wire) -> None:
    assert [address.family for address in relayed(wire.client)] == [4, 6]
    for peer in (PEER_4, PEER_6):
        wire.client.bind_channel(peer, wire.world.now)
    wire.settle()
    wire.echo(PEER_4)
    wire.echo(PEER_6)
    assert set(wire.world.relay.counters) == {
        *("binding_success", "allocate_success", "channel_bind_success"),
        *("error_401", "relayed_bytes"),
    }


def test_stays_allocated_for_hours_without_another_error(wire: Wire) -> None:
    addresses = relayed(wire.client)
    wire.client.bind_channel(PEER_4, wire.world.now)
    wire.settle()
    for _ in range(45):
        wire.wait(4 * MINUTE, step=5 * SECOND)
        wire.echo(PEER_4)
    assert relayed(wire.client) == addresses
    errors = {name: n for name, n in wire.world.relay.counters.items() if "error" in name}
    assert errors.pop("error_401") == 1
    # Once an hour the nonce is stale, for a Refresh and a ChannelBind that leave together.
    assert set(errors) == {"error_438"} and errors["error_438"] <= 6


def test_idle_channel_ends_on_both_sides(wire: Wire) -> None:
    wire.client.bind_channel(PEER_4, wire.world.now)
    wire.settle()
    wire.wait(16 * MINUTE, step=5 * SECOND)
    assert wire.world.relay.channel_count == 0
    wire.client.bind_channel(PEER_4, wire.world.now)
    wire.settle()
    wire.echo(PEER_4)


def test_finds_a_relay_that_restarted_without_its_secret(wire: Wire) -> None:
    wire.client.bind_channel(PEER_4, wire.world.now)
    wire.settle()
    world = wire.world
    world.open.clear()
    world.relay = Relay(
        public_ipv4=world.ipv4,
        public_ipv6=world.ipv6,
        auth_secret="ee" * 32,
        entropy=world.entropy,
        unix_now=UNIX_NOW * SECOND,
        now=world.now,
    )
    wire.client.refresh(world.now)
    wire.wait(20 * SECOND)
    assert relayed(wire.client) == []
    assert world.relay.allocation_count == 0


def test_new_credentials_from_the_same_socket_start_anew(wire: Wire) -> None:
    before = relayed(wire.client)
    wire.client = wire.new_client(f"{UNIX_NOW + 99_999}:another")
    wire.settle()
    assert len(relayed(wire.client)) == 2
    assert relayed(wire.client) != before
    assert wire.world.relay.allocation_count == 1


def test_expired_credentials_end_with_the_allocation() -> None:
    wire = Wire(lifetime_days=0)
    wire.settle()
    assert relayed(wire.client)
    wire.wait(6 * MINUTE, step=5 * SECOND)
    assert relayed(wire.client) == []
    assert wire.client.credentials is None
