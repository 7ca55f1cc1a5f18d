"""The relay's role: its life, its portal, its statistics."""

from __future__ import annotations

import json
import random
from ipaddress import IPv4Address

import pytest

from firezone import stun
from firezone.durations import MINUTE, SECOND
from firezone.model import Endpoint, Transmit
from firezone.phoenix import Connect, Failed, Hiccup, Inbound, Joined, LoginUrl, SendText
from firezone.phoenix.messages.relay import Init
from firezone.relay import (
    LeavePortal,
    Progress,
    RelayRole,
    RoleEvent,
    State,
    Stop,
    human_throughput,
    portal_channel,
)
from firezone.stun import Message, Method
from firezone.turn.relay import Relay
from firezone.turn.relay_auth import password_of
from firezone.turn.relay_commands import OpenSocket

NOW = 77 * SECOND
SECRET = "ab" * 32
CLIENT = Endpoint.of("203.0.113.5", 40000)
LOCAL = Endpoint.of("198.51.100.1", 3478)
USERNAME = "2000000000:salt"


@pytest.fixture
def role() -> RelayRole:
    server = Relay(
        public_ipv4=IPv4Address("198.51.100.1"),
        public_ipv6=None,
        auth_secret=SECRET,
        entropy=random.Random(5).randbytes,
        unix_now=1_790_000_000 * SECOND,
        now=NOW,
    )
    return RelayRole(server, now=NOW)


def events(role: RelayRole) -> list[RoleEvent]:
    return list(iter(role.poll_event, None))


def names(role: RelayRole) -> list[str]:
    return [e.event if isinstance(e, Progress) else type(e).__name__ for e in events(role)]


def ask(role: RelayRole, message: Message, key: bytes | None, now: int = NOW) -> Message:
    """Sends a request; opens what the relay asks for; returns the answer."""
    role.handle_client_datagram(LOCAL, CLIENT, message.encode(key), now)
    answer = None
    while (command := role.poll_command()) is not None:
        match command:
            case OpenSocket(port, family):
                role.handle_socket_opened(port, family, True, now)
            case Transmit():
                answer = stun.decode(command.payload)
    assert answer is not None
    return answer


def request(role: RelayRole, method: Method, lifetime: int, now: int = NOW) -> Message:
    message = Message.request(method, random.Random(lifetime).randbytes)
    message = message.with_(stun.REQUESTED_TRANSPORT, 17).with_(stun.LIFETIME, lifetime)
    nonce = ask(role, message, None, now).get(stun.NONCE)
    password = password_of(USERNAME, SECRET)
    assert nonce is not None and password is not None
    key = stun.long_term_key(USERNAME, "firezone", password)
    return ask(role, message.with_(stun.USERNAME, USERNAME).with_(stun.NONCE, nonce), key, now)


def test_serves_without_a_portal(role: RelayRole) -> None:
    role.handle_portal_event(Hiccup("unreachable", SECOND), NOW)
    assert request(role, Method.ALLOCATE, 600).get(stun.LIFETIME) == 600
    assert role.state is State.SERVING
    assert role.is_healthy(NOW + 60 * MINUTE)
    assert not role.is_ready


def test_health_follows_the_portal_once_it_was_reached(role: RelayRole) -> None:
    role.handle_portal_event(Joined(), NOW)
    role.handle_portal_event(Inbound(Init()), NOW)
    assert role.is_ready and role.is_healthy(NOW + 60 * MINUTE)
    role.handle_portal_event(Hiccup("gone", SECOND), NOW)
    role.handle_portal_event(Hiccup("still gone", SECOND), NOW + 5 * MINUTE)
    assert not role.is_ready
    assert role.is_healthy(NOW + 15 * MINUTE - 1)
    assert not role.is_healthy(NOW + 15 * MINUTE)
    role.handle_portal_event(Joined(), NOW + 20 * MINUTE)
    assert role.is_ready and role.is_healthy(NOW + 20 * MINUTE)


def test_terminate_without_allocations_stops_at_once(role: RelayRole) -> None:
    role.handle_terminate(NOW)
    assert names(role) == ["LeavePortal", "draining", "stopped", "Stop"]
    assert role.state is State.STOPPED


def test_terminate_waits_for_the_last_allocation(role: RelayRole) -> None:
    request(role, Method.ALLOCATE, 600)
    role.handle_terminate(NOW)
    assert names(role) == ["LeavePortal", "draining"]
    assert request(role, Method.REFRESH, 900).get(stun.LIFETIME) == 900
    assert role.state is State.DRAINING
    request(role, Method.REFRESH, 0)
    assert events(role) == [Progress("stopped", {"allocations": 0}), Stop(0)]


def test_terminate_stops_when_the_last_allocation_expires(role: RelayRole) -> None:
    request(role, Method.ALLOCATE, 30)
    role.handle_terminate(NOW)
    events(role)
    role.handle_timeout(NOW + 30 * SECOND)
    assert Stop(0) in events(role)


def test_second_terminate_stops_at_once(role: RelayRole) -> None:
    request(role, Method.ALLOCATE, 600)
    role.handle_terminate(NOW)
    role.handle_terminate(NOW)
    role.handle_terminate(NOW)
    assert names(role) == ["LeavePortal", "draining", "stopped", "Stop"]


def test_interrupt_stops_at_once(role: RelayRole) -> None:
    request(role, Method.ALLOCATE, 600)
    role.handle_interrupt(NOW)
    assert events(role) == [Progress("stopped", {"allocations": 1}), Stop(0)]


def test_ready_without_a_portal_until_it_drains(role: RelayRole) -> None:
    alone = RelayRole(role.server, has_portal=False, now=NOW)
    assert alone.is_ready and not role.is_ready
    alone.handle_terminate(NOW)
    assert not alone.is_ready


def test_draining_takes_nobody_new(role: RelayRole) -> None:
    request(role, Method.ALLOCATE, 600)
    role.handle_terminate(NOW)
    request(role, Method.REFRESH, 0)
    error = request(role, Method.ALLOCATE, 600).get(stun.ERROR_CODE)
    assert error is not None and error.code == 508


def test_refused_by_the_portal_drains_and_fails(role: RelayRole) -> None:
    request(role, Method.ALLOCATE, 600)
    role.handle_portal_event(Failed("HTTP 401", True), NOW)
    assert names(role) == ["portal_refused", "draining"]
    request(role, Method.REFRESH, 0)
    assert events(role) == [Progress("stopped", {"allocations": 0}), Stop(1)]


def test_statistics_are_told_when_they_changed(role: RelayRole) -> None:
    timeout = role.poll_timeout()
    assert timeout is not None and timeout.deadline == NOW + 10 * SECOND
    role.handle_timeout(NOW + 10 * SECOND)
    assert events(role) == []
    request(role, Method.ALLOCATE, 600)
    role.handle_relayed(12_500_000)
    role.handle_timeout(NOW + 20 * SECOND)
    [told] = events(role)
    assert isinstance(told, Progress)
    assert told.fields == {
        "allocations": 1,
        "channels": 0,
        "throughput": "10.00 Mbit/s",
        "relayed_bytes": 12_500_000,
    }
    role.handle_timeout(NOW + 30 * SECOND)
    assert events(role) == []


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0, "0.00 bit/s"),
        (999, "999.00 bit/s"),
        (1000, "1.00 kbit/s"),
        (1_500_000, "1.50 Mbit/s"),
        (42_000_000_000, "42.00 Gbit/s"),
        (1_230_000_000_000, "1.23 Tbit/s"),
    ],
)
def test_throughput_for_people(bits: int, text: str) -> None:
    assert human_throughput(bits) == text


def test_channel_joins_with_the_stamp_secret() -> None:
    url = LoginUrl.relay("ws://portal", "token", ipv4=IPv4Address("198.51.100.1"))
    channel = portal_channel(url, SECRET, entropy=random.Random(1).randbytes, now=NOW)
    channel.connect({}, NOW)
    connect = channel.poll_action()
    assert isinstance(connect, Connect)
    assert dict(connect.headers)["User-Agent"].startswith("relay/")
    channel.handle_connected(NOW)
    join = channel.poll_action()
    assert isinstance(join, SendText)
    frame = json.loads(join.text)
    assert (frame["topic"], frame["event"]) == ("relay", "phx_join")
    assert frame["payload"] == {"stamp_secret": SECRET}
    assert SECRET not in repr(join)


def test_leaving_is_told_once(role: RelayRole) -> None:
    role.handle_terminate(NOW)
    assert events(role).count(LeavePortal()) == 1
