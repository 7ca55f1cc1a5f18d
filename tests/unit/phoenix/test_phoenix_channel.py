import json
from collections.abc import Iterator
from typing import Any

import pytest

from firezone.durations import HOUR, MILLISECOND, MINUTE, SECOND
from firezone.phoenix import (
    Channel,
    Close,
    Closed,
    Connect,
    Connected,
    Failed,
    Hiccup,
    Inbound,
    Joined,
    LoginUrl,
    SendText,
)
from firezone.phoenix.messages import client
from firezone.phoenix.server import JoinRequested, Requested, ServerChannel

URL = LoginUrl.client("ws://portal.example:8080", "s3cret", device_id="d", name="n")
START = 1_000 * SECOND


def test_join_comes_first_and_a_queued_message_waits_for_its_answer() -> None:
    peer = Peer()
    peer.channel.send("create_flow", {"a": 1}, START)
    peer.channel.connect({"public_key": "KEY="}, START)
    [attempt] = peer.actions()
    assert isinstance(attempt, Connect)
    assert attempt.url.text.endswith("&public_key=KEY%3D")

    peer.channel.handle_connected(START)
    [join] = peer.sent()
    assert join == {"topic": "client", "event": "phx_join", "payload": None, "ref": 1}

    peer.ok(1)
    [message] = peer.sent()
    assert message == {"topic": "client", "event": "create_flow", "payload": {"a": 1}, "ref": 0}
    assert peer.events() == [Connected(), Joined()]


def test_the_answer_to_a_join_may_name_another_topic() -> None:
    peer = Peer.connected()
    peer.reply(0, {"status": "ok", "response": {}}, topic="elsewhere")
    assert peer.channel.is_joined


@pytest.mark.parametrize("response", [None, {"extra": 1}])
def test_an_answer_that_is_not_plain_leaves_the_join_pending(response: object) -> None:
    peer = Peer.connected()
    peer.reply(0, {"status": "ok", "response": response})
    assert not peer.channel.is_joined


def test_an_unanswered_join_reconnects() -> None:
    peer = Peer.connected()
    peer.events()
    timeout = peer.channel.poll_timeout()
    assert timeout is not None and timeout.deadline == START + 5 * SECOND
    peer.channel.handle_timeout(timeout.deadline)
    assert peer.events() == [Hiccup("the portal does not answer our join", 0)]


def test_messages_reach_the_role_and_bad_ones_are_counted() -> None:
    peer = Peer.joined()
    peer.says("resource_deleted", "0d7d2a3e-0000-4000-8000-000000000001")
    peer.says("resource_deleted", {"not": "an id"})
    peer.says("never_heard", {})
    assert peer.events() == [
        Inbound(client.ResourceDeleted(client.ResourceId("0d7d2a3e-0000-4000-8000-000000000001")))
    ]
    assert peer.channel.counters["unreadable_message"] == 2


def test_half_a_message_reconnects_and_nonsense_does_not() -> None:
    peer = Peer.joined()
    peer.channel.handle_text("[1]", START)
    assert peer.events() == []
    peer.channel.handle_text("", START)
    assert peer.events() == [Hiccup("the portal sent half a message", 0)]


def test_phx_close_reconnects_phx_error_and_replies_without_ref_do_not() -> None:
    peer = Peer.joined()
    peer.says("phx_error", {})
    peer.reply(None, {"status": "ok", "response": {}})
    assert peer.events() == []
    peer.says("phx_close", {})
    assert peer.events() == [Hiccup("the portal closed the channel", 0)]


def test_token_expired_is_the_end_and_another_disconnect_is_not() -> None:
    peer = Peer.joined()
    peer.says("disconnect", {"reason": "maintenance"})
    assert peer.events() == []
    peer.says("disconnect", {"reason": "token_expired"})
    assert peer.events() == [Failed("token_expired", True)]
    assert peer.channel.poll_timeout() is None


@pytest.mark.parametrize("reason", ["invalid_version", "disabled", "bad cheese"])
def test_a_refused_join_is_fatal_but_no_matter_of_authentication(reason: str) -> None:
    peer = Peer.connected()
    peer.events()
    peer.reply(0, {"status": "error", "response": {"reason": reason}})
    assert peer.events() == [Failed(f"the portal refused our join: {reason}", False)]


def test_unmatched_topic_joins_again() -> None:
    peer = Peer.joined()
    peer.channel.send("create_flow", {}, START)
    peer.sent()
    peer.reply(1, {"status": "error", "response": {"reason": "unmatched topic"}})
    assert [m["event"] for m in peer.sent()] == ["phx_join"]
    peer.channel.send("create_flow", {"b": 1}, START)
    assert peer.sent() == []
    peer.ok(2)
    assert [m["ref"] for m in peer.sent()] == [3]


def test_an_unknown_error_reply_is_only_counted() -> None:
    peer = Peer.joined()
    peer.reply(44, {"status": "error", "response": {"reason": "unknown_message"}})
    assert peer.events() == [] and peer.channel.counters["error_reply"] == 1


def test_the_queue_survives_a_reconnect() -> None:
    peer = Peer.connected()
    peer.channel.send("create_flow", {}, START)
    peer.channel.handle_disconnected("reset", START)
    peer.channel.handle_timeout(START)
    peer.channel.handle_connected(START)
    peer.actions()
    peer.ok(2)
    assert [m["ref"] for m in peer.sent()] == [1]


def test_a_queue_that_grew_too_long_is_dropped_as_a_whole() -> None:
    peer = Peer()
    for n in range(33):
        peer.channel.send("e", n, START)
    peer.channel.send("e", 33, START)
    peer.channel.connect({}, START)
    peer.channel.handle_connected(START)
    peer.actions()
    peer.ok(34)
    assert [m["payload"] for m in peer.sent()] == [33]


def test_a_message_that_waits_already_is_not_queued_twice() -> None:
    peer = Peer.connected()
    peer.actions()
    peer.channel.send("e", {"a": 1}, START)
    peer.channel.send("e", {"a": 1}, START)
    peer.ok(0)
    assert len(peer.sent()) == 1


def test_heartbeats_and_the_fifth_that_is_due_unanswered_reconnects() -> None:
    peer = Peer.joined()
    now = START
    for _ in range(4):
        now += 10 * SECOND
        peer.channel.handle_timeout(now)
        [beat] = peer.sent()
        assert (beat["topic"], beat["event"], beat["payload"]) == ("phoenix", "heartbeat", {})
    assert peer.events() == []
    peer.channel.handle_timeout(now + 10 * SECOND)
    assert peer.events() == [Hiccup("the portal does not answer our heartbeats", 0)]


def test_answered_heartbeats_go_on_for_ever() -> None:
    peer = Peer.joined()
    for n in range(1, 20):
        peer.channel.handle_timeout(START + n * 10 * SECOND)
        [beat] = peer.sent()
        peer.reply(beat["ref"], {"status": "ok", "response": {}}, topic="phoenix")
    assert peer.events() == []


def test_no_heartbeat_while_the_join_is_unanswered() -> None:
    peer = Peer.connected()
    timeout = peer.channel.poll_timeout()
    assert timeout is not None and timeout.reason == "join unanswered"


def test_the_first_retry_is_immediate_then_delays_grow_by_half_up_to_a_minute() -> None:
    peer = Peer(entropy=lambda n: bytes(n))
    peer.channel.connect({}, START)
    delays = list(peer.failures(16))
    assert delays[0] == 0
    assert delays[1:4] == [250 * MILLISECOND, 375 * MILLISECOND, 562_500_000]
    assert delays[-1] == 30 * SECOND


@pytest.mark.parametrize("byte", [b"\x00", b"\x7f", b"\xff"])
def test_the_jitter_is_half_of_the_interval(byte: bytes) -> None:
    peer = Peer(entropy=lambda n: byte * n)
    peer.channel.connect({}, START)
    _, second, *_ = peer.failures(3)
    assert 250 * MILLISECOND <= second <= 750 * MILLISECOND


def test_a_joined_channel_has_a_fresh_budget_and_backoff() -> None:
    peer = Peer()
    peer.channel.connect({}, START)
    list(peer.failures(5))
    peer.channel.handle_connected(START)
    peer.actions()
    peer.ok(0)
    peer.events()
    peer.channel.handle_disconnected("reset", START + HOUR)
    assert peer.events() == [Hiccup("reset", 0)]


def test_a_spent_budget_is_the_end() -> None:
    peer = Peer(max_elapsed=15 * MINUTE)
    peer.channel.connect({}, START)
    elapsed = sum(peer.failures(100))
    assert 13 * MINUTE < elapsed <= 15 * MINUTE
    assert peer.last == Failed("gave up connecting to the portal: refused", False)


@pytest.mark.parametrize(
    ("status", "authentication"), [(401, True), (403, True), (404, False), (422, False)]
)
def test_a_refusal_is_the_end(status: int, authentication: bool) -> None:
    peer = Peer()
    peer.channel.connect({}, START)
    peer.channel.handle_http_error(status, " go away\n", None, START)
    assert peer.events() == [
        Failed(f"the portal refused us: HTTP {status}: go away", authentication)
    ]


@pytest.mark.parametrize("status", [301, 408, 429, 500, 502, 503])
def test_what_may_heal_is_tried_again(status: int) -> None:
    """429 asks for patience; to die of it would be a mistake, though the original does."""
    peer = Peer()
    peer.channel.connect({}, START)
    peer.channel.handle_http_error(status, "", None, START)
    assert peer.events() == [Hiccup(f"HTTP {status}", 0)]


def test_retry_after_wins_when_it_is_longer_but_not_for_ever() -> None:
    peer = Peer()
    peer.channel.connect({}, START)
    peer.channel.handle_http_error(503, "", 7 * SECOND, START)
    assert peer.events() == [Hiccup("HTTP 503", 7 * SECOND)]
    peer.channel.handle_timeout(START + 7 * SECOND)
    peer.channel.handle_http_error(503, "", 10**30, START)
    assert peer.events() == [Hiccup("HTTP 503", HOUR)]


def test_an_untrusted_certificate_is_the_end() -> None:
    peer = Peer()
    peer.channel.connect({}, START)
    peer.channel.handle_untrusted("self-signed", START)
    assert peer.events() == [Failed("the portal's certificate is not trusted: self-signed", False)]


def test_connect_twice_to_the_same_url_is_one_attempt() -> None:
    peer = Peer()
    peer.channel.connect({"public_key": "A"}, START)
    peer.channel.connect({"public_key": "A"}, START)
    assert len(peer.actions()) == 1
    peer.channel.connect({"public_key": "B"}, START)
    [attempt] = peer.actions()
    assert isinstance(attempt, Connect) and "public_key=B" in attempt.url.text


def test_connect_replaces_a_live_connection_and_clears_the_backoff() -> None:
    peer = Peer()
    peer.channel.connect({}, START)
    list(peer.failures(4))
    peer.channel.connect({"public_key": "B"}, START)
    peer.actions()
    peer.channel.handle_disconnected("reset", START)
    assert peer.events() == [Hiccup("reset", 0)]


def test_close_is_final_until_the_next_connect() -> None:
    peer = Peer.joined()
    peer.channel.close(START)
    assert peer.actions() == [Close()]
    assert peer.events() == [Closed()]
    peer.channel.handle_disconnected("gone", START)
    peer.says("init", {})
    assert peer.events() == [] and peer.channel.poll_timeout() is None
    peer.channel.connect({}, START)
    assert isinstance(peer.actions()[0], Connect)


def test_the_token_is_in_no_repr() -> None:
    peer = Peer()
    peer.channel.connect({}, START)
    assert "s3cret" not in repr(peer.actions()) + repr(URL)


def test_both_sides_understand_each_other() -> None:
    peer, server = Peer.connected(), ServerChannel("client")
    [join] = peer.raw()
    asked = server.handle_text(join)
    assert isinstance(asked, JoinRequested)
    server.push("init", {"too": "early"})
    server.accept_join(asked.frame)
    server.push("resource_deleted", "0d7d2a3e-0000-4000-8000-000000000001")
    while (text := server.poll_text()) is not None:
        peer.channel.handle_text(text, START)
    assert [type(e) for e in peer.events()] == [Connected, Joined, Inbound]

    peer.channel.send("create_flow", {"x": 1}, START)
    [request] = peer.raw()
    requested = server.handle_text(request)
    assert isinstance(requested, Requested) and requested.frame.payload == {"x": 1}


def test_the_server_refuses_what_was_not_joined() -> None:
    server = ServerChannel("client")
    for text in (
        '{"topic":"client","event":"create_flow","payload":{},"ref":3}',
        '{"topic":"gateway","event":"phx_join","payload":{},"ref":4}',
    ):
        assert server.handle_text(text) is None
        answer = json.loads(server.poll_text() or "")
        assert answer["payload"] == {"status": "error", "response": {"reason": "unmatched topic"}}


def test_the_server_counts_what_is_no_message() -> None:
    server = ServerChannel("client")
    for text in ("", "{", '{"topic":"client","event":"phx_join","payload":null}', b"\xff"):
        assert server.handle_text(text) is None
    assert server.poll_text() is None
    assert server.counters == {"malformed_frame": 3, "no_ref": 1}


class Peer:
    """A channel with the portal played by the test."""

    def __init__(self, max_elapsed: int | None = None, entropy: Any = lambda n: b"\x80" * n):
        self.channel = Channel(
            url=URL,
            topic="client",
            join_payload=None,
            decode=client.decode,
            max_elapsed=max_elapsed,
            entropy=entropy,
            now=START,
        )
        self.last: object = None

    @classmethod
    def connected(cls) -> "Peer":
        peer = cls()
        peer.channel.connect({}, START)
        peer.actions()
        peer.channel.handle_connected(START)
        return peer

    @classmethod
    def joined(cls) -> "Peer":
        peer = cls.connected()
        peer.ok(0)
        peer.actions()
        peer.events()
        return peer

    def failures(self, count: int) -> Iterator[int]:
        """The delays that so many failures in a row lead to."""
        now = START
        for _ in range(count):
            self.channel.handle_disconnected("refused", now)
            *_, self.last = self.events()
            if not isinstance(self.last, Hiccup):
                return
            yield self.last.delay
            now += self.last.delay
            self.channel.handle_timeout(now)
            assert isinstance(self.actions()[-1], Connect)

    def reply(self, ref: int | None, payload: object, topic: str = "client") -> None:
        frame = {"event": "phx_reply", "topic": topic, "ref": ref, "payload": payload}
        self.channel.handle_text(json.dumps(frame), START)

    def ok(self, ref: int) -> None:
        self.reply(ref, {"status": "ok", "response": {}})

    def says(self, event: str, payload: object) -> None:
        frame = {"event": event, "topic": "client", "ref": None, "payload": payload}
        self.channel.handle_text(json.dumps(frame), START)

    def actions(self) -> list[object]:
        return list(iter(self.channel.poll_action, None))

    def raw(self) -> list[str]:
        return [action.text for action in self.actions() if isinstance(action, SendText)]

    def sent(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.raw()]

    def events(self) -> list[object]:
        return list(iter(self.channel.poll_event, None))
