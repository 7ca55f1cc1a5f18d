"""Access that is taken back ends, whatever else goes wrong at that moment."""

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from portal_kit import TOKEN_END, Peer, World

from firezone.durations import MINUTE, SECOND
from firezone.portal.flows import SETTLED_SECONDS

ALLOWED, TAKEN = 'group = "staff"\nresource = "web"', 'group = "guests"\nresource = "web"'


def test_a_gateway_that_was_gone_unnoticed_hears_of_it_when_it_is_back() -> None:
    """Its link was dead already, so nothing that was sent on it has arrived."""
    world, gateway, _ = flowing()
    world.edit(ALLOWED, TAKEN)
    gateway.taken()  # lost on the way
    again = world.gateway()
    assert events(again) == ["init", "reject_access"]
    last = world.gateway()
    assert events(last) == ["init", "reject_access"]


def test_a_revoked_flow_outlives_the_portal() -> None:
    world, _, _ = flowing()
    world.edit(ALLOWED, TAKEN)
    world.restart()
    assert events(world.gateway()) == ["init", "reject_access"]


def test_a_revoked_flow_links_nobody() -> None:
    world, gateway, client = flowing()
    world.edit(ALLOWED, TAKEN)
    gateway.taken(), client.taken()
    client.asks("broadcast_ice_candidates", {"gateway_ids": [gateway.id], "candidates": ["c"]})
    gateway.asks("broadcast_ice_candidates", {"client_ids": [client.id], "candidates": ["c"]})
    assert gateway.taken() == client.taken() == []


def test_it_is_forgotten_when_it_would_have_ended() -> None:
    world, _, _ = flowing()
    world.edit(ALLOWED, TAKEN)
    world.wall = TOKEN_END
    world.advance(MINUTE)
    assert world.store.flows("acme") == []


def test_it_is_forgotten_once_its_gateway_has_heard_for_certain() -> None:
    world, _, _ = flowing()
    world.edit(ALLOWED, TAKEN)
    again = world.gateway()
    world.wall += SETTLED_SECONDS - 1
    world.advance(MINUTE)
    assert [flow.revoked for flow in world.store.flows("acme")] == [True]
    world.wall += 1
    world.advance(MINUTE)
    assert world.store.flows("acme") == []
    again.leave()
    assert events(world.gateway()) == ["init"]


def test_a_gateway_that_is_away_is_waited_for() -> None:
    world, gateway, _ = flowing()
    gateway.leave()
    world.edit(ALLOWED, TAKEN)
    world.wall += 2 * SETTLED_SECONDS
    world.advance(MINUTE)
    again = world.gateway()
    assert events(again) == ["init", "reject_access"]


def test_access_that_is_given_again_is_not_taken_back_at_the_next_reconnect() -> None:
    world, gateway, client = flowing()
    world.edit(ALLOWED, TAKEN)
    world.edit(TAKEN, ALLOWED)
    assert world.flow(client, gateway)
    assert events(world.gateway()) == ["init", "resource_updated"]


# A store that cannot be written.


def test_a_full_disk_stops_no_revocation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world, gateway, client = flowing()
    other = world.client("bob-token")
    world.edit('group = "guests"\nresource = "vault"', 'group = "guests"\nresource = "web"')
    world.flow(other, gateway)
    client.taken(), gateway.taken()
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "put_flow", fails())
        world.edit('resource = "web"\n#web', 'resource = "bench"\n#web')
        assert events(gateway) == ["reject_access"]
        assert events(client) == ["resource_deleted"]
        world.advance(MINUTE)
        again = world.gateway()
        assert "reject_access" in events(again)
    assert [r.levelname for r in caplog.records].count("ERROR") >= 1
    assert [flow.revoked for flow in world.store.flows("acme")] == [False, False]
    world.advance(MINUTE)
    assert sorted(flow.revoked for flow in world.store.flows("acme")) == [False, True]


def test_the_store_is_tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _, _ = flowing()
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "put_flow", fails())
        world.edit(ALLOWED, TAKEN)
    assert world.portal.poll_timeout().reason == "store"
    world.advance(5 * SECOND)
    assert [flow.revoked for flow in world.store.flows("acme")] == [True]
    assert world.portal.poll_timeout().reason == "recompute"


def test_a_known_peer_comes_back_although_nothing_can_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, gateway, _ = flowing()
    monkeypatch.setattr(world.store, "_transaction", fails())
    assert world.gateway().id == gateway.id


def flowing() -> tuple[World, Peer, Peer]:
    """A portal, a gateway and a client, with a flow."""
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    return world, gateway, client


def events(peer: Peer) -> list[str]:
    return [event for event, _ in peer.taken()]


def fails() -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    return fail
