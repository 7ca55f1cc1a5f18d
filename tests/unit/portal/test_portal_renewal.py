"""Clients are made to ask again for what a gateway does not serve them any more."""

import base64

from portal_kit import CLIENT_AGENT, CONFIG, GATEWAY_AGENT, Peer, World

from firezone.durations import MINUTE

EXPIRY = 1_790_001_000  # 2026-09-21T14:30:00Z
UNTIL = 'group = "staff"\nresource = "web"\nexpires_at = 2026-09-21T14:30:00Z\n'
EXPIRING = CONFIG.replace('group = "staff"\nresource = "web"\n', UNTIL)
AGAIN = ["resource_deleted", "resource_created_or_updated"]


def test_a_client_asks_again_for_what_a_restarted_gateway_served() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    before = world.flow(client, gateway)
    gateway.leave()
    again = gateway_with(world, b"another")
    (_, deleted), (event, created) = client.taken()
    assert deleted == created["id"] == world.id("web") and event == AGAIN[1]
    assert world.flow(client, again)["gateway_public_key"] != before["gateway_public_key"]


def test_it_is_told_once() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    again = gateway_with(world, b"another")
    assert events(client) == AGAIN
    again.leave()
    gateway_with(world, b"a third")
    assert events(client) == []


def test_a_gateway_that_only_lost_its_link_disturbs_nobody() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    gateway.leave()
    world.gateway()
    assert events(client) == []


def test_only_what_was_in_use_is_told() -> None:
    world = World()
    world.relay(), world.gateway()
    client, stranger = world.client(), world.client("bob-token")
    client.taken(), stranger.taken()
    wanted = {"resource_id": world.id("web"), "connected_gateway_ids": []}
    client.asks("create_flow", wanted)  # which the gateway never answered
    gateway_with(world, b"another")
    assert events(client) == events(stranger) == []


def test_a_client_that_was_away_hears_of_it_after_its_init() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    client.leave()
    gateway_with(world, b"another")
    assert events(world.client()) == ["init", *AGAIN]


def test_a_client_that_restarted_itself_knows_nothing_old() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    client.leave()
    gateway_with(world, b"another")
    key = {"public_key": base64.b64encode(b"new".ljust(32, b"=")).decode()}
    new = world.connect("client", "alice-token", CLIENT_AGENT, key, join=None)
    assert events(new) == ["init"]


def test_access_that_was_taken_back_stays_so() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    gateway.leave()
    world.edit('group = "staff"\nresource = "web"', 'group = "guests"\nresource = "web"')
    assert events(client) == ["resource_deleted"]
    gateway_with(world, b"another")
    assert events(client) == []


def test_a_flow_that_expired_and_is_allowed_again_is_asked_for_again() -> None:
    """The gateway ended it by itself, and goes on refusing until it hears of it anew."""
    world = World(EXPIRING)
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    world.wall = EXPIRY
    world.edit(UNTIL, UNTIL.replace("14:30", "15:30"))
    assert events(client) == AGAIN
    assert world.flow(client, gateway)
    world.advance(2 * MINUTE)
    assert events(client) == []


def test_a_flow_that_expired_for_good_is_only_deleted() -> None:
    world = World(EXPIRING)
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    world.wall = EXPIRY
    world.advance(MINUTE)
    assert events(client) == ["resource_deleted"]
    world.advance(2 * MINUTE)
    assert events(client) == []


def gateway_with(world: World, name: bytes) -> Peer:
    """The gateway, started anew with the key of that name."""
    key = {"public_key": base64.b64encode(name.ljust(32, b"=")).decode()}
    return world.connect("gateway", "gateway-token", GATEWAY_AGENT, key, join=None)


def events(peer: Peer) -> list[str]:
    return [event for event, _ in peer.taken()]
