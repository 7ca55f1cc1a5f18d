"""Even ports, reserved ports and quotas of the relay (RFC 8656 section 7.2)."""

from __future__ import annotations

from typing import Any

import pytest
from turn_relay_kit import CLIENT_4, CLIENT_6, PEER_4, SECRET, UNIX_NOW, Client, World, error_of

from firezone import stun
from firezone.model import Endpoint
from firezone.stun import Method
from firezone.turn.relay_allocate import Quotas
from firezone.turn.relay_commands import OpenSocket

Value = tuple[stun.Attribute[Any], Any]
EVEN: Value = (stun.EVEN_PORT, False)
PAIR: Value = (stun.EVEN_PORT, True)
ADD_6: Value = (stun.ADDITIONAL_ADDRESS_FAMILY, 6)
PORTS = range(50000, 50010)


@pytest.fixture
def world() -> World:
    return World(ports=PORTS)


def client(world: World, index: int = 0, **options: Any) -> Client:
    return Client(world, Endpoint(CLIENT_4.address, CLIENT_4.port + index), **options)


def token(value: bytes) -> Value:
    return (stun.RESERVATION_TOKEN, value)


class TestEvenPort:
    def test_is_even(self, world: World) -> None:
        ports = {client(world, index).allocated_port(EVEN) for index in range(5)}
        assert ports == set(PORTS[::2])
        assert error_of(client(world, 5).allocate(EVEN)) == 508
        assert error_of(client(world, 6).allocate()) is None

    def test_may_have_a_partner(self, world: World) -> None:
        response = client(world).allocate(PAIR)
        relayed, value = (
            response.get(stun.XOR_RELAYED_ADDRESS),
            response.get(stun.RESERVATION_TOKEN),
        )
        assert relayed is not None and value is not None
        assert relayed.port % 2 == 0 and len(value) == 8
        assert client(world, 1).allocated_port(token(value)) == relayed.port + 1
        assert error_of(client(world, 2).allocate(token(value))) == 508

    def test_partner_is_kept_from_others_for_half_a_minute(self, world: World) -> None:
        value = client(world).allocate(PAIR, (stun.LIFETIME, 3600)).get(stun.RESERVATION_TOKEN)
        assert value is not None
        for index in range(1, 9):
            assert error_of(client(world, index).allocate()) is None
        assert error_of(client(world, 9).allocate()) == 508
        world.wait(29)
        assert error_of(client(world, 9).allocate()) == 508
        world.wait(1)
        assert error_of(client(world, 10).allocate(token(value))) == 508
        assert error_of(client(world, 9).allocate()) is None

    def test_partner_outlives_the_first(self, world: World) -> None:
        first = client(world)
        value = first.allocate(PAIR).get(stun.RESERVATION_TOKEN)
        assert value is not None
        first.refresh(0)
        assert error_of(client(world, 1).allocate(token(value))) is None

    def test_repeated_request_gets_the_same_token(self, world: World) -> None:
        one = client(world)
        one.learn_nonce()
        request = one.signed(one.request(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17), PAIR))
        assert one.read(world.send(request)) == one.read(world.send(request))
        assert len(world.open) == 1

    @pytest.mark.parametrize(
        ("values", "code"),
        [
            ([PAIR, ADD_6], 400),
            ([EVEN, ADD_6], None),
            ([token(bytes(8))], 508),
            ([token(bytes(8)), EVEN], 400),
            ([token(bytes(8)), ADD_6], 400),
            ([token(bytes(8)), (stun.REQUESTED_ADDRESS_FAMILY, 4)], 400),
            ([PAIR, (stun.REQUESTED_ADDRESS_FAMILY, 6)], None),
        ],
    )
    def test_what_goes_together(self, world: World, values: list[Value], code: int | None) -> None:
        assert error_of(client(world).allocate(*values)) == code

    def test_port_in_use_is_replaced_by_another_pair(self, world: World) -> None:
        world.busy = {(port, 4) for port in PORTS[:8]}
        for index in range(20):
            response = client(world, index).allocate(PAIR)
            if error_of(response) is None:
                relayed, value = (
                    response.get(stun.XOR_RELAYED_ADDRESS),
                    response.get(stun.RESERVATION_TOKEN),
                )
                assert relayed is not None and relayed.port == 50008 and value is not None
                assert client(world, 99).allocated_port(token(value)) == 50009
                break
        else:
            pytest.fail("never found")
        assert world.relay.poll_timeout() is not None

    def test_reserved_port_that_the_host_has_given_away(self, world: World) -> None:
        value = client(world).allocate(PAIR).get(stun.RESERVATION_TOKEN)
        assert value is not None
        world.busy = {(port, 4) for port in PORTS}
        assert error_of(client(world, 1).allocate(token(value))) == 508
        assert world.relay.allocation_count == 1


def test_dont_fragment_is_for_the_socket(world: World) -> None:
    one = client(world)
    one.learn_nonce()
    values = [(stun.REQUESTED_TRANSPORT, 17), (stun.DONT_FRAGMENT, True)]
    command, _ = world.send(one.signed(one.request(Method.ALLOCATE, *values)))
    assert isinstance(command, OpenSocket) and command.dont_fragment


class TestQuotas:
    def test_of_a_user_whatever_the_session(self) -> None:
        """A new session has another expiry and the same salt."""
        world = World(quotas=Quotas(per_user=2))
        for index in range(2):
            one = client(world, index, username=f"{UNIX_NOW + 60 + index}:salt")
            assert error_of(one.allocate()) is None
        refused = client(world, 2)
        response = refused.allocate()
        assert error_of(response) == 486
        assert response.verify_integrity(refused.key)
        assert error_of(client(world, 3, username=f"{UNIX_NOW + 60}:other").allocate()) is None
        client(world, 0).refresh(0)
        assert error_of(refused.allocate()) is None

    def test_ends_of_any_kind_give_back(self) -> None:
        world = World(quotas=Quotas(per_user=1), ports=range(50000, 50001))
        client(world, 0).allocate((stun.LIFETIME, 10))
        assert error_of(client(world, 1).allocate()) == 486
        world.wait(10)
        world.busy = {(50000, 4)}
        assert error_of(client(world, 2).allocate()) == 508
        world.busy = set()
        assert error_of(client(world, 3).allocate()) is None

    def test_of_those_with_a_password_of_their_own(self) -> None:
        world = World(quotas=Quotas(per_user=1), users={"one": "1", "two": "2"})
        for name, password, code in [("one", "1", None), ("one", "1", 486), ("two", "2", None)]:
            index = world.relay.allocation_count + 10 * (code or 0)
            each = client(world, index, username=name, password=password)
            assert error_of(each.allocate()) == code

    def test_reservations_count(self) -> None:
        world = World(quotas=Quotas(per_user=3))
        value = client(world).allocate(PAIR).get(stun.RESERVATION_TOKEN)
        assert value is not None
        assert error_of(client(world, 1).allocate(PAIR)) == 486
        assert error_of(client(world, 2).allocate()) is None
        assert error_of(client(world, 3).allocate()) == 486
        assert error_of(client(world, 4).allocate(token(value))) is None
        assert error_of(client(world, 5).allocate()) == 486

    def test_channels_of_all_allocations_of_a_user(self) -> None:
        world = World(quotas=Quotas(peers_per_user=2))
        one, two = client(world, 0), client(world, 1)
        for each, peer in ((one, PEER_4), (two, PEER_4)):
            each.allocate()
            assert error_of(each.bind(0x4000, peer)) is None
        other = Endpoint(PEER_4.address, 9)
        assert error_of(two.bind(0x4001, other)) == 486
        assert error_of(two.bind(0x4000, PEER_4)) is None
        stranger = client(world, 2, username=f"{UNIX_NOW + 60}:other")
        stranger.allocate()
        assert error_of(stranger.bind(0x4000, PEER_4)) is None
        one.refresh(0)
        assert error_of(two.bind(0x4001, other)) is None
        world.wait(700)
        assert not world.relay._table.channels_of
        assert not world.relay._table.permissions_of

    def test_permissions_of_all_allocations_of_a_user(self) -> None:
        world = World(quotas=Quotas(peers_per_user=2))
        one, two = client(world, 0), client(world, 1)
        peers = [Endpoint.of(f"192.0.2.{n}", 1) for n in range(3)]
        one.allocate()
        two.allocate()
        assert error_of(one.permit(*peers)) == 486
        assert error_of(one.permit(peers[0])) is None
        assert error_of(two.permit(*peers[:2])) == 486
        assert error_of(two.permit(peers[1])) is None
        assert error_of(two.bind(0x4000, peers[2])) == 486
        assert error_of(one.permit(peers[0])) is None
        world.wait(300)
        assert error_of(two.permit(*peers[:2])) is None

    def test_of_all(self) -> None:
        world = World(quotas=Quotas(total=2))
        for index in range(2):
            one = client(world, index, username=f"{UNIX_NOW}:{index}", secret=SECRET)
            assert error_of(one.allocate()) is None
        assert error_of(client(world, 2).allocate()) == 508
        client(world, 0).refresh(0)
        assert error_of(client(world, 2).allocate(PAIR)) == 508
        assert error_of(client(world, 2).allocate()) is None

    def test_another_relay_for_those_who_find_no_room(self) -> None:
        """But not for users who have had their share."""
        other = Endpoint.of("203.0.113.99", 3478)
        quotas = Quotas(total=2, per_user=1)
        world = World(quotas=quotas, alternates={4: other})
        assert error_of(client(world, 0).allocate()) is None
        assert error_of(client(world, 1).allocate()) == 486
        strangers = [
            Client(world, source, username=f"{UNIX_NOW}:{source.port}")
            for source in (Endpoint(CLIENT_4.address, 1), Endpoint(CLIENT_4.address, 2), CLIENT_6)
        ]
        assert error_of(strangers[0].allocate()) is None
        response = strangers[1].allocate()
        assert (error_of(response), response.get(stun.ALTERNATE_SERVER)) == (300, other)
        assert response.verify_integrity(strangers[1].key)
        assert error_of(strangers[2].allocate()) == 508
        strangers[0].refresh(0)
        world.relay.drain()
        assert error_of(strangers[1].allocate()) == 300
