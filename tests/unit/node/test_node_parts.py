"""The small parts of the node."""

import node_kit
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.durations import MILLISECOND
from firezone.ice import Candidate, CandidateKind
from firezone.model import Endpoint, Timeout
from firezone.node.candidates import in_signalling_order, optimistic
from firezone.node.deadlines import Deadlines
from firezone.node.in_flight import LIFETIME, InFlight
from firezone.node.relays import nearest
from firezone.node.slots import NoSlotError, Slots
from firezone.stun import Class, Message, Method


def test_slots_are_dense_and_never_nobody():
    slots = Slots()
    assert [slots.allocate() for _ in range(3)] == [1, 2, 3]
    slots.release(2)
    slots.release(1)
    assert [slots.allocate() for _ in range(3)] == [1, 2, 4]


def test_slots_end_where_the_data_plane_ends():
    slots = Slots(limit=3)
    assert [slots.allocate(), slots.allocate()] == [1, 2]
    with pytest.raises(NoSlotError, match="all 2 slots"):
        slots.allocate()
    slots.release(1)
    assert slots.allocate() == 1


def test_a_new_deadline_voids_the_old():
    deadlines = Deadlines()
    deadlines.set("a", Timeout(10, "first"))
    deadlines.set("a", Timeout(20, "second"))
    assert deadlines.first() == Timeout(20, "second")
    assert deadlines.due(15) == []
    assert deadlines.due(20) == ["a"]
    assert deadlines.first() is None


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.integers(0, 50))))
def test_deadlines_agree_with_a_dict(changes):
    deadlines, model = Deadlines(), {}
    for key, deadline in changes:
        deadlines.set(key, None if deadline is None else Timeout(deadline, "x"))
        model[key] = deadline
        live = {k: d for k, d in model.items() if d is not None}
        first = deadlines.first()
        assert (first.deadline if first else None) == min(live.values(), default=None)
    live = {k: d for k, d in model.items() if d is not None}
    assert set(deadlines.due(25)) == {k for k, d in live.items() if d <= 25}


def test_deadlines_do_not_grow_with_changes():
    deadlines = Deadlines()
    for n in range(10_000):
        deadlines.set("a", Timeout(n, "x"))
    assert len(deadlines._heap) < 200


REQUEST = b"\x00\x01" + bytes(6)


def test_responses_find_their_connection_until_they_are_too_old():
    in_flight = InFlight()
    in_flight.note(REQUEST + b"a" * 12, "one", 0)
    in_flight.note(b"\x01\x01" + bytes(6) + b"b" * 12, "one", 0)
    assert in_flight.owner(b"a" * 12) == "one"
    assert in_flight.owner(b"b" * 12) is None
    in_flight.note(REQUEST + b"c" * 12, "two", LIFETIME)
    assert in_flight.owner(b"a" * 12) is None
    assert in_flight.owner(b"c" * 12) == "two"


def at(text):
    return Endpoint.parse(text)


def test_optimistic_candidate_of_a_forwarded_port():
    host = Candidate.host(at("10.0.0.1:52625"))
    reflexive = Candidate.server_reflexive(at("1.1.1.1:40000"), at("1.1.1.1:40000"))
    for known, new in (([host], reflexive), ([reflexive], host)):
        guesses = list(optimistic([*known, new], new))
        assert [g.address for g in guesses] == [at("1.1.1.1:52625")]
        assert guesses[0].kind is CandidateKind.SERVER_REFLEXIVE


def test_optimistic_candidates_are_few_ipv4_and_new():
    hosts = [Candidate.host(at(f"10.0.0.{n}:{1000 + n}")) for n in range(1, 9)]
    reflexive = Candidate.server_reflexive(at("1.1.1.1:40000"), at("1.1.1.1:40000"))
    assert len(list(optimistic([*hosts, reflexive], reflexive))) == 2
    host6 = Candidate.host(at("[2001:db8::1]:1"))
    reflexive6 = Candidate.server_reflexive(at("[2001:db8::2]:2"), at("[2001:db8::2]:2"))
    assert list(optimistic([host6, reflexive6], reflexive6)) == []
    same = Candidate.server_reflexive(at("10.0.0.1:52625"), at("10.0.0.1:52625"))
    assert list(optimistic([Candidate.host(at("10.0.0.1:52625")), same], same)) == []


def test_signalling_order_is_best_first_and_unique():
    host = Candidate.host(at("10.0.0.1:1"))
    relayed = Candidate.relayed(at("203.0.113.1:50000"))
    reflexive = Candidate.server_reflexive(at("1.1.1.1:1"), at("10.0.0.1:1"))
    assert in_signalling_order([relayed, host, reflexive, host]) == [host, reflexive, relayed]


def relay_ids(**trips):
    return sorted(nearest({name: trip * MILLISECOND for name, trip in trips.items()}))


def test_of_two_relays_the_farther_is_left_out_if_it_is_much_farther():
    assert relay_ids(a=10, b=15) == ["a", "b"]
    assert relay_ids(a=10, b=15.1) == ["a"]
    assert relay_ids(a=400) == ["a"]
    assert relay_ids() == []


def test_of_many_relays_those_that_stand_out_are_left_out():
    assert relay_ids(a=10, b=11, c=16.9) == ["a", "b", "c"]
    assert relay_ids(a=10, b=11, c=17.1) == ["a", "b"]
    assert relay_ids(a=10, b=20, c=30, d=200) == ["a", "b", "c"]


@pytest.mark.parametrize("relay_is_private", [False, True])
def test_a_public_relay_leads_to_no_private_network(relay_is_private, monkeypatch):
    relayed = Endpoint.parse("10.0.0.1:50000") if relay_is_private else node_kit.RELAYED
    monkeypatch.setattr(node_kit, "RELAYED", relayed)
    reaches = node_kit.Bench().with_relay().node.transport.reaches
    inside, link = Endpoint.parse("192.168.7.7:7"), Endpoint.parse("169.254.7.7:7")
    assert reaches(relayed, node_kit.PEER)
    assert reaches(relayed, inside) is relay_is_private
    assert reaches(relayed, link) is relay_is_private
    assert reaches(node_kit.LOCAL, inside)


@pytest.mark.parametrize(
    ("class_", "method", "is_peers"),
    [
        (Class.REQUEST, Method.BINDING, True),
        (Class.SUCCESS, Method.BINDING, True),
        (Class.ERROR, Method.ALLOCATE, False),
        (Class.INDICATION, Method.DATA, False),
    ],
)
def test_a_peer_may_have_our_relays_address(class_, method, is_peers):
    """As all clients of a relay have that has one port."""
    bench = node_kit.Bench().with_relay()
    message = Message(class_, method, bytes(12), ()).encode()
    receive = bench.node.transport.receive
    arrival = receive(node_kit.LOCAL, node_kit.SERVER, message, bench.now)
    assert (arrival is not None) is is_peers
    if arrival is not None:
        assert (arrival.source, arrival.payload) == (node_kit.SERVER, message)
    assert bench.node.transport.counters["unexpected message of a relay"] == (not is_peers)
