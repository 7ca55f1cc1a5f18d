"""The relay with one port: every client has the same relayed address, and gets what is its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_turn_relay_clues import check, cookie_reply, data, initiation, response
from turn_relay_kit import PEER_4, PEER_6, RELAY_4, RELAY_6, Client, World, error_of

from firezone import stun
from firezone.model import Endpoint, Transmit
from firezone.stun import Class, Message, Method
from firezone.turn.channel_data import encode_channel_data
from firezone.turn.relay_commands import BindChannel, RelayCommand, SendToPeer, Steer, Unsteer
from firezone.turn.relay_one_port import CALLED, NAMES, NAMES_AT_HOME, NUMBERS
from firezone.turn.relay_peers import PeerPolicy

A, B, C = (Endpoint.of(f"203.0.113.{n}", 40000) for n in (1, 2, 3))
CHANNEL = 0x4000


@pytest.fixture
def world() -> World:
    return World(one_port=True)


def bound(world: World, address: Endpoint, peer: Endpoint = PEER_4) -> Client:
    client = Client(world, address)
    assert error_of(client.allocate((stun.ADDITIONAL_ADDRESS_FAMILY, 6))) is None
    assert error_of(client.bind(CHANNEL, peer)) is None
    return client


def says(client: Client, payload: bytes) -> list[RelayCommand]:
    """The client sends this on its channel."""
    return client.world.send(encode_channel_data(CHANNEL, payload), client.address)


def gets(commands: list[RelayCommand]) -> tuple[Endpoint, bytes] | None:
    """Which client gets what on its channel; None if nobody gets anything."""
    sent = [c for c in commands if isinstance(c, Transmit)]
    if not sent:
        return None
    [only] = sent
    assert bytes(only.payload[:2]) == CHANNEL.to_bytes(2, "big")
    return only.destination, bytes(only.payload[4:])


def leaving(commands: list[RelayCommand]) -> list[SendToPeer | Transmit]:
    """Datagrams, to whomever."""
    return [c for c in commands if isinstance(c, SendToPeer | Transmit)]


# Allocations


def test_all_have_the_address_that_we_listen_on(world: World) -> None:
    for address in (A, B):
        answer = Client(world, address).allocate((stun.ADDITIONAL_ADDRESS_FAMILY, 6))
        assert answer.get_all(stun.XOR_RELAYED_ADDRESS) == (RELAY_4, RELAY_6)
    assert world.relay.capacity == len(NUMBERS)


def test_what_a_shared_socket_cannot_do(world: World) -> None:
    client = Client(world)
    assert error_of(client.allocate((stun.EVEN_PORT, True))) == 508
    assert error_of(client.allocate((stun.RESERVATION_TOKEN, bytes(8)))) == 508
    refusal = client.allocate((stun.DONT_FRAGMENT, True))
    assert error_of(refusal) == 420
    assert refusal.get(stun.UNKNOWN_ATTRIBUTES) == (stun.DONT_FRAGMENT.code,)
    assert error_of(client.allocate((stun.EVEN_PORT, False))) is None  # 3478 is even
    client.permit(PEER_4)
    assert client.send(PEER_4, b"whole", (stun.DONT_FRAGMENT, True)) == []
    assert world.relay.counters["indication_not_understood"] == 1


# Whose a peer's datagram is


@pytest.mark.parametrize("payload", [b"anything", b"\x40\x00\x00\x01a", data(7), check()])
def test_who_is_alone_with_a_peer_gets_all_of_it(world: World, payload: bytes) -> None:
    client = bound(world, A)
    bound(world, B, replace(PEER_4, port=9))
    assert gets(world.send(payload, PEER_4)) == (A, payload)
    client.refresh(0)
    for command in leaving(world.send(payload, PEER_4)):
        assert isinstance(command, Transmit) and command.destination == PEER_4


def test_names_decide_between_two_clients(world: World) -> None:
    a, b = bound(world, A), bound(world, B)
    for client, index in ((a, 0xA0), (b, 0xB0)):
        assert says(client, initiation(index))[-1] == SendToPeer(
            port_of(client), PEER_4, initiation(index)
        )
        assert gets(world.send(data(index), PEER_4)) == (client.address, data(index))
        assert gets(world.send(response(0x100 * index, index), PEER_4)) is not None
        assert gets(world.send(cookie_reply(index), PEER_4)) is not None
    ambiguous = world.relay.counters["ambiguous_peer"]
    for stray in (data(0xC0), b"anything", response(1, 0xC0), initiation(0xFF0001)):
        assert gets(world.send(stray, PEER_4)) is None
    assert world.relay.counters["ambiguous_peer"] == ambiguous + 4


def test_ice_names_clients_by_ufrag_and_transaction(world: World) -> None:
    a, b = bound(world, A), bound(world, B)
    says(a, check("gateway:alpha"))
    says(b, transaction(check("gateway:beta"), b"b" * 12))
    assert gets(world.send(check("alpha:gateway"), PEER_4)) == (A, check("alpha:gateway"))
    assert gets(world.send(check("beta:gateway"), PEER_4)) == (B, check("beta:gateway"))
    answer = check("", Class.SUCCESS)
    assert gets(world.send(answer, PEER_4)) == (A, answer)
    answer = transaction(answer, b"b" * 12)
    assert gets(world.send(answer, PEER_4)) == (B, answer)
    assert gets(world.send(check("gamma:gateway"), PEER_4)) is None


def test_the_peer_may_initiate_a_handshake_itself(world: World) -> None:
    """By the upper 24 bits of its index, which an answer of its own or one to it has told."""
    a, b = bound(world, A), bound(world, B)
    says(a, initiation(0xA0))
    says(b, initiation(0xB0))
    world.send(response(0x1100, 0xA0), PEER_4)
    says(b, response(0xB1, 0x2200))
    assert gets(world.send(initiation(0x1101), PEER_4)) == (A, initiation(0x1101))
    assert gets(world.send(initiation(0x2201), PEER_4)) == (B, initiation(0x2201))


def test_the_peers_own_word_of_a_tunnel_is_the_last(world: World) -> None:
    """As when a client came back from elsewhere, and its former allocation is still there."""
    a, b = bound(world, A), bound(world, B)
    says(a, response(0xA0, 0x2200))
    says(b, initiation(0xB0))
    assert gets(world.send(initiation(0x2201), PEER_4)) == (A, initiation(0x2201))
    world.send(response(0x2202, 0xB0), PEER_4)
    assert gets(world.send(initiation(0x2203), PEER_4)) == (B, initiation(0x2203))


def test_who_has_a_name_first_keeps_it(world: World) -> None:
    a, b = bound(world, A), bound(world, B)
    says(a, initiation(0xA0))
    says(a, check("gateway:alpha"))
    says(b, initiation(0xA0))
    says(b, check("gateway:alpha"))
    assert gets(world.send(data(0xA0), PEER_4)) == (A, data(0xA0))
    assert gets(world.send(check("alpha:gateway"), PEER_4)) == (A, check("alpha:gateway"))
    assert world.relay.counters["name_taken"] == 3  # with the transaction
    a.refresh(0)
    bound(world, C)
    says(b, initiation(0xA0))
    assert gets(world.send(data(0xA0), PEER_4)) == (B, data(0xA0))


def test_only_so_many_names_are_remembered(world: World) -> None:
    client = bound(world, A)
    says(bound(world, B), initiation(0xB0))
    for index in range(100):
        says(client, initiation(index))
        says(client, response(1000 + index, index << 8))
        says(client, transaction(check(f"gateway:{index}"), index.to_bytes(12, "big")))
    assert world.relay.name_count == sum(NAMES.values()) + 1
    assert gets(world.send(data(1099), PEER_4)) == (A, data(1099))
    assert gets(world.send(data(0), PEER_4)) is None
    client.refresh(0)
    assert world.relay.name_count == 1


def test_a_session_from_another_path_is_that_of_who_named_no_index(world: World) -> None:
    a = bound(world, A)
    bound(world, B)
    says(a, initiation(0xA0))
    assert gets(world.send(data(0x77), PEER_4)) == (B, data(0x77))
    assert gets(world.send(b"anything", PEER_4)) is None
    bound(world, C)
    assert gets(world.send(data(0x77), PEER_4)) is None


def test_the_shell_is_told_all_that_decides_about_data(world: World) -> None:
    """It may then move data by itself; at the end nothing is left of it."""
    steers: dict[tuple[Endpoint, int], Steer] = {}
    channels = set()

    def follow(commands: list[RelayCommand]) -> None:
        for command in commands:
            match command:
                case Steer(peer, index, five_tuple, number):
                    assert five_tuple is None or (five_tuple, number) in channels
                    steers[peer, index] = command
                case Unsteer(peer, index):
                    del steers[peer, index]
                case BindChannel(five_tuple, number):
                    channels.add((five_tuple, number))

    world.commands = following(world, follow)  # type: ignore[method-assign]
    a, b = bound(world, A), bound(world, B)
    says(a, initiation(0xA0))
    told = {index: steer.five_tuple for (_, index), steer in steers.items()}
    local = RELAY_4
    clients = {peer for peer, index in steers if index == Steer.CLIENT}
    assert (told.pop(Steer.CLIENT), clients) == (None, {A, B})
    assert told == {Steer.ANY: None, 0xA0: (A, local), Steer.UNKNOWN_INDEX: (B, local)}
    b.permit(PEER_6)
    assert (replace(PEER_6, port=0), Steer.ADDRESS) in steers
    a.refresh(0)
    told = {index: steer.five_tuple for (_, index), steer in steers.items()}
    assert told[Steer.ANY] == (B, local)
    b.refresh(0)
    assert steers == {}


# Data indications


def test_a_permission_is_enough_for_who_is_alone(world: World) -> None:
    a, b = Client(world, A), Client(world, B)
    for client in (a, b):
        client.allocate()
    a.permit(PEER_4)
    [indication] = a.read(world.send(b"anything", PEER_4))
    assert indication.get(stun.DATA) == b"anything"
    assert indication.get(stun.XOR_PEER_ADDRESS) == PEER_4
    b.permit(PEER_4)
    assert world.send(b"anything", PEER_4) == []
    assert world.relay.counters["ambiguous_peer"] == 1
    b.refresh(0)
    assert a.read(world.send(b"anything", PEER_4)) != []
    a.refresh(0)
    assert world.send(b"\xff", PEER_4) == []
    assert world.relay.counters["unknown_protocol"] == 1


# A client that is a peer as well


def test_a_peer_may_be_a_client_too(world: World) -> None:
    """As a gateway is one of the relay's clients, from the same socket."""
    gateway = bound(world, B)
    client = bound(world, A, gateway.address)
    assert error_of(gateway.refresh(600)) is None
    binding = gateway.read(world.send(gateway.request(Method.BINDING).encode(), B))
    assert [m.get(stun.XOR_MAPPED_ADDRESS) for m in binding] == [B]
    assert gets(world.send(check("x:y"), B)) == (client.address, check("x:y"))
    assert gets(world.send(data(1), B)) == (client.address, data(1))
    sent = world.send(encode_channel_data(CHANNEL, b"mine"), B)
    assert [(c.peer, c.payload) for c in sent if isinstance(c, SendToPeer)] == [(PEER_4, b"mine")]


# Two clients of this relay


def test_two_clients_meet_at_our_address(world: World) -> None:
    a, b = bound(world, A, RELAY_4), bound(world, B, RELAY_4)
    assert gets(says(a, check("beta:alpha"))) is None  # b has not said yet who it is
    assert gets(says(b, transaction(check("alpha:beta"), b"b" * 12))) == (
        A,
        transaction(check("alpha:beta"), b"b" * 12),
    )
    assert gets(says(a, check("beta:alpha"))) == (B, check("beta:alpha"))
    answer = transaction(check("", Class.SUCCESS), b"b" * 12)
    assert gets(says(a, answer)) == (B, answer)
    bound(world, C, RELAY_4)
    assert gets(says(a, initiation(0xA0))) == (B, initiation(0xA0))  # whom it has checked
    assert gets(says(b, response(0xB0, 0xA0))) == (A, response(0xB0, 0xA0))
    assert gets(says(a, data(0xB0))) == (B, data(0xB0))
    assert gets(says(a, data(0xA0))) is None  # nobody gets its own
    assert not any(isinstance(c, SendToPeer) for c in says(a, data(0xB0)))
    assert gets(says(b, initiation(0xB1))) == (A, initiation(0xB1))


def test_a_first_handshake_goes_to_the_few_who_were_checked(world: World) -> None:
    """It may be for each of them; nobody gets it whose name its sender does not know."""
    clients = [bound(world, Endpoint.of("203.0.113.9", port), RELAY_4) for port in range(1, 9)]
    for n, client in enumerate(clients):
        says(client, transaction(check(f"nobody:ufrag{n}"), bytes([n] * 12)))
    sender = clients[0]
    assert leaving(says(sender, initiation(0xA00))) == []
    for n in range(2, 8):
        says(sender, transaction(check(f"ufrag{n}:ufrag0"), bytes([16 + n] * 12)))
    reached = leaving(says(sender, initiation(0xA00)))
    assert len(reached) == CALLED
    assert {c.destination.port for c in reached if isinstance(c, Transmit)} == {5, 6, 7, 8}
    says(clients[6], response(0xB00, 0xA00))
    assert gets(says(sender, initiation(0xA01))) == (clients[6].address, initiation(0xA01))


def test_nothing_from_our_own_address_is_a_clients(world: World) -> None:
    """Or clients could have clients of their own through us, and datagrams go round and round."""
    a = bound(world, A, RELAY_4)
    b = bound(world, B, RELAY_4)
    before = world.relay.allocation_count, world.relay.channel_count
    nested = Client(world, RELAY_4)
    nested.nonce = a.nonce
    requests = [
        nested.request(Method.BINDING).encode(),
        nested.request(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17)).encode(),
        nested.signed(nested.request(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17))),
        a.signed(a.request(Method.REFRESH, (stun.LIFETIME, 0))),
        encode_channel_data(CHANNEL, b"inner"),
        encode_channel_data(CHANNEL, encode_channel_data(CHANNEL, b"inner")),
    ]
    for request in requests:
        for commands in (
            says(a, request),
            world.send(request, RELAY_4),
            b.send(RELAY_4, request),
            world.from_peer(1, request, RELAY_4),
        ):
            assert leaving(commands) == []
    assert (world.relay.allocation_count, world.relay.channel_count) == before


def test_where_our_own_host_is_allowed_our_port_is_not() -> None:
    """Its sockets would take what comes back for a client's."""
    host = Endpoint.of("192.0.2.1", RELAY_4.port)
    policy = PeerPolicy(allow_loopback=True, host_addresses=frozenset({host.address}))
    world = World(one_port=True, peers=policy)
    client = bound(world, A)
    loopback = Endpoint.of("127.0.0.1", RELAY_4.port)
    for number, peer in enumerate((host, loopback), 0x4001):
        assert error_of(client.bind(number, peer)) == 403
        assert error_of(client.bind(number, replace(peer, port=9))) is None
    mapped = Endpoint.of("64:ff9b::c633:6401", RELAY_4.port)
    assert error_of(client.bind(0x4003, mapped)) == 403
    assert error_of(client.bind(0x4004, RELAY_4)) is None


def test_neither_is_our_port_where_our_host_is_permitted() -> None:
    """A permission is for all ports of an address but this one."""
    host = Endpoint.of("192.0.2.1", RELAY_4.port)
    policy = PeerPolicy(allow_loopback=True, host_addresses=frozenset({host.address}))
    world = World(one_port=True, peers=policy)
    client = bound(world, A)
    for peer in (host, Endpoint.of("127.0.0.1", RELAY_4.port)):
        assert error_of(client.permit(peer)) is None
        assert leaving(client.send(peer, b"for whom?")) == []
        other = replace(peer, port=9)
        assert leaving(client.send(other, b"x")) == [SendToPeer(port_of(client), other, b"x")]
    assert world.relay.counters["send_forbidden"] == 2


def test_nobody_speaks_to_a_client_in_our_name(world: World) -> None:
    """B is A's peer by its own address, to which our messages go, too, and from the same one."""
    a = bound(world, A, B)
    b = Client(world, B)
    b.allocate()
    forged = Message.indication(Method.DATA, lambda size: bytes(size))
    forged = forged.with_(stun.XOR_PEER_ADDRESS, PEER_4).with_(stun.DATA, b"forged")
    ours = (forged.encode(), encode_channel_data(CHANNEL, b"forged"), b"\x7f")
    others = (check(), data(7), initiation(0x42A41221), b"\x80", b"")
    for has_any, take in ((True, lambda: b.permit(PEER_4)), (False, lambda: b.refresh(0))):
        take()
        a.permit(B)
        for payload in ours + others:
            is_sent = payload in others or not has_any
            for sent in (says(a, payload), a.send(B, payload)):
                assert bool(leaving(sent)) is is_sent
        b.allocate()
    assert world.relay.counters["disguised"] == 2 * len(ours)


def test_the_shell_knows_whom_we_could_be_mistaken_for(world: World) -> None:
    """For each client of ours, as long as it has a channel or a permission."""
    told: set[Endpoint] = set()

    def follow(commands: list[RelayCommand]) -> None:
        for command in commands:
            if isinstance(command, Steer) and command.index == Steer.CLIENT:
                assert command.peer not in told
                told.add(command.peer)
            elif isinstance(command, Unsteer) and command.index == Steer.CLIENT:
                told.remove(command.peer)

    world.commands = following(world, follow)  # type: ignore[method-assign]
    a, b = bound(world, A), Client(world, B)
    b.allocate()
    assert told == {A}
    b.permit(PEER_4, replace(PEER_4, port=9))
    b.permit(PEER_4)
    a.bind(CHANNEL + 1, RELAY_4)
    assert told == {A, B}
    world.wait(601)
    assert told == set()


def test_a_gateway_has_many_tunnels_on_its_channel_to_our_address(world: World) -> None:
    gateway = bound(world, B, RELAY_4)
    for index in range(NAMES_AT_HOME):
        says(gateway, initiation(index))
    bound(world, A, RELAY_4)
    client = Client(world, A, nonce=None)
    client.nonce = gateway.nonce
    assert gets(says(client, data(0))) == (B, data(0))
    says(gateway, initiation(NAMES_AT_HOME))
    assert gets(says(client, data(0))) is None


# Any bytes


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["peer", "a", "b", "home", "own", "stranger"]),
            st.one_of(
                st.binary(max_size=160),
                st.builds(initiation, st.integers(0, 3)),
                st.builds(response, st.integers(0, 3), st.integers(0, 3)),
                st.builds(data, st.integers(0, 3)),
                st.builds(lambda u: check(f"{u}:{u[::-1]}"), st.sampled_from(["ab", "cd", "e"])),
                st.builds(
                    lambda t: transaction(check("", Class.SUCCESS), t),
                    st.binary(min_size=12, max_size=12),
                ),
                st.builds(encode_channel_data, st.just(CHANNEL), st.binary(max_size=60)),
            ),
        ),
        max_size=30,
    )
)
def test_no_bytes_raise_or_pile_up(sent: list[tuple[str, bytes]]) -> None:
    world = World(one_port=True)
    a, b = bound(world, A), bound(world, B)
    a.bind(CHANNEL + 1, RELAY_4)
    b.bind(CHANNEL + 1, RELAY_4)
    channels = world.relay.channel_count
    limit = 2 * sum(NAMES.values()) + 2 * 30 * 2
    for whence, payload in sent:
        match whence:
            case "peer":
                commands = world.send(payload, PEER_4)
            case "own":
                commands = world.send(payload, RELAY_4)
            case "stranger":
                commands = world.send(payload, C)
            case "home":
                wrapped = encode_channel_data(CHANNEL + 1, payload)
                commands = world.send(wrapped, A)
            case _:
                commands = says(a if whence == "a" else b, payload)
        out = leaving(commands)
        assert len(out) <= (
            1 if whence != "home" else CALLED
        )  # no amplification by number, and none by size but for the header
        size = 0 if not out else len(out[0].payload)
        if whence not in ("stranger", "peer"):
            assert size <= len(payload) + 4
        assert world.relay.name_count <= limit
    assert world.relay.allocation_count == 2 and world.relay.channel_count == channels
    for client in (a, b):
        client.refresh(0)
    assert world.relay.name_count == 0


def port_of(client: Client) -> int:
    """The number that the relay knows its allocation by."""
    return next(
        c.port
        for c in client.world.send(encode_channel_data(CHANNEL, b"x"), client.address)
        if isinstance(c, SendToPeer)
    )


def transaction(message: bytes, identity: bytes) -> bytes:
    return message[:8] + identity + message[20:]


def following(
    world: World, follow: Callable[[list[RelayCommand]], None]
) -> Callable[[], list[RelayCommand]]:
    commands = world.commands

    def followed() -> list[RelayCommand]:
        done = commands()
        follow(done)
        return done

    return followed
