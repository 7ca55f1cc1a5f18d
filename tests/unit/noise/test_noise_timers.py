"""When tunnels act, as seen on the wire."""

import itertools

import pytest
from noise_pair import INITIATION, LATENCY, RESPONSE, START, Data, Pair

from firezone.commands import Activity
from firezone.durations import MILLISECOND, SECOND
from firezone.noise import Expired, MessageType

JITTER = 333 * MILLISECOND
ROUND_TRIP = 2 * LATENCY
DATA = MessageType.TRANSPORT_DATA


@pytest.fixture
def pair() -> Pair:
    return Pair()


def within(at: int, since: int, slack: int = JITTER + ROUND_TRIP) -> bool:
    return since <= at <= since + slack


def test_full_handshake_third_packet_is_data(pair: Pair) -> None:
    pair.send(pair.a, b"hello")
    pair.run(SECOND)
    kinds = [INITIATION, RESPONSE]
    assert [pair.sent(kind) for kind in kinds] == [[0], [LATENCY]]
    assert pair.keepalives(pair.a) == [ROUND_TRIP]
    assert pair.b.received == [b"hello"]
    assert [e.initiator for e in pair.a.established + pair.b.established] == [True, False]


def test_quiet_after_handshake(pair: Pair) -> None:
    pair.connect()
    for side in (pair.a, pair.b):
        side.handle_timeout(pair.now)
        assert not side.out


def test_silent_without_traffic_but_for_one_passive_keepalive(pair: Pair) -> None:
    pair.connect()
    pair.send(pair.a)
    pair.run(100 * SECOND)
    assert not pair.sent(INITIATION)
    (keepalive,) = pair.keepalives(pair.b)
    assert within(keepalive, 10 * SECOND + 4 * LATENCY, LATENCY)
    assert not pair.keepalives(pair.a)


def test_passive_keepalive_under_a_steady_one_way_stream(pair: Pair) -> None:
    """Counted from the first data that is unacknowledged, not pushed out by the next."""
    pair.connect()
    for _ in range(60):
        pair.send(pair.a)
        pair.run(SECOND)
    sent = pair.keepalives(pair.b)
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert len(gaps) == 4
    assert all(10 * SECOND <= gap <= 11 * SECOND + LATENCY for gap in gaps)
    assert not pair.sent(INITIATION)


def test_one_renewal_by_the_initiator_when_the_session_expires(pair: Pair) -> None:
    pair.connect()
    pair.run(175 * SECOND)
    assert not pair.log
    pair.run(10 * SECOND)
    (renewal,) = pair.sent(INITIATION, pair.a)
    assert within(renewal, 180 * SECOND)
    assert not pair.sent(INITIATION, pair.b)
    assert len(pair.a.established) == len(pair.b.established) == 2


def test_many_updates_make_no_duplicate_handshakes(pair: Pair) -> None:
    pair.connect()
    pair.now += 180 * SECOND
    for _ in range(20):
        for side in (pair.a, pair.b):
            side.handle_timeout(pair.now)
        pair.flush()
        pair.now += 50 * MILLISECOND
    assert len(pair.sent(INITIATION, pair.a)) == 1
    assert not pair.sent(INITIATION, pair.b)


def test_initiator_rekeys_after_two_minutes_of_use(pair: Pair) -> None:
    pair.connect()
    pair.send(pair.a)
    pair.run(119 * SECOND)
    assert not pair.sent(INITIATION)
    pair.run(3 * SECOND)
    (rekey,) = pair.sent(INITIATION, pair.a)
    assert within(rekey, 120 * SECOND)
    assert not pair.sent(INITIATION, pair.b)


def test_responder_does_not_rekey_by_age(pair: Pair) -> None:
    pair.connect()
    for _ in range(170):
        pair.send(pair.b)
        pair.run(SECOND)
    assert not pair.sent(INITIATION, pair.b)


def test_initiator_that_only_receives_rekeys_at_165_seconds(pair: Pair) -> None:
    pair.connect()
    for _ in range(164):
        pair.send(pair.b)
        pair.run(SECOND)
    assert not pair.sent(INITIATION)
    for _ in range(6):
        pair.send(pair.b)
        pair.run(SECOND)
    (rekey,) = pair.sent(INITIATION, pair.a)
    assert within(rekey, 165 * SECOND, SECOND)


def test_rekey_after_too_many_messages_in_either_role(pair: Pair) -> None:
    pair.connect()
    for side in (pair.a, pair.b):
        assert side.current is not None
        side.counters[side.current.local_index] = 1 << 60
    pair.send(pair.b)
    pair.run(11 * SECOND)
    assert len(pair.sent(INITIATION, pair.b)) == 1


def test_initiator_renews_for_a_packet_on_a_session_about_to_expire(pair: Pair) -> None:
    pair.connect()
    pair.run(171 * SECOND)
    assert not pair.a.tunnel.has_session(pair.now)
    pair.send(pair.a, b"late")
    assert len(pair.sent(INITIATION, pair.a)) == 1
    pair.run(SECOND)
    assert pair.b.received == [b"late"]


def test_responder_still_uses_a_session_about_to_expire(pair: Pair) -> None:
    pair.connect()
    pair.run(171 * SECOND)
    assert pair.b.tunnel.has_session(pair.now)
    pair.send(pair.b, b"late")
    pair.run(SECOND)
    assert not pair.sent(INITIATION, pair.b)
    assert pair.a.received == [b"late"]


def test_handshake_without_response_is_repeated_and_given_up(pair: Pair) -> None:
    pair.lost = lambda sender, message: True
    pair.send(pair.a)
    pair.run(60 * SECOND)
    sent = pair.sent(INITIATION, pair.a)
    assert sent[0] == 0
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert len(gaps) == 3
    assert all(5 * SECOND <= gap <= 5 * SECOND + JITTER for gap in gaps)
    assert len(set(gaps)) == 3, "no jitter"
    assert pair.a.events == [Expired()]
    assert pair.a.tunnel.poll_timeout(pair.a.activity) is None
    assert not pair.a.tunnel.handshake_in_progress


@pytest.mark.parametrize(("attempt", "at_most"), [(15, 3), (20, 4), (90, 18)])
def test_gives_up_on_time(attempt: int, at_most: int) -> None:
    """The time runs from the first initiation, and jitter comes on top of each five seconds."""
    pair = Pair(rekey_attempt_time=attempt * SECOND)
    pair.lost = lambda sender, message: True
    pair.send(pair.a)
    pair.run(attempt * SECOND)
    assert not pair.a.events
    assert at_most - 1 <= len(pair.sent(INITIATION)) <= at_most
    pair.a.handle_timeout(pair.now)
    assert pair.a.events == [Expired()]


def test_initiating_revives_an_expired_tunnel(pair: Pair) -> None:
    pair.lost = lambda sender, message: True
    pair.send(pair.a, b"patient")
    pair.run(60 * SECOND)
    pair.lost = lambda sender, message: False
    assert pair.a.tunnel.initiate(pair.now)
    pair.a.drain(pair.now)
    pair.run(SECOND)
    assert pair.b.received == [b"patient"]
    pair.run(300 * SECOND)
    assert pair.a.events.count(Expired()) == 1


def test_the_peer_revives_an_expired_tunnel(pair: Pair) -> None:
    pair.lost = lambda sender, message: True
    pair.send(pair.a)
    pair.run(60 * SECOND)
    pair.lost = lambda sender, message: False
    pair.connect(pair.b)
    assert pair.a.tunnel.has_session(pair.now)


def test_peer_that_vanishes_is_noticed_from_the_first_unanswered_data(pair: Pair) -> None:
    pair.connect()
    pair.lost = lambda sender, message: True
    for _ in range(16):
        pair.send(pair.a)
        pair.run(SECOND)
    (handshake,) = pair.sent(INITIATION, pair.a)
    assert within(handshake, 15 * SECOND + 4 * LATENCY)
    pair.run(21 * SECOND)
    assert pair.a.events[-1] == Expired()


def test_responder_notices_an_unanswering_peer_too(pair: Pair) -> None:
    pair.connect()
    pair.lost = lambda sender, message: True
    pair.send(pair.b)
    pair.run(16 * SECOND)
    assert len(pair.sent(INITIATION, pair.b)) == 1


def test_handshake_counts_as_an_answer_but_later_silence_is_noticed(pair: Pair) -> None:
    """The data plane's mark is older than the handshake that answered it, and stays."""
    pair.connect()
    pair.lost = lambda sender, message: isinstance(message, Data)
    pair.send(pair.a)
    pair.run(16 * SECOND)
    assert len(pair.sent(INITIATION, pair.a)) == 1
    pair.run(20 * SECOND)
    assert len(pair.sent(INITIATION, pair.a)) == 1, "nothing was sent since the handshake"
    pair.send(pair.a)
    pair.run(26 * SECOND)
    assert len(pair.sent(INITIATION, pair.a)) == 2


def test_silence_for_540_seconds_wipes(pair: Pair) -> None:
    pair.connect()
    pair.lost = lambda sender, message: True
    pair.run(539 * SECOND)
    assert not pair.b.tunnel.expired
    pair.run(2 * SECOND)
    assert pair.b.events[-1] == Expired()
    assert not pair.b.keypairs


def test_never_established_wipes_after_540_seconds(pair: Pair) -> None:
    pair.run(539 * SECOND)
    assert not pair.a.events
    pair.run(2 * SECOND)
    assert pair.a.events == pair.b.events == [Expired()]


def test_sessions_are_removed_at_180_seconds(pair: Pair) -> None:
    pair.connect()
    pair.send(pair.a)
    pair.run(125 * SECOND)
    assert len(pair.a.keypairs) == len(pair.b.keypairs) == 2
    pair.run(56 * SECOND)
    assert len(pair.a.keypairs) == len(pair.b.keypairs) == 1


def test_looks_at_the_activity_every_ten_seconds_while_there_is_a_session(pair: Pair) -> None:
    pair.connect()
    timeout = pair.a.tunnel.poll_timeout(Activity())
    assert timeout is not None
    assert timeout.reason == "look at the activity"
    assert timeout.deadline <= pair.now + 10 * SECOND


def test_passive_keepalive_that_cannot_be_sent_does_not_spin(pair: Pair) -> None:
    pair.connect()
    tunnel, now = pair.a.tunnel, pair.now
    stuck = Activity(received_any=now, received_data=now, unacknowledged_since=now)
    asked = 0
    for _ in range(100):
        timeout = tunnel.poll_timeout(stuck)
        assert timeout is not None
        now = max(now, timeout.deadline)
        if now > pair.now + 60 * SECOND:
            break
        tunnel.handle_timeout(stuck, now)
        while tunnel.poll_command() is not None:
            asked += 1
    assert asked == 6


def test_same_seed_same_jitter() -> None:
    def retries(seed: int) -> list[int]:
        pair = Pair(seed=seed)
        pair.lost = lambda sender, message: True
        pair.send(pair.a)
        pair.run(30 * SECOND)
        return pair.sent(INITIATION)

    assert retries(5) == retries(5) != retries(6)


def test_proactive_handshake_has_no_jitter_and_needs_none_in_progress(pair: Pair) -> None:
    pair.connect()
    assert pair.a.tunnel.initiate(pair.now)
    assert not pair.a.tunnel.initiate(pair.now)
    pair.a.drain(pair.now)
    pair.flush()
    assert pair.sent(INITIATION) == [pair.now - START]


def test_unsent_data_waits_for_the_handshake_in_progress(pair: Pair) -> None:
    for n in range(5):
        pair.send(pair.a, bytes([n]))
    assert len(pair.sent(INITIATION)) == 1
    pair.run(SECOND)
    assert pair.b.received == [bytes([n]) for n in range(5)]
    pair.a.tunnel.handle_unsent_data(pair.now)
    assert pair.a.tunnel.poll_transmit() is None


def test_rekeying_loses_nothing(pair: Pair) -> None:
    """Both directions, half an hour: fifteen rekeys or so and every packet arrives."""
    for n in range(1800):
        pair.send(pair.a, b"a%d" % n)
        pair.send(pair.b, b"b%d" % n)
        pair.run(SECOND)
    assert pair.b.received == [b"a%d" % n for n in range(1800)]
    assert pair.a.received == [b"b%d" % n for n in range(1800)]
    assert 14 <= len(pair.sent(INITIATION)) <= 17
    assert not pair.counters()
