"""Our client against our relay, without a network: each byte one sends, the other reads."""

from dataclasses import dataclass, field

from turn_relay_kit import PEER_4, PEER_6, RELAY_4, RELAY_6, SECRET, UNIX_NOW, World

from firezone.durations import SECOND
from firezone.model import Endpoint, Transmit
from firezone.turn import (
    Allocation,
    AllocationEvent,
    CandidateInvalidated,
    ChannelConfirmed,
    Decapsulated,
    RelayServer,
    encode_channel_data,
)
from firezone.turn.relay_auth import password_of
from firezone.turn.relay_commands import RelayCommand, SendToPeer

HOME_4 = Endpoint.of("192.168.1.5", 52625)
HOME_6 = Endpoint.of("2001:db8:5::5", 52625)
NAT = Endpoint.of("203.0.113.5", 40000)


@dataclass
class Home:
    """A client behind a NAT that changes its IPv4 port, and a relay."""

    world: World = field(default_factory=World)
    username: str = f"{UNIX_NOW + 86_400}:salt"
    nat: Endpoint = NAT
    events: list[AllocationEvent] = field(default_factory=list)
    received: list[Decapsulated] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = Allocation(
            server=RelayServer(RELAY_4, RELAY_6),
            username=self.username,
            password=password_of(self.username, SECRET) or "",
            realm="firezone",
            software="snownet; session=test",
            entropy=self.world.entropy,
            now=self.world.now,
        )
        self.settle()

    def settle(self) -> None:
        """Carries datagrams both ways until nobody has anything to say."""
        while (transmit := self.client.poll_transmit()) is not None:
            source = self.nat if transmit.destination == RELAY_4 else HOME_6
            self.deliver(self.world.send(transmit.payload, source))
        while (event := self.client.poll_event()) is not None:
            self.events.append(event)

    def deliver(self, commands: list[RelayCommand]) -> None:
        for command in commands:
            if not isinstance(command, Transmit):
                continue
            over_4 = command.destination.family == 4
            local, relay = (HOME_4, RELAY_4) if over_4 else (HOME_6, RELAY_6)
            data, now = bytes(command.payload), self.world.now
            if not self.client.handle_datagram(local, relay, data, now):
                inner = self.client.decapsulate(relay, data, now)
                if inner is not None:
                    self.received.append(inner)

    def bind(self, peer: Endpoint) -> None:
        self.client.bind_channel(peer, self.world.now)
        self.settle()

    def send(self, peer: Endpoint, payload: bytes) -> list[RelayCommand]:
        channel = self.client.channel_to(peer, self.world.now)
        assert channel is not None and channel.socket == RELAY_4
        return self.world.send(encode_channel_data(channel.number, payload), self.nat)

    def wait(self, seconds: float) -> None:
        until = self.world.now + int(seconds * SECOND)
        while (timeout := self.client.poll_timeout()) and timeout.deadline <= until:
            self.deliver(self.world.wait((timeout.deadline - self.world.now) / SECOND))
            self.client.handle_timeout(self.world.now)
            self.settle()
        self.world.wait((until - self.world.now) / SECOND)


def test_peer_that_is_refused_costs_nothing_else() -> None:
    """As those that stand behind private addresses are: the client forgets their channels only."""
    home = Home()
    private = Endpoint.of("10.0.0.7", 52625)
    home.bind(private)
    home.bind(PEER_4)
    assert home.world.relay.counters["error_403"] == 1
    assert home.client.channel_to(private, home.world.now) is None
    assert len(home.send(PEER_4, b"data")) == 1
    assert [type(e) for e in home.events if isinstance(e, CandidateInvalidated)] == []
    assert home.world.relay.allocation_count == 1


def test_candidates_of_both_families() -> None:
    home = Home()

    seen = {(c.kind, c.address.family): c.address for c in home.client.candidates()}

    assert seen["host", 4] == HOME_4 and seen["srflx", 4] == NAT
    assert seen["host", 6] == seen["srflx", 6] == HOME_6
    assert seen["relay", 4].address == RELAY_4.address
    assert seen["relay", 6].address == RELAY_6.address
    assert seen["relay", 4].port == seen["relay", 6].port


def test_data_travels_both_ways_and_families() -> None:
    home = Home()
    for peer in (PEER_4, PEER_6):
        home.bind(peer)
        relayed = next(a for a in home.client.relayed_addresses() if a.family == peer.family)

        assert home.send(peer, b"ping") == [SendToPeer(relayed.port, peer, b"ping")]
        home.deliver(home.world.from_peer(relayed.port, b"pong", peer))

        assert home.received.pop() == Decapsulated(peer, relayed, b"pong")


def test_an_hour_of_traffic_keeps_allocation_and_channel() -> None:
    home = Home()
    home.bind(PEER_4)
    port = home.client.relayed_addresses()[0].port

    for _ in range(120):
        home.wait(30)
        home.deliver(home.world.from_peer(port, b"pong"))
        assert home.send(PEER_4, b"ping")

    assert len(home.received) == 120
    assert not any(isinstance(event, CandidateInvalidated) for event in home.events)
    assert sum(isinstance(event, ChannelConfirmed) for event in home.events) == 1


def test_a_silent_channel_dies_and_is_bound_again_while_it_cools_down() -> None:
    home = Home()
    home.bind(PEER_4)
    home.wait(720)
    assert home.client.channel_to(PEER_4, home.world.now) is None

    home.bind(PEER_4)

    assert home.send(PEER_4, b"ping")
    assert sum(isinstance(event, ChannelConfirmed) for event in home.events) == 2


def test_a_client_that_forgot_its_allocation_gets_a_new_one() -> None:
    home = Home()
    first = home.client.relayed_addresses()

    again = Home(world=home.world, username=f"{UNIX_NOW + 86_400}:other")

    assert again.client.counters["error_437"] == 1
    assert again.client.has_allocation
    assert len(again.client.relayed_addresses()) == len(first) == 2


def test_a_relay_that_lost_its_state_is_noticed_by_refresh() -> None:
    home = Home()
    home.bind(PEER_4)
    home.world = World()

    home.client.refresh(home.world.now)
    home.settle()

    assert home.client.has_allocation
    assert home.client.channel_to(PEER_4, home.world.now) is None


def test_wrong_credentials_end_as_an_authentication_error() -> None:
    home = Home(username="1:expired")

    assert not home.client.has_allocation
    assert home.client.can_be_freed() == "authentication error"


def test_a_farewell_ends_the_allocation() -> None:
    home = Home()
    (farewell,) = filter(None, [home.client.farewell(home.world.now)])
    assert home.world.relay.allocation_count == 1
    home.world.send(farewell.payload, home.nat)
    assert home.world.relay.allocation_count == 0
    assert not home.client.handle_datagram(HOME_4, RELAY_4, b"", home.world.now)
    home.client.restart(home.world.now)
    assert home.client.farewell(home.world.now) is None


def test_restart_moves_to_a_new_port() -> None:
    home = Home()
    home.bind(PEER_4)
    home.nat = Endpoint(NAT.address, 40001)

    home.client.restart(home.world.now)
    home.settle()
    home.bind(PEER_4)

    assert home.client.has_allocation
    assert home.send(PEER_4, b"ping")
