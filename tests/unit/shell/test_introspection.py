"""What a program answers about itself, and how it remembers its portal."""

from __future__ import annotations

import pytest

from firezone.durations import SECOND
from firezone.errors import LocalError
from firezone.explain import PortalStatus, Status, UnknownPeerError, relay_access
from firezone.phoenix import Failed, Hiccup, Joined
from firezone.shell.introspection import Introspection, PortalWatch
from firezone.shell.status_socket import Request
from firezone.sim import World

URL = "wss://portal:443/client/websocket"


def test_the_portal_is_watched() -> None:
    watch = PortalWatch(URL, 0)
    assert watch.status(2 * SECOND) == PortalStatus(URL, False, 2.0)
    watch.handle_event(Hiccup("refused", 1), 3 * SECOND)
    assert watch.status(4 * SECOND) == PortalStatus(URL, False, 4.0, "refused")
    watch.handle_event(Joined(), 5 * SECOND)
    watch.handle_event(object(), 6 * SECOND)
    assert watch.is_joined
    assert watch.status(7 * SECOND) == PortalStatus(URL, True, 2.0, "refused")
    watch.handle_event(Failed("token_expired", True), 8 * SECOND)
    assert watch.status(9 * SECOND) == PortalStatus(URL, False, 1.0, "token_expired")


def test_questions_and_answers() -> None:
    world = World()
    now = world.clock.now
    asked = Introspection(
        role=world.client.role,
        interface="tun0",
        portal=PortalWatch(URL, now),
        counters=lambda: {"sockets": {"EPERM": 1}},
        started_at=now - 5 * SECOND,
    )
    report = asked.answer(Request("status"), world.client.dataplane, now)
    assert isinstance(report, Status)
    assert (report.interface, report.uptime_seconds) == ("tun0", 5.0)
    assert report.drops["sockets: EPERM"] == 1
    with pytest.raises(UnknownPeerError, match="there is no connection to any gateway"):
        asked.answer(Request("explain", "x"), world.client.dataplane, now)
    access = asked.answer(Request("relay-access"), world.client.dataplane, now)
    assert isinstance(access, tuple)
    assert access == relay_access(world.client.role)
    with pytest.raises(LocalError, match="nobody can say 'secrets'"):
        asked.answer(Request("secrets"), world.client.dataplane, now)
