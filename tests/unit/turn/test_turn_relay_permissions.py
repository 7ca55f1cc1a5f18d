"""Permissions of the relay, Send and Data (RFC 8656 sections 9 to 11)."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from turn_relay_kit import CLIENT_4, CLIENT_6, PEER_4, PEER_6, RELAY_4, Client, World, error_of

from firezone import stun
from firezone.model import Endpoint, Transmit
from firezone.stun import Message, Method
from firezone.turn.relay_commands import FiveTuple, Forbid, Permit, RelayCommand, SendToPeer
from firezone.turn.relay_permissions import MAX_PERMISSIONS

ADD_6 = (stun.ADDITIONAL_ADDRESS_FAMILY, 6)
OTHER_PORT = Endpoint(PEER_4.address, 9)
OTHER = Endpoint.of("192.0.2.78", 52625)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> Client:
    return Client(world)


def kinds(commands: list[RelayCommand]) -> list[str]:
    return [type(command).__name__ for command in commands]


class TestCreatePermission:
    def test_several_peers_in_one_request(self, world: World, client: Client) -> None:
        port = client.allocated_port(ADD_6)
        assert error_of(client.permit(PEER_4, PEER_6, OTHER, OTHER_PORT)) is None
        assert world.permits == {(port, p.address) for p in (PEER_4, PEER_6, OTHER)}

    def test_is_told_to_the_shell_before_the_client(self, world: World, client: Client) -> None:
        port = client.allocated_port()
        peers = [(stun.XOR_PEER_ADDRESS, PEER_4)]
        commands = world.send(client.signed(client.request(Method.CREATE_PERMISSION, *peers)))
        assert kinds(commands) == ["Permit", "Transmit"]
        assert commands[0] == Permit(FiveTuple(CLIENT_4, RELAY_4), port, PEER_4.address)
        [response] = client.read(commands)
        assert response.verify_integrity(client.key)

    def test_errors(self, world: World, client: Client) -> None:
        """None of the peers is permitted if one cannot be."""
        assert error_of(client.permit(PEER_4)) == 437
        client.allocate()
        assert error_of(client.permit()) == 400
        assert error_of(client.permit(PEER_4, PEER_6)) == 443
        assert error_of(client.permit(PEER_4, Endpoint.of("127.0.0.1", 1))) == 403
        assert error_of(client.permit(PEER_4, Endpoint.of("10.0.0.1", 1))) == 403
        assert error_of(client.call(Method.CREATE_PERMISSION, (stun.LIFETIME, 1))) == 400
        assert world.permits == set()
        assert kinds(client.send(PEER_4, b"data")) == []

    def test_number_is_bounded(self, world: World, client: Client) -> None:
        client.allocate()
        base = int(IPv4Address("192.0.2.0"))
        peers = [Endpoint(IPv4Address(base + i), 1) for i in range(MAX_PERMISSIONS + 1)]
        for at in range(0, MAX_PERMISSIONS, 64):
            assert error_of(client.permit(*peers[at : at + 64])) is None
        assert error_of(client.permit(peers[-1])) == 508
        assert error_of(client.bind(0x4000, peers[-1])) == 508
        assert error_of(client.permit(peers[0], peers[9])) is None
        world.wait(300)
        assert error_of(client.permit(peers[-1])) is None

    def test_of_the_relays_own_addresses(self, world: World, client: Client) -> None:
        """For the port does not matter; but then only relayed ones can be sent to, for the others
        in the range are those of any program on this host."""
        client.allocate()
        other = Client(world, address=Endpoint.of("203.0.113.6", 40000))
        relayed = Endpoint(RELAY_4.address, other.allocated_port())
        assert error_of(client.permit(Endpoint(RELAY_4.address, 0))) is None
        assert kinds(client.send(relayed, b"data")) == ["SendToPeer"]
        assert error_of(client.bind(0x4000, relayed)) is None
        unused = Endpoint(RELAY_4.address, relayed.port ^ 1)
        assert [*world.any_port.values()] == [False]
        for peer in (RELAY_4, unused):
            assert kinds(client.send(peer, b"data")) == []
            assert error_of(client.bind(0x4001, peer)) == 403
        assert world.relay.counters["send_forbidden"] == 2
        other.refresh(0)
        assert kinds(client.send(relayed, b"data")) == []


class TestLifetime:
    def test_is_five_minutes(self, world: World, client: Client) -> None:
        port = client.allocated_port()
        client.permit(PEER_4)
        assert world.wait(299) == []
        assert kinds(client.send(PEER_4, b"data")) == ["SendToPeer"]  # which extends nothing
        assert world.wait(1) == [Forbid(port, PEER_4.address)]
        assert client.send(PEER_4, b"data") == []
        assert world.from_peer(port, b"data") == []
        assert world.relay.counters["send_without_permission"] == 1
        assert world.relay.counters["unbound_peer"] == 1

    def test_is_extended_by_another_request(self, world: World, client: Client) -> None:
        client.allocate()
        client.permit(PEER_4)
        world.wait(200)
        client.permit(PEER_4)
        assert world.wait(299) == []
        assert kinds(world.wait(1)) == ["Forbid"]

    def test_ends_with_the_allocation(self, world: World, client: Client) -> None:
        client.allocate()
        client.permit(PEER_4)
        client.refresh(0)
        assert world.permits == set()
        client.allocate()
        assert client.send(PEER_4, b"data") == []
        assert world.wait(299) == []

    def test_of_a_channel(self, world: World, client: Client) -> None:
        """It installs a permission, too, which ends before it does; data flows on."""
        port = client.allocated_port((stun.LIFETIME, 3600))
        client.bind(0x4000)
        assert kinds(client.send(OTHER_PORT, b"data")) == ["Permit", "SendToPeer"]
        world.wait(300)
        assert client.send(PEER_4, b"data") == []
        assert world.send(b"\x40\x00\x00\x02up") == [SendToPeer(port, PEER_4, b"up")]
        assert kinds(world.from_peer(port, b"down")) == ["Transmit"]
        client.bind(0x4000)
        assert kinds(client.send(PEER_4, b"data")) == ["SendToPeer"]


class TestSend:
    @pytest.mark.parametrize("source", [CLIENT_4, CLIENT_6])
    @pytest.mark.parametrize("peer", [PEER_4, PEER_6])
    def test_crosses_families(self, world: World, source: Endpoint, peer: Endpoint) -> None:
        client = Client(world, source)
        port = client.allocated_port(ADD_6)
        client.permit(peer)
        assert client.send(peer, b"payload") == [SendToPeer(port, peer, b"payload")]
        assert client.send(peer, b"") == [SendToPeer(port, peer, b"")]
        assert world.relay.counters["relayed_bytes"] == 7

    def test_any_port_of_a_permitted_address(self, client: Client) -> None:
        port = client.allocated_port()
        client.permit(PEER_4)
        assert client.send(OTHER_PORT, b"data") == [SendToPeer(port, OTHER_PORT, b"data")]
        assert client.send(OTHER, b"data") == []

    def test_dont_fragment(self, client: Client) -> None:
        port = client.allocated_port()
        client.permit(PEER_4)
        sent = client.send(PEER_4, b"data", (stun.DONT_FRAGMENT, True))
        assert sent == [SendToPeer(port, PEER_4, b"data", dont_fragment=True)]

    def test_without_allocation(self, world: World, client: Client) -> None:
        assert client.send(PEER_4, b"data") == []
        assert world.relay.counters == {"send_without_allocation": 1}

    def test_of_another_socket(self, world: World, client: Client) -> None:
        client.allocate()
        client.permit(PEER_4)
        assert Client(world, CLIENT_6).send(PEER_4, b"data") == []

    def test_to_a_forbidden_peer(self, world: World, client: Client) -> None:
        client.allocate()
        assert client.send(Endpoint.of("127.0.0.1", 53), b"data") == []
        assert world.relay.counters["send_forbidden"] == 1

    def test_without_peer_or_data(self, world: World, client: Client) -> None:
        client.allocate()
        client.permit(PEER_4)
        indication = Message.indication(Method.SEND, world.entropy)
        for message in (
            indication.with_(stun.DATA, b"data"),
            indication.with_(stun.XOR_PEER_ADDRESS, PEER_4),
            indication.with_(stun.XOR_PEER_ADDRESS, Endpoint(PEER_4.address, 0)).with_(
                stun.DATA, b"data"
            ),
        ):
            assert world.send(message.encode()) == []
        assert world.relay.counters["send_malformed"] == 3

    def test_with_what_is_not_understood(self, world: World, client: Client) -> None:
        client.allocate()
        client.permit(PEER_4)
        strange = stun.Attribute[bytes](0x7777, "STRANGE", stun.Layout.opaque())
        assert client.send(PEER_4, b"data", (strange, b"")) == []
        assert world.relay.counters["indication_not_understood"] == 1

    def test_with_a_wrong_fingerprint(self, world: World, client: Client) -> None:
        client.allocate()
        client.permit(PEER_4)
        indication = Message.indication(Method.SEND, world.entropy)
        indication = indication.with_(stun.XOR_PEER_ADDRESS, PEER_4).with_(stun.DATA, b"data")
        data = indication.encode(fingerprint=True)
        assert kinds(world.send(data)) == ["SendToPeer"]
        assert world.send(data[:-1] + bytes([data[-1] ^ 1])) == []


class TestData:
    def indications(self, commands: list[RelayCommand]) -> list[tuple[object, object]]:
        found = []
        for command in commands:
            assert isinstance(command, Transmit)
            assert (command.destination, command.source) == (CLIENT_4, RELAY_4)
            message = stun.decode(bytes(command.payload))
            assert (message.class_, message.method) == (stun.Class.INDICATION, Method.DATA)
            found.append((message.get(stun.XOR_PEER_ADDRESS), message.get(stun.DATA)))
        return found

    @pytest.mark.parametrize("peer", [PEER_4, PEER_6, OTHER_PORT])
    def test_comes_from_permitted_addresses(
        self, world: World, client: Client, peer: Endpoint
    ) -> None:
        port = client.allocated_port(ADD_6)
        client.permit(PEER_4, PEER_6)
        for data in (b"data", b""):
            assert self.indications(world.from_peer(port, data, peer)) == [(peer, data)]
        assert world.relay.counters["relayed_bytes"] == 4
        assert world.from_peer(port, b"data", OTHER) == []

    def test_a_channel_is_used_where_there_is_one(self, world: World, client: Client) -> None:
        port = client.allocated_port()
        client.permit(PEER_4)
        client.bind(0x4000)
        [command] = world.from_peer(port, b"data")
        assert isinstance(command, Transmit)
        assert command.payload == b"\x40\x00\x00\x04data"
        assert self.indications(world.from_peer(port, b"data", OTHER_PORT)) == [
            (OTHER_PORT, b"data")
        ]

    def test_never_comes_to_who_only_binds_channels(self, world: World, client: Client) -> None:
        """Clients of Firezone know no Data indications."""
        port = client.allocated_port()
        client.bind(0x4000)
        assert world.permits == set()
        assert world.from_peer(port, b"data", OTHER_PORT) == []

    def test_comes_to_who_sends(self, world: World, client: Client) -> None:
        port = client.allocated_port()
        client.bind(0x4000)
        client.bind(0x4001, OTHER)
        client.send(PEER_4, b"data")
        assert world.permits == {(port, PEER_4.address), (port, OTHER.address)}
        assert self.indications(world.from_peer(port, b"data", OTHER_PORT)) == [
            (OTHER_PORT, b"data")
        ]

    def test_too_long_for_an_indication(self, world: World, client: Client) -> None:
        port = client.allocated_port()
        client.permit(PEER_4)
        assert world.from_peer(port, bytes(0xFFFF)) == []
        assert world.relay.counters["data_too_long"] == 1

    def test_between_two_clients_of_one_relay(self, world: World, client: Client) -> None:
        other = Client(world, CLIENT_6)
        ports = [client.allocated_port(), other.allocated_port()]
        relayed = [Endpoint(RELAY_4.address, port) for port in ports]
        assert error_of(client.permit(relayed[1])) is None
        assert client.send(relayed[1], b"data") == [SendToPeer(ports[0], relayed[1], b"data")]
        assert world.from_peer(ports[1], b"data", relayed[0]) == []
        assert error_of(other.permit(relayed[0])) is None
        assert kinds(world.from_peer(ports[1], b"data", relayed[0])) == ["Transmit"]
