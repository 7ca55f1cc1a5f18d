"""The handshake that does not wait for ICE, at nodes that face a peer made of bytes."""

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
    STRANGER,
    UNIX_START,
    Bench,
    host,
    keys,
)

from firezone.commands import InstallKeypair, SealPacket, SetPath
from firezone.durations import MILLISECOND, SECOND
from firezone.ice import Candidate, Nominated
from firezone.model import Endpoint
from firezone.node.fast_start import (
    MAX_DIRECT,
    MAX_RELAYED,
    MAX_REMEMBERED,
    MAX_REPEATS,
    REMEMBERED_FOR,
    Answered,
    FastStart,
    plan,
)
from firezone.noise import Tunnel
from firezone.turn import encode_channel_data

INITIATION, RESPONSE = b"\1\0\0\0", b"\2\0\0\0"
ELSEWHERE = Endpoint.parse("203.0.113.99:9")


def relayed_pair(n: int) -> Nominated:
    return Nominated(Candidate.relayed(RELAYED), reflexive(f"192.0.2.{n}:1"))


def direct_pair(n: int) -> Nominated:
    return Nominated(Candidate.host(LOCAL), reflexive(f"192.0.2.{n}:1"))


def reflexive(text: str) -> Candidate:
    return Candidate.server_reflexive(Endpoint.parse(text), Endpoint.parse(text))


# The schedule.


def test_the_initiation_is_sent_ten_times_ever_rarer() -> None:
    fast, sent, now = FastStart(0), [], 0
    assert len(fast.take_due([relayed_pair(1)], 0)) == 1
    while (timeout := fast.poll_timeout()) is not None:
        assert fast.take_due([relayed_pair(1)], timeout.deadline - 1) == []
        now = timeout.deadline
        assert len(fast.take_due([relayed_pair(1)], now)) == 1
        sent.append(now // MILLISECOND)
    assert sent == [25, 50, 75, 100, 150, 300, 600, 1200, 2400]
    assert fast.is_over and fast.take_due([relayed_pair(1)], now + 1) == []


def test_it_is_sent_closely_when_the_peer_is_to_hear_of_us() -> None:
    ms = MILLISECOND
    assert [at // ms for at in plan(0, 100 * ms, 40 * ms)] == [60, 70, 80, 90, 100, 110, 1110, 2310]
    assert [at // ms for at in plan(95 * ms, 100 * ms, 40 * ms)] == [100, 110, 1110, 2310]
    assert [at // ms for at in plan(500 * ms, 100 * ms, 40 * ms)] == [1500, 2700]
    assert [at // ms for at in plan(0, 100 * ms, 0)] == [80, 85, 90, 95, 100, 105, 1105, 2305]


def test_no_plan_sends_more_than_eight_in_a_second() -> None:
    for heard_of_at in range(0, 600, 7):
        for round_trip in range(0, 400, 9):
            times = plan(0, heard_of_at * MILLISECOND, round_trip * MILLISECOND)
            for first in (0, *times):
                within = [at for at in (0, *times) if first <= at < first + SECOND]
                assert len(within) <= 7  # and one when the way opens


def test_a_way_that_the_peer_came_over_is_taken_once_more() -> None:
    one, two = relayed_pair(1), relayed_pair(2)
    fast = FastStart(0)
    way = RELAYED, one.remote.address
    fast.take_due([one, two], 0)
    for _ in range(2):
        fast.handle_opened(way)
        fast.handle_opened((RELAYED, ELSEWHERE))
    assert fast.take_due([one, two], 1) == [way]
    fast.handle_opened(way)
    assert fast.take_due([one, two], 2) == []


def test_a_new_way_is_taken_at_once_one_that_failed_no_more() -> None:
    fast = FastStart(0)
    fast.take_due([relayed_pair(1)], 0)
    new = relayed_pair(2)
    assert fast.take_due([relayed_pair(1), new], 1) == [(RELAYED, new.remote.address)]
    assert fast.take_due([new], 50 * MILLISECOND) == [(RELAYED, new.remote.address)]


def test_ways_are_few_and_direct_ones_take_no_room_of_the_others() -> None:
    fast = FastStart(0)
    pairs = [direct_pair(n) for n in range(20)] + [relayed_pair(n) for n in range(20)]
    assert len(fast.take_due(pairs, 0)) == MAX_DIRECT + MAX_RELAYED
    assert fast.take_due(pairs, 1) == []


def test_the_best_of_many_addresses_of_two_hosts_take_part() -> None:
    fast = FastStart(0)
    ours = [host(f"10.1.0.{n}:1") for n in range(8)] + [host("[2001:db8::1]:1")]
    theirs = [host(f"10.2.0.{n}:1") for n in range(8)] + [host("[2001:db8::2]:1")]
    theirs.append(reflexive("192.0.2.1:1"))
    pairs = [Nominated(o, t) for o in ours for t in theirs if o.family == t.family]
    pairs += [Nominated(Candidate.relayed(RELAYED), t) for t in theirs if t.family == 4]
    assert fast.take_due(pairs, 0) == [
        (ours[0].base, theirs[0].address),
        (ours[0].base, Endpoint.parse("192.0.2.1:1")),
        (ours[8].base, theirs[8].address),
        (RELAYED, theirs[0].address),
        (RELAYED, Endpoint.parse("192.0.2.1:1")),
    ]
    assert fast.take_due(pairs, 1) == []


def test_an_answer_is_remembered_for_a_while_and_repeated_so_often() -> None:
    answered: Answered[str] = Answered()
    message, with_cookie = bytes(148), bytes(132) + b"m" * 16
    answered.note(message, "peer", b"answer", 0)
    assert answered.answer_to(with_cookie, REMEMBERED_FOR) == ("peer", b"answer")
    assert answered.answer_to(b"x" + message[1:], 0) is None
    assert answered.answer_to(message, REMEMBERED_FOR + 1) is None
    for _ in range(MAX_REPEATS - 1):
        assert answered.answer_to(message, 0) is not None
    assert answered.answer_to(message, 0) is None


def test_answers_do_not_pile_up() -> None:
    answered: Answered[str] = Answered()
    messages = [n.to_bytes(148, "big") for n in range(0, (MAX_REMEMBERED + 1) << 130, 1 << 130)]
    for message in messages:
        answered.note(message, "peer", b"", 0)
    assert [answered.answer_to(m, 0) is None for m in messages].count(True) == 1


# The side that begins.


def begun() -> tuple[Bench, Tunnel]:
    """A client with a packet that waits, whose peer has a candidate and answers no check."""
    bench = Bench().with_relay()
    slot = bench.node.upsert_connection("peer", keys(), bench.now)
    bench.node.handle_unroutable(slot, b"packet", bench.now)
    bench.node.add_remote_candidate("peer", host(str(PEER)), bench.now)
    bench.drain()
    return bench, responder(bench)


def responder(bench: Bench) -> Tunnel:
    return Tunnel(
        slot=1,
        tunnel_id=7,
        static=STRANGER,
        peer_public_key=bench.node.public_key,
        preshared_key=bytes(32),
        entropy=random.Random(3).randbytes,
        unix_now=UNIX_START,
        now=bench.now,
    )


def initiations(bench: Bench) -> list[bytes]:
    """What went over the relay; those that went straight to the peer are the same."""
    payloads = [t.payload[4:] for t in bench.sent if t.destination == SERVER]
    return [p for p in payloads if p[:4] == INITIATION]


def response_to(initiation: bytes, tunnel: Tunnel, now: int) -> bytes:
    tunnel.handle_handshake(initiation, now)
    response = tunnel.poll_transmit()
    assert response is not None
    return response


def test_an_initiation_goes_over_the_relay_before_any_check_is_answered() -> None:
    bench, _ = begun()
    bench.after(0.1)
    sent = initiations(bench)
    assert len(sent) == 5 and len(set(sent)) == 1


def test_the_way_of_the_answer_carries_data_until_ice_has_chosen() -> None:
    bench, tunnel = begun()
    response = response_to(initiations(bench)[0], tunnel, bench.now)
    bench.receive(encode_channel_data(0x4000, response), SERVER)
    (c,) = bench.node.connections()
    assert c.pair is None and c.preliminary is not None and c.established
    assert c.preliminary.local.base == RELAYED and c.preliminary.remote.address == PEER
    path = next(k for k in bench.commands if isinstance(k, SetPath)).path
    assert path is not None and path.channel == 0x4000
    kinds = [type(command) for command in bench.commands]
    assert kinds.index(SetPath) < kinds.index(InstallKeypair) < kinds.index(SealPacket)
    bench.sent.clear()
    bench.after(1)
    assert initiations(bench) == []


def test_the_way_ends_with_its_relay() -> None:
    bench, tunnel = begun()
    response = response_to(initiations(bench)[0], tunnel, bench.now)
    bench.receive(encode_channel_data(0x4000, response), SERVER)
    bench.node.update_relays([RELAY.id], (), bench.now)
    bench.after(0.1)
    (c,) = bench.node.connections()
    assert c.way is None and c.path is None
    assert [k.path for k in bench.commands if isinstance(k, SetPath)][-1] is None


def test_an_answer_from_elsewhere_makes_a_session_and_no_path() -> None:
    bench, tunnel = begun()
    bench.receive(response_to(initiations(bench)[0], tunnel, bench.now), ELSEWHERE)
    (c,) = bench.node.connections()
    assert c.has_session and c.way is None and not c.established


@pytest.mark.parametrize("source", [PEER, ELSEWHERE])
def test_a_forged_answer_makes_no_path(source: Endpoint) -> None:
    bench, tunnel = begun()
    response = response_to(initiations(bench)[0], tunnel, bench.now)
    bench.receive(response[:20] + bytes(8) + response[28:], source)
    (c,) = bench.node.connections()
    assert c.way is None and not c.has_session


# The side that answers.


def asked() -> tuple[Bench, Tunnel, bytes]:
    bench = Bench(controlling=False).with_relay()
    bench.node.upsert_connection("peer", keys(), bench.now)
    bench.node.add_remote_candidate("peer", host(str(PEER)), bench.now)
    bench.drain()
    bench.sent.clear()
    tunnel = responder(bench)
    tunnel.initiate(bench.now)
    initiation = tunnel.poll_transmit()
    assert initiation is not None
    return bench, tunnel, initiation


def responses(bench: Bench) -> list[tuple[Endpoint, bytes]]:
    sent = [(t.destination, t.payload) for t in bench.sent]
    return [(to, payload) for to, payload in sent if payload[:4] == RESPONSE]


def test_one_initiation_over_two_ways_has_one_answer_on_each() -> None:
    bench, _, initiation = asked()
    bench.receive(initiation, PEER)
    bench.receive(initiation, MAPPED)
    (first, answer), (second, again) = responses(bench)
    assert (first, second) == (PEER, MAPPED) and answer == again
    (c,) = bench.node.connections()
    assert c.tunnel.counters == {} and len(c.tunnel.sessions()) == 1


def test_an_answer_ends_with_its_connection() -> None:
    bench, _, initiation = asked()
    bench.receive(initiation, PEER)
    bench.node.close_connection("peer", "test", bench.now)
    bench.sent.clear()
    bench.receive(initiation, PEER)
    assert responses(bench) == []


def test_the_initiation_alone_is_no_proof_of_a_path() -> None:
    bench, _, initiation = asked()
    bench.receive(initiation, PEER)
    (c,) = bench.node.connections()
    assert c.way is None
    (session,) = c.tunnel.sessions()
    bench.node.handle_session_confirmed(c.slot, session.local_index, bench.now)
    assert c.preliminary is not None and c.preliminary.remote.address == PEER
    assert c.established


def test_a_session_from_where_no_candidate_is_waits_for_ice() -> None:
    bench, _, initiation = asked()
    bench.receive(initiation, ELSEWHERE)
    (c,) = bench.node.connections()
    (session,) = c.tunnel.sessions()
    bench.node.handle_session_confirmed(c.slot, session.local_index, bench.now)
    assert c.has_session and c.way is None and not c.established


def test_all_ways_together_stay_below_what_a_peer_takes_without_cookies() -> None:
    fast = FastStart(0)
    pairs = [relayed_pair(n) for n in range(MAX_RELAYED)]
    pairs += [direct_pair(n) for n in range(MAX_DIRECT)]
    sent = len(fast.take_due(pairs, 0))
    while (timeout := fast.poll_timeout()) is not None and timeout.deadline < 1000 * MILLISECOND:
        sent += len(fast.take_due(pairs, timeout.deadline))
    assert len(fast.tried) == MAX_RELAYED + MAX_DIRECT
    assert sent < 100
