"""Connections that come, fail, are asked for again; and datagrams from anybody."""

from __future__ import annotations

import random

import pytest
from node_kit import (
    LOCAL,
    MAPPED,
    PEER,
    RELAY,
    RELAYED,
    SERVER,
    START,
    STRANGER,
    UNIX_START,
    Bench,
    host,
    keys,
)

from firezone.commands import RemovePeer, SealPacket
from firezone.durations import SECOND
from firezone.ice import CandidateKind
from firezone.model import Endpoint, RelayId, Transmit
from firezone.node import (
    CandidateGathered,
    CandidateWithdrawn,
    ConnectionClosed,
    ConnectionFailed,
    NoRelaysError,
    Relay,
)
from firezone.node.connection import WAITING_PACKETS
from firezone.node.local_candidates import MAX_HOST_ADDRESSES
from firezone.noise import StaticKeypair, Tunnel
from firezone.noise.cookie import HANDSHAKES_PER_SECOND
from firezone.turn import RelayServer

ELSEWHERE = Endpoint.parse("203.0.113.99:9")

HOST, SRFLX, RELAYED_KIND = (
    CandidateKind.HOST,
    CandidateKind.SERVER_REFLEXIVE,
    CandidateKind.RELAYED,
)


def asked(**fields: bool) -> Bench:
    """A node with a relay and one connection, that has no candidate of its peer yet."""
    bench = Bench(**fields).with_relay()
    bench.node.upsert_connection("peer", keys(), bench.now)
    bench.drain()
    return bench


def gathered(bench: Bench) -> list[tuple[CandidateKind, Endpoint]]:
    found = [e.candidate for e in bench.of(CandidateGathered)]
    return [(c.kind, c.address) for c in found]


def initiation_to(bench: Bench, static: StaticKeypair, psk: bytes = bytes(32)) -> bytes:
    tunnel = Tunnel(
        slot=1,
        tunnel_id=7,
        static=static,
        peer_public_key=bench.node.public_key,
        preshared_key=psk,
        entropy=random.Random(static.public).randbytes,
        unix_now=UNIX_START + bench.now - START,
        now=bench.now,
    )
    tunnel.initiate(bench.now)
    message = tunnel.poll_transmit()
    assert message is not None
    return message


# Asking.


def test_without_a_relay_there_is_no_connection() -> None:
    bench = Bench()
    with pytest.raises(NoRelaysError):
        bench.node.upsert_connection("peer", keys(), bench.now)
    assert not [*bench.node.connections()]


def test_a_connection_is_not_given_up_for_one_that_cannot_be_made() -> None:
    """The original drops the old one first."""
    bench = asked()
    bench.node.update_relays([RELAY.id], (), bench.now)
    with pytest.raises(NoRelaysError):
        bench.node.upsert_connection("peer", keys(psk=b"n" * 32), bench.now)
    assert [c.keys for c in bench.node.connections()] == [keys()]


def test_candidates_come_from_the_relay_alone_the_best_first() -> None:
    bench = Bench(relay_answers=False).with_relay()
    bench.node.upsert_connection("peer", keys(), bench.now)
    bench.after(0.5)
    assert gathered(bench) == []
    bench.relay_answers = True
    bench.after(5)
    assert gathered(bench) == [(HOST, LOCAL), (SRFLX, MAPPED), (RELAYED_KIND, RELAYED)]


def test_asking_again_signals_every_candidate_again() -> None:
    """The peer may have lost them all. The original repeats server-reflexive ones only."""
    bench = asked()
    before = gathered(bench)
    bench.events.clear()
    slot = bench.node.upsert_connection("peer", keys(), bench.now)
    bench.drain()
    assert gathered(bench) == before != []
    assert slot == bench.node.slot_of("peer")


def test_other_keys_make_another_connection_without_an_event() -> None:
    bench = asked()
    (old,) = bench.node.connections()
    bench.events.clear()
    bench.node.upsert_connection("peer", keys(psk=b"n" * 32), bench.now)
    bench.drain()
    (new,) = bench.node.connections()
    assert new is not old
    assert bench.of(ConnectionClosed) == bench.of(ConnectionFailed) == []
    assert RemovePeer(old.slot) in bench.commands


def test_only_the_controlling_side_repeats_the_handshake() -> None:
    bench = asked(controlling=False)
    bench.node.upsert_connection("peer", keys(), bench.now)
    bench.drain()
    (connection,) = bench.node.connections()
    assert not connection.tunnel.handshake_in_progress


# Failing.


def test_a_peer_that_signals_nothing_is_given_up_after_ten_seconds() -> None:
    bench = asked().after(9.9)
    assert bench.of(ConnectionFailed) == []
    bench.after(0.1)
    assert [e.reason for e in bench.of(ConnectionFailed)] == ["no remote candidates"]
    assert isinstance(bench.commands[-1], RemovePeer)
    assert not [*bench.node.connections()]


def test_a_peer_that_never_answers_is_given_up_two_seconds_after_the_checks() -> None:
    bench = asked()
    bench.node.add_remote_candidate("peer", host(str(PEER)), bench.now)
    bench.after(15.25 + 1.9)
    assert bench.of(ConnectionFailed) == []
    bench.after(0.2)
    assert [e.reason for e in bench.of(ConnectionFailed)] == ["ICE disconnected"]
    assert [lost.reason for lost in bench.node.lost] == ["ICE disconnected"]


def test_a_candidate_within_the_grace_saves_the_connection() -> None:
    bench = asked()
    bench.node.add_remote_candidate("peer", host(str(PEER)), bench.now)
    bench.after(15.25 + 1)
    bench.node.add_remote_candidate("peer", host("192.0.2.78:7777"), bench.now)
    bench.after(10)
    assert bench.of(ConnectionFailed) == []


def test_candidates_for_nobody_are_counted() -> None:
    bench = Bench()
    bench.node.add_remote_candidate("nobody", host(str(PEER)), bench.now)
    bench.node.remove_remote_candidate("nobody", host(str(PEER)), bench.now)
    assert bench.node.counters == {"candidate for an unknown connection": 1}


# Relays and resets.


def test_a_relay_that_goes_takes_its_candidate_along_and_no_other() -> None:
    bench = asked()
    bench.node.update_relays([RELAY.id], (), bench.now)
    bench.drain()
    withdrawn = [e.candidate.address for e in bench.of(CandidateWithdrawn)]
    assert withdrawn == [RELAYED]
    bench.node.update_relays((), [RELAY], bench.now)
    bench.events.clear()
    bench.after(1)
    assert (RELAYED_KIND, RELAYED) in gathered(bench)


def test_a_relay_that_has_not_answered_is_not_drawn_while_another_has() -> None:
    silent = Relay(RelayId("a-silent-relay"), RelayServer(ELSEWHERE), "1892160000:salt", "password")
    bench = Bench()
    bench.node.update_relays((), [RELAY, silent], bench.now)
    before = {bench.node.transport.relays.draw() for _ in range(50)}
    bench.drain()
    after = {bench.node.transport.relays.draw() for _ in range(50)}
    assert (before, after) == ({RELAY.id, silent.id}, {RELAY.id})


def test_what_was_sent_twice_tells_no_round_trip() -> None:
    bench = Bench(relay_answers=False).with_relay()
    bench.after(1.2)
    bench.relay_answers = True
    bench.after(1.4)  # the third send is answered at once
    ((_, allocation),) = bench.node.transport.relays
    assert allocation.has_allocation
    assert allocation.round_trip == 0  # of Allocate, which was sent once
    assert bench.node.transport.relays.round_trips() == {RELAY.id: 0}


# Addresses of the host itself.


LAN, LAN6 = Endpoint.parse("10.7.0.5:52625"), Endpoint.parse("[fd07::5]:52625")


def test_new_connections_and_old_ones_get_the_hosts_addresses() -> None:
    bench = asked()
    bench.events.clear()
    bench.node.set_host_addresses([LAN, LAN6], bench.now)
    bench.node.upsert_connection(
        "other", keys(StaticKeypair.generate(random.Random(1).randbytes)), bench.now
    )
    bench.drain()
    of = {"peer": [], "other": []}
    for event in bench.of(CandidateGathered):
        of[event.connection].append(event.candidate.address)
    assert of == {"peer": [LAN, LAN6], "other": [LAN6, LOCAL, LAN, MAPPED, RELAYED]}


def test_an_address_that_the_relay_saw_is_signalled_once() -> None:
    bench = asked()
    before = gathered(bench)
    bench.node.set_host_addresses([LOCAL], bench.now)
    bench.drain()
    assert gathered(bench) == before


def test_an_address_that_goes_is_withdrawn_unless_the_relay_sees_it() -> None:
    bench = asked()
    bench.node.set_host_addresses([LOCAL, LAN, LAN6], bench.now)
    bench.node.set_host_addresses([LAN6], bench.now)
    bench.drain()
    assert [e.candidate.address for e in bench.of(CandidateWithdrawn)] == [LAN]
    (c,) = bench.node.connections()
    hosts = [x.address for x in c.agent.local_candidates() if x.kind is HOST]
    assert hosts == [LOCAL, LAN6]


def test_an_address_that_returns_is_signalled_as_it_was() -> None:
    bench = asked()
    for addresses in ([LAN], [], [LAN]):
        bench.node.set_host_addresses(addresses, bench.now)
    bench.drain()
    first, again = [e.candidate for e in bench.of(CandidateGathered) if e.candidate.address == LAN]
    assert first == again


def test_the_hosts_addresses_are_few_and_gone_with_a_reset() -> None:
    bench = asked()
    many = [Endpoint.parse(f"10.7.0.{n}:52625") for n in range(20)]
    bench.events.clear()
    bench.node.set_host_addresses(many, bench.now)
    bench.drain()
    assert gathered(bench) == [(HOST, address) for address in many[:MAX_HOST_ADDRESSES]]
    bench.node.reset(bench.now)
    bench.with_relay()
    bench.events.clear()
    bench.node.upsert_connection("peer", keys(), bench.now)
    bench.drain()
    assert gathered(bench) == [(HOST, LOCAL), (SRFLX, MAPPED), (RELAYED_KIND, RELAYED)]


def test_a_reset_leaves_nothing() -> None:
    bench = asked()
    old = bench.node.public_key
    bench.events.clear()
    bench.node.reset(bench.now)
    bench.drain()
    assert bench.events == [ConnectionClosed("peer")]
    assert bench.node.public_key != old
    assert bench.node.poll_timeout() is None


# Packets before there is a way.


def test_a_client_keeps_the_last_packets_a_gateway_none() -> None:
    packets = [bytes([n]) * 20 for n in range(WAITING_PACKETS + 5)]
    for controlling in (True, False):
        bench = asked(controlling=controlling)
        for packet in packets:
            bench.node.handle_unroutable(1, packet, bench.now)
        (connection,) = bench.node.connections()
        assert [*connection.waiting] == (packets[5:] if controlling else [])
        dropped = 0 if controlling else len(packets)
        assert bench.node.counters["packet before nomination"] == dropped
        assert not [c for c in bench.commands if isinstance(c, SealPacket)]


# Datagrams.


def test_an_initiation_is_known_by_its_key_not_by_its_source() -> None:
    """Peers behind one NAT may have one address after another, or even in turns."""
    bench = Bench(controlling=False).with_relay()
    statics = [StaticKeypair.generate(random.Random(n).randbytes) for n in range(3)]
    for n, static in enumerate(statics[:2]):
        bench.node.upsert_connection(f"peer-{n}", keys(static, bytes([n]) * 32), bench.now)
    bench.drain()
    for n, static in enumerate(statics):
        bench.sent.clear()
        bench.receive(initiation_to(bench, static, bytes([n]) * 32))
        responses = [t.payload for t in bench.sent if t.payload[:4] == b"\2\0\0\0"]
        assert len(responses) == (n < 2)
    assert bench.node.counters["handshake of nobody"] == 1


def test_a_cookie_goes_where_the_message_came_from() -> None:
    bench = asked(controlling=False)
    for _ in range(HANDSHAKES_PER_SECOND + 1):
        bench.sent.clear()
        bench.now += 1
        bench.receive(initiation_to(bench, STRANGER), ELSEWHERE)
    (reply,) = bench.sent
    assert (reply.source, reply.destination) == (LOCAL, ELSEWHERE)
    assert reply.payload[:4] == b"\3\0\0\0" and len(reply.payload) == 64


def test_port_3478_of_a_stranger_is_a_peers_address() -> None:
    """The original drops what comes from there unless a relay of ours has it."""
    bench = asked(controlling=False)
    source = Endpoint(PEER.address, SERVER.port)
    bench.receive(initiation_to(bench, STRANGER), source)
    assert [t.destination for t in bench.sent] == [source]


@pytest.mark.parametrize("source", [PEER, SERVER, Endpoint(PEER.address, 3478)], ids=str)
def test_no_datagram_raises_or_is_answered(source: Endpoint) -> None:
    bench, dice = asked(controlling=False), random.Random(4)
    real = [initiation_to(bench, STRANGER), b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)]
    real += [b"\x40\x00\x00\x04data", b"\4\0\0\0" + bytes(28), b"\3\0\0\0" + bytes(60), b""]
    for _ in range(3_000):
        data = bytearray(dice.choice(real))
        for _ in range(dice.randrange(1, 4)):
            if data:
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        data = data[: dice.randrange(len(data) + 1)] if dice.random() < 0.3 else data
        if not is_good(bytes(data), real):
            bench.receive(bytes(data), source)
    assert answers(bench) == []
    assert [c.id for c in bench.node.connections()] == ["peer"]


def is_good(data: bytes, real: list[bytes]) -> bool:
    """Whether it is as its sender made it, apart from mac2, which is void without a cookie."""
    mac2 = 16 if data[:1] == b"\1" and len(data) == 148 else 0
    return data[: len(data) - mac2] in [r[: len(data) - mac2] for r in real if len(r) == len(data)]


def answers(bench: Bench) -> list[Transmit]:
    """What went back to anybody, but for cookies: who overloads us gets one."""
    return [t for t in bench.sent if t.payload[:1] != b"\3"]


def test_time_alone_never_spins() -> None:
    bench = asked()
    bench.node.add_remote_candidate("peer", host(str(PEER)), bench.now)
    wakes, end = 0, bench.now + 60 * SECOND
    while (timeout := bench.node.poll_timeout()) is not None and timeout.deadline < end:
        bench.now = max(bench.now, timeout.deadline)
        bench.node.handle_timeout(bench.now)
        bench.drain()
        wakes += 1
    assert wakes < 80


@pytest.mark.parametrize(("controlling", "seconds"), [(True, 15.25 + 2), (False, 600.75 + 2)])
def test_a_gateway_leaves_it_to_the_client_to_give_up(controlling: bool, seconds: float) -> None:
    """Only the client can ask for another connection, so it is the one to notice first."""
    bench = asked(controlling=controlling)
    bench.node.add_remote_candidate("peer", host(str(PEER)), bench.now)
    bench.after(seconds - 0.5)
    assert bench.of(ConnectionFailed) == []
    bench.after(1)
    assert bench.of(ConnectionFailed) != []
