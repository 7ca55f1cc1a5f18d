"""The relay's methods, lifetimes and data."""

from __future__ import annotations

from typing import Any

import pytest
from turn_relay_kit import (
    CLIENT_4,
    CLIENT_6,
    PEER_4,
    PEER_6,
    RELAY_4,
    SOFTWARE,
    Client,
    World,
    error_of,
)

from firezone import stun
from firezone.durations import SECOND
from firezone.errors import LocalError
from firezone.model import Endpoint, Transmit
from firezone.stun import Method
from firezone.turn import relay_channels
from firezone.turn.relay_commands import (
    BindChannel,
    CloseSocket,
    FiveTuple,
    OpenSocket,
    SendToPeer,
    UnbindChannel,
)

Value = tuple[stun.Attribute[Any], Any]
FAMILY_4: Value = (stun.REQUESTED_ADDRESS_FAMILY, 4)
FAMILY_6: Value = (stun.REQUESTED_ADDRESS_FAMILY, 6)
ADD_4: Value = (stun.ADDITIONAL_ADDRESS_FAMILY, 4)
ADD_6: Value = (stun.ADDITIONAL_ADDRESS_FAMILY, 6)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> Client:
    return Client(world)


def kinds(commands: list[Any]) -> list[str]:
    return [type(command).__name__ for command in commands]


class TestBinding:
    @pytest.mark.parametrize("source", [CLIENT_4, CLIENT_6])
    def test_tells_the_clients_address(self, world: World, source: Endpoint) -> None:
        client = Client(world, source)
        [response] = client.read(world.send(client.request(Method.BINDING).encode(), source))
        assert response.attributes == (
            (stun.SOFTWARE, SOFTWARE),
            (stun.XOR_MAPPED_ADDRESS, source),
        )

    def test_leaves_from_the_address_that_was_asked(self, world: World, client: Client) -> None:
        [command] = world.send(client.request(Method.BINDING).encode())
        assert isinstance(command, Transmit)
        assert (command.source, command.destination) == (RELAY_4, CLIENT_4)

    def test_is_not_signed(self, world: World, client: Client) -> None:
        [response] = client.read(world.send(client.signed(client.request(Method.BINDING))))
        assert not response.has_integrity

    def test_fingerprint_is_checked_and_answered(self, world: World, client: Client) -> None:
        request = client.request(Method.BINDING).encode(fingerprint=True)
        [response] = client.read(world.send(request))
        assert response.verify_fingerprint()
        assert world.send(request[:-1] + bytes([request[-1] ^ 1])) == []
        assert world.relay.counters["wrong_fingerprint"] == 1

    def test_source_port_0_is_ignored(self, world: World, client: Client) -> None:
        request = client.request(Method.BINDING).encode()
        assert world.send(request, Endpoint(CLIENT_4.address, 0)) == []


class TestAllocate:
    def test_sockets_come_before_the_answer(self, world: World, client: Client) -> None:
        client.learn_nonce()
        request = client.request(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17), ADD_6)
        commands = world.send(client.signed(request))
        assert kinds(commands) == ["OpenSocket", "OpenSocket", "Transmit"]
        [response] = client.read(commands)
        assert response.verify_integrity(client.key)
        port = commands[0].port  # type: ignore[union-attr]
        assert commands[:2] == [OpenSocket(port, 4), OpenSocket(port, 6)]
        assert response.attributes == (
            (stun.SOFTWARE, SOFTWARE),
            (stun.XOR_RELAYED_ADDRESS, Endpoint.of("198.51.100.1", port)),
            (stun.XOR_RELAYED_ADDRESS, Endpoint.of("2001:db8::1", port)),
            (stun.XOR_MAPPED_ADDRESS, CLIENT_4),
            (stun.LIFETIME, 600),
        )

    @pytest.mark.parametrize(
        ("values", "v4_only", "v6_only", "dual"),
        [
            ([], [4], 440, [4]),
            ([FAMILY_4], [4], 440, [4]),
            ([FAMILY_6], 440, [6], [6]),
            ([ADD_6], [4], [6], [4, 6]),
            ([ADD_4], 400, 400, 400),
            ([FAMILY_4, ADD_6], 400, 400, 400),
            ([FAMILY_6, ADD_6], 400, 400, 400),
            ([FAMILY_6, ADD_4], 400, 400, 400),
        ],
    )
    def test_families(self, values: list[Value], v4_only: Any, v6_only: Any, dual: Any) -> None:
        worlds = [World(ipv6=None), World(ipv4=None), World()]
        for world, expected in zip(worlds, [v4_only, v6_only, dual], strict=True):
            response = Client(world).allocate(*values)
            relayed = response.get_all(stun.XOR_RELAYED_ADDRESS)
            assert error_of(response) or [e.family for e in relayed] == expected
            assert error_of(response) == (expected if isinstance(expected, int) else None)
            assert len({e.port for e in relayed}) <= 1
            assert {family for _, family in world.open} == {e.family for e in relayed}

    def test_partly_met_request_says_what_is_missing(self) -> None:
        response = Client(World(ipv6=None)).allocate(ADD_6)
        missing = response.get(stun.ADDRESS_ERROR_CODE)
        assert missing is not None and (missing.family, missing.error.code) == (6, 440)

    @pytest.mark.parametrize(
        ("asked", "granted"),
        [(1, 1), (599, 599), (3599, 3599), (3600, 3600), (3601, 3600), (10_000_000, 3600)],
    )
    def test_lifetime_is_echoed_up_to_an_hour(
        self, world: World, client: Client, asked: int, granted: int
    ) -> None:
        assert client.allocate((stun.LIFETIME, asked)).get(stun.LIFETIME) == granted
        assert world.seconds_to_timeout() == granted

    def test_lifetime_of_zero_becomes_the_default(self, world: World, client: Client) -> None:
        """Not an allocation that is dead at birth."""
        assert client.allocate((stun.LIFETIME, 0)).get(stun.LIFETIME) == 600

    def test_second_allocation_of_a_client_is_a_mismatch(self, client: Client) -> None:
        client.allocate()
        assert error_of(client.allocate()) == 437

    def test_retransmission_gets_the_same_success(self, world: World, client: Client) -> None:
        client.learn_nonce()
        data = client.signed(client.request(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17)))
        first = world.send(data)[-1]
        world.wait(1)
        assert world.send(data) == [first]
        assert world.relay.allocation_count == 1

    def test_retransmission_while_sockets_open_is_not_answered(self, client: Client) -> None:
        relay, now = client.world.relay, client.world.now
        client.learn_nonce()
        data = client.signed(client.request(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17)))
        relay.handle_client_datagram(RELAY_4, CLIENT_4, data, now)
        relay.handle_client_datagram(RELAY_4, CLIENT_4, data, now)
        opened = relay.poll_command()
        assert isinstance(opened, OpenSocket)
        assert relay.poll_command() is None
        assert error_of(client.refresh(0)) == 437
        relay.handle_socket_opened(opened.port, 4, True, now)
        assert kinds(client.world.commands()) == ["Transmit"]

    def test_transport_other_than_udp(self, client: Client) -> None:
        assert error_of(client.call(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 6))) == 442
        assert error_of(client.call(Method.ALLOCATE)) == 400

    def test_all_ports_taken(self) -> None:
        world = World(ports=range(50000, 50003))
        clients = [Client(world, Endpoint(CLIENT_4.address, port)) for port in range(1, 5)]
        ports = {c.allocated_port() for c in clients[:3]}
        assert ports == {50000, 50001, 50002}
        assert error_of(clients[3].allocate()) == 508
        assert error_of(clients[0].refresh(0)) is None
        assert error_of(clients[3].allocate()) is None

    def test_two_families_of_a_client_are_two_clients(self, world: World, client: Client) -> None:
        assert client.allocated_port() != Client(world, CLIENT_6).allocated_port()

    def test_port_that_the_host_refuses_is_replaced(self) -> None:
        world = World(ports=range(50000, 50003), busy={(50000, 6), (50001, 4)})
        client = Client(world)
        assert client.allocated_port(ADD_6) == 50002
        assert world.open == {(50002, 4), (50002, 6)}

    def test_no_port_to_be_had_costs_only_this_allocation(self, world: World) -> None:
        other = Client(world, Endpoint(CLIENT_4.address, 5))
        port = other.allocated_port()
        world.busy = {(port, 4) for port in world.ports}
        client = Client(world)
        assert error_of(client.allocate()) == 508
        assert world.relay.counters["port_unavailable"] == 4
        assert world.open == {(port, 4)}
        assert error_of(other.refresh(600)) is None
        world.busy = set()
        assert error_of(client.allocate()) is None

    def test_broken_socket_costs_only_this_allocation(self, world: World, client: Client) -> None:
        port = client.allocated_port()
        client.bind(0x4000)
        world.relay.handle_socket_failed(port, world.now)
        world.relay.handle_socket_failed(port, world.now)
        assert kinds(world.commands()) == ["UnbindChannel", "CloseSocket"]
        assert error_of(client.refresh(600)) == 437

    def test_draining_relay_takes_nobody_new(self, world: World, client: Client) -> None:
        client.allocate()
        world.relay.drain()
        newcomer = Client(world, CLIENT_6)
        assert error_of(newcomer.allocate()) == 508
        assert error_of(client.refresh(600)) is None
        assert error_of(client.bind(0x4000)) is None

    def test_unknown_required_attribute_is_refused(self, world: World, client: Client) -> None:
        client.learn_nonce()
        strange = stun.Attribute[bytes](0x7777, "STRANGE", stun.Layout.opaque())
        response = client.call(Method.ALLOCATE, (strange, b""))
        assert error_of(response) == 420
        assert response.get(stun.UNKNOWN_ATTRIBUTES) == (0x7777,)
        assert response.verify_integrity(client.key)

    def test_attributes_without_use_are_no_reason_to_refuse(self, client: Client) -> None:
        values = [(stun.EVEN_PORT, True), (stun.DONT_FRAGMENT, True), (stun.SOFTWARE, "client")]
        assert error_of(client.allocate(*values)) is None

    @pytest.mark.parametrize(
        ("ipv4", "ports"),
        [(None, range(50000, 50001)), ("x", range(0)), ("x", range(3000, 4000)), ("x", range(9))],
    )
    def test_impossible_settings(self, ipv4: str | None, ports: range) -> None:
        with pytest.raises(LocalError):
            World(ipv4=World().ipv4 if ipv4 else None, ipv6=None, ports=ports)


class TestRefresh:
    def test_counts_from_now(self, world: World, client: Client) -> None:
        client.allocate()
        world.wait(599)
        assert client.refresh(3000).get(stun.LIFETIME) == 3000
        assert world.seconds_to_timeout() == 3000
        assert world.wait(2999) == []
        assert kinds(world.wait(1)) == ["CloseSocket"]

    def test_may_shorten(self, world: World, client: Client) -> None:
        client.allocate((stun.LIFETIME, 3000))
        client.refresh(10)
        assert world.seconds_to_timeout() == 10
        assert kinds(world.wait(10)) == ["CloseSocket"]
        assert world.seconds_to_timeout() is None

    def test_of_zero_ends_the_allocation(self, world: World, client: Client) -> None:
        port = client.allocated_port(ADD_6)
        client.bind(0x4000)
        request = client.signed(client.request(Method.REFRESH, (stun.LIFETIME, 0)))
        commands = world.send(request)
        assert commands[1:3] == [CloseSocket(port, 4), CloseSocket(port, 6)]
        assert kinds(commands) == ["UnbindChannel", "CloseSocket", "CloseSocket", "Transmit"]
        assert client.read(commands)[0].get(stun.LIFETIME) == 0
        assert (world.relay.allocation_count, world.relay.channel_count) == (0, 0)
        assert world.seconds_to_timeout() is None

    def test_without_allocation(self, client: Client) -> None:
        response = client.refresh(600)
        assert error_of(response) == 437
        assert response.verify_integrity(client.key)

    def test_carrying_the_attributes_of_an_allocate(self, client: Client) -> None:
        client.allocate()
        values = [(stun.REQUESTED_TRANSPORT, 17), ADD_6, (stun.LIFETIME, 600)]
        assert error_of(client.call(Method.REFRESH, *values)) is None

    def test_sent_again_gets_the_same_answer(self, world: World, client: Client) -> None:
        client.allocate()
        request = client.signed(client.request(Method.REFRESH, (stun.LIFETIME, 0)))
        first, again = (client.read(world.send(request)) for _ in range(2))
        assert first == again and error_of(first[0]) is None
        assert world.relay.counters["repeated_refresh"] == 1

    def test_that_comes_late_does_not_end_the_next_allocation(
        self, world: World, client: Client
    ) -> None:
        client.allocate()
        request = client.signed(client.request(Method.REFRESH, (stun.LIFETIME, 0)))
        world.send(request)
        client.allocate()
        world.wait(39)
        world.send(request)
        assert world.relay.allocation_count == 1

    def test_of_one_family_gives_that_back(self, world: World, client: Client) -> None:
        port = client.allocated_port(ADD_6)
        other = Endpoint(PEER_6.address, 1)
        for number, peer in enumerate((PEER_4, PEER_6, other), 0x4000):
            client.bind(number, peer)
        client.permit(PEER_4, PEER_6)
        values = [(stun.LIFETIME, 0), FAMILY_6]
        commands = world.send(client.signed(client.request(Method.REFRESH, *values)))
        assert kinds(commands) == [*["UnbindChannel"] * 2, "Forbid", "CloseSocket", "Transmit"]
        assert commands[3] == CloseSocket(port, 6)
        assert (world.relay.allocation_count, world.relay.channel_count) == (1, 1)
        assert world.send(b"\x40\x00\x00\x02up") == [SendToPeer(port, PEER_4, b"up")]
        assert error_of(client.bind(0x4001, PEER_6)) == 443
        assert error_of(client.call(Method.REFRESH, FAMILY_6)) == 443
        assert error_of(client.bind(0x4001, Endpoint(PEER_4.address, 9))) is None
        assert error_of(client.call(Method.REFRESH, (stun.LIFETIME, 0), FAMILY_4)) is None
        assert world.relay.allocation_count == 0 and world.open == set()


class TestChannelBind:
    def test_binds_before_it_answers(self, world: World, client: Client) -> None:
        port = client.allocated_port()
        values = [(stun.CHANNEL_NUMBER, 0x4001), (stun.XOR_PEER_ADDRESS, PEER_4)]
        commands = world.send(client.signed(client.request(Method.CHANNEL_BIND, *values)))
        five_tuple = FiveTuple(CLIENT_4, RELAY_4)
        assert commands[0] == BindChannel(five_tuple, 0x4001, port, PEER_4)
        [response] = client.read(commands)
        assert response.attributes == ((stun.SOFTWARE, SOFTWARE),)
        assert response.verify_integrity(client.key)

    @pytest.mark.parametrize("number", [0x4000, 0x4FFF, 0x5000, 0x7FFF])
    def test_takes_every_number_that_clients_draw(self, client: Client, number: int) -> None:
        client.allocate()
        assert error_of(client.bind(number)) is None

    @pytest.mark.parametrize("number", [0, 0x3FFF, 0x8000, 0xFFFF])
    def test_refuses_others(self, client: Client, number: int) -> None:
        client.allocate()
        assert error_of(client.bind(number)) == 400

    def test_needs_number_peer_and_allocation(self, client: Client) -> None:
        assert error_of(client.bind(0x4000)) == 437
        client.allocate()
        number, peer = (stun.CHANNEL_NUMBER, 0x4000), (stun.XOR_PEER_ADDRESS, PEER_4)
        assert error_of(client.call(Method.CHANNEL_BIND, number)) == 400
        assert error_of(client.call(Method.CHANNEL_BIND, peer)) == 400
        assert error_of(client.bind(0x4000, Endpoint(PEER_4.address, 0))) == 400

    def test_one_number_one_peer(self, client: Client) -> None:
        client.allocate()
        assert error_of(client.bind(0x4000, PEER_4)) is None
        assert error_of(client.bind(0x4000, PEER_4)) is None
        assert error_of(client.bind(0x4001, PEER_4)) == 400
        assert error_of(client.bind(0x4000, Endpoint(PEER_4.address, 9))) == 400
        assert error_of(client.bind(0x4001, Endpoint(PEER_4.address, 9))) is None

    def test_family_without_relayed_address(self, client: Client) -> None:
        client.allocate()
        assert error_of(client.bind(0x4000, PEER_6)) == 443

    @pytest.mark.parametrize(
        "peer",
        [
            *("127.0.0.1", "0.0.0.0", "224.0.0.1", "::1", "::", "ff02::1", "fe80::1"),
            *("10.0.0.1", "192.168.7.7", "fd00::1", "198.51.100.1", "2001:db8::1"),
        ],
    )
    def test_forbidden_peers(self, client: Client, peer: str) -> None:
        client.allocate(ADD_6)
        assert error_of(client.bind(0x4000, Endpoint.of(peer, 53))) == 403

    def test_number_of_channels_is_bounded(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert relay_channels.MAX_CHANNELS == 4096
        monkeypatch.setattr(relay_channels, "MAX_CHANNELS", 3)
        client.allocate()
        for number in range(3):
            client.bind(0x4000 + number, Endpoint(PEER_4.address, number + 1))
        assert client.world.relay.channel_count == 3
        assert error_of(client.bind(0x6000, Endpoint(PEER_4.address, 9999))) == 508
        assert error_of(client.bind(0x4000, Endpoint(PEER_4.address, 1))) is None

    def test_lasts_ten_minutes_then_rests_five(self, world: World, client: Client) -> None:
        port = client.allocated_port((stun.LIFETIME, 3600))
        client.bind(0x4000)
        assert world.seconds_to_timeout() == 300  # of the permission, which is not asked for
        five_tuple = FiveTuple(CLIENT_4, RELAY_4)
        assert world.wait(600) == [UnbindChannel(five_tuple, 0x4000, port, PEER_4)]
        assert world.relay.channel_count == 0
        assert world.seconds_to_timeout() == 300
        assert world.from_peer(port, b"late") == []
        assert world.send(b"\x40\x00\x00\x04late") == []
        other = Endpoint(PEER_4.address, 9)
        world.wait(299)
        assert error_of(client.bind(0x4000, other)) == 400
        assert error_of(client.bind(0x4001, PEER_4)) == 400
        world.wait(1)
        assert error_of(client.bind(0x4000, other)) is None

    def test_rebind_extends(self, world: World, client: Client) -> None:
        client.allocate((stun.LIFETIME, 3600))
        client.bind(0x4000)
        world.wait(599)
        client.bind(0x4000)
        assert world.wait(599) == []
        assert kinds(world.wait(1)) == ["UnbindChannel"]

    def test_rebind_revives_both_directions(self, world: World, client: Client) -> None:
        port = client.allocated_port((stun.LIFETIME, 3600))
        client.bind(0x4000)
        world.wait(899)
        assert error_of(client.bind(0x4000)) is None
        assert world.send(b"\x40\x00\x00\x02up") == [SendToPeer(port, PEER_4, b"up")]
        assert kinds(world.from_peer(port, b"down")) == ["Transmit"]
        assert kinds(world.wait(600)) == ["UnbindChannel"]

    def test_end_of_the_allocation_frees_everything_at_once(
        self, world: World, client: Client
    ) -> None:
        """The rest of five minutes is for channels of a living allocation only."""
        client.allocate()
        client.bind(0x4000)
        assert kinds(world.wait(600)) == ["UnbindChannel", "CloseSocket"]
        assert world.relay.channel_count == 0
        client.allocate()
        assert error_of(client.bind(0x4000, Endpoint(PEER_4.address, 9))) is None
        assert error_of(client.bind(0x4001, PEER_4)) is None


class TestData:
    @pytest.mark.parametrize("source", [CLIENT_4, CLIENT_6])
    @pytest.mark.parametrize("peer", [PEER_4, PEER_6])
    def test_crosses_both_ways_and_families(
        self, world: World, source: Endpoint, peer: Endpoint
    ) -> None:
        client = Client(world, source)
        port = client.allocated_port(ADD_6)
        client.bind(0x4ABC, peer)
        sent = world.send(b"\x4a\xbc\x00\x04ping", source)
        assert sent == [SendToPeer(port, peer, b"ping")]
        [back] = world.from_peer(port, b"pong", peer)
        assert isinstance(back, Transmit)
        assert (back.payload, back.destination) == (b"\x4a\xbc\x00\x04pong", source)
        assert back.source is not None and back.source.family == source.family
        assert world.relay.counters["relayed_bytes"] == 8

    def test_padding_is_accepted_and_not_sent(self, world: World, client: Client) -> None:
        port = client.allocated_port()
        client.bind(0x4000)
        assert world.send(b"\x40\x00\x00\x03abc\0") == [SendToPeer(port, PEER_4, b"abc")]
        [back] = world.from_peer(port, b"abc")
        assert isinstance(back, Transmit) and back.payload == b"\x40\x00\x00\x03abc"

    def test_empty_datagrams_are_relayed(self, world: World, client: Client) -> None:
        port = client.allocated_port()
        client.bind(0x4000)
        assert world.send(b"\x40\x00\x00\x00") == [SendToPeer(port, PEER_4, b"")]
        assert kinds(world.from_peer(port, b"")) == ["Transmit"]

    def test_what_is_not_bound_is_dropped(self, world: World, client: Client) -> None:
        port = client.allocated_port()
        client.bind(0x4000)
        assert world.send(b"\x40\x01\x00\x01x") == []
        assert world.send(b"\x40\x00\x00\x01x", CLIENT_6) == []
        assert world.send(b"\x40\x00\x00\x02x") == []
        assert world.send(b"\x40\x00\x00") == []
        assert world.from_peer(port, b"x", Endpoint(PEER_4.address, 1)) == []
        assert world.from_peer(port + 1, b"x") == []
        assert world.relay.counters["unbound_channel"] == 2
        assert world.relay.counters["channel_data_wrong_length"] == 1
        assert world.relay.counters["channel_data_too_short"] == 1
        assert world.relay.counters["unbound_peer"] == 2

    def test_two_clients_of_one_relay_reach_each_other(self, world: World) -> None:
        one, two = Client(world), Client(world, CLIENT_6)
        port_1, port_2 = one.allocated_port(), two.allocated_port()
        address = World().ipv4
        assert address is not None
        assert error_of(one.bind(0x4000, Endpoint(address, port_2))) is None
        assert error_of(two.bind(0x4000, Endpoint(address, port_1))) is None


def test_allocation_is_nobody_elses(world: World, client: Client) -> None:
    """Not even a user with the same credentials on another socket can use or end it."""
    port = client.allocated_port()
    client.bind(0x4000)
    client.permit(PEER_4)
    for source in (Endpoint(CLIENT_4.address, CLIENT_4.port + 1), CLIENT_6):
        thief = Client(world, source)
        assert error_of(thief.refresh(0)) == 437
        assert error_of(thief.refresh(3600)) == 437
        assert error_of(thief.bind(0x4001)) == 437
        assert error_of(thief.permit(PEER_4)) == 437
        assert thief.send(PEER_4, b"data") == []
        assert world.send(b"\x40\x00\x00\x01x", source) == []
        stolen = client.signed(client.request(Method.REFRESH, (stun.LIFETIME, 0)))
        assert [error_of(r) for r in thief.read(world.send(stolen, source))] == [438]
    assert world.seconds_to_timeout() == 300
    assert world.send(b"\x40\x00\x00\x01x") == [SendToPeer(port, PEER_4, b"x")]


class TestTimers:
    def test_expiry_is_in_order(self, world: World) -> None:
        clients = [Client(world, Endpoint(CLIENT_4.address, port)) for port in range(1, 30)]
        for client in clients:
            client.allocate((stun.LIFETIME, 100 + client.address.port * 7 % 29))
        for second in range(29):
            world.wait(100 if second == 0 else 1)
            assert world.relay.allocation_count == 28 - second
        assert world.now == (1_000 + 128) * SECOND


class TestStreams:
    """A client over TCP or TLS is one at an address of the relay's own host."""

    BRIDGE = Endpoint.of("127.0.0.1", 41000)

    def test_the_client_is_told_its_own_address(self, world: World) -> None:
        world.relay.handle_stream_opened(self.BRIDGE, CLIENT_4)
        client = Client(world, self.BRIDGE)
        [response] = client.read(world.send(client.request(Method.BINDING).encode(), self.BRIDGE))
        assert response.get(stun.XOR_MAPPED_ADDRESS) == CLIENT_4

    def test_its_allocation_ends_with_the_stream(self, world: World) -> None:
        world.relay.handle_stream_opened(self.BRIDGE, CLIENT_4)
        Client(world, self.BRIDGE).allocate()
        assert world.relay.allocation_count == 1
        assert world.relay.has_allocation(self.BRIDGE)
        world.relay.handle_stream_closed(self.BRIDGE, world.now)
        assert "CloseSocket" in kinds(world.commands())
        assert world.relay.allocation_count == 0
        assert not world.relay.has_allocation(self.BRIDGE)

    def test_the_end_of_an_unknown_stream_ends_nothing(self, world: World) -> None:
        Client(world, self.BRIDGE).allocate()
        world.relay.handle_stream_closed(self.BRIDGE, world.now)
        assert world.relay.allocation_count == 1
