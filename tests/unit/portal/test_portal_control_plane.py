"""The portal over scripted peers and a made-up clock: who is let in, and what each is told."""

import logging
from typing import Any

import pytest
from portal_kit import CLIENT_AGENT, CONFIG, TOKEN_END, WALL, World

from firezone.durations import MINUTE, SECOND
from firezone.phoenix.messages import client as client_messages
from firezone.phoenix.messages import gateway as gateway_messages
from firezone.portal.admission import Refusal
from firezone.portal.tokens import token_hash

ONLY_HOME = """\
[[policies.conditions]]
property = "remote_ip"
operator = "is_in_cidr"
values = ["198.51.100.0/24"]
"""


def test_the_whole_sequence_of_a_flow() -> None:
    world = World()
    relay, gateway, client = world.relay(), world.gateway(), world.client()
    assert relay.takes("init") == {}

    init = client.takes("init")
    assert isinstance(client_messages.decode("init", init), client_messages.Init)
    assert [r["name"] for r in init["resources"]] == ["web", "bench"]
    [turn] = init["relays"]
    assert turn["expires_at"] == TOKEN_END and turn["addr"] == "203.0.113.5:3478"
    greeting = gateway.takes("init")
    assert isinstance(gateway_messages.decode("init", greeting), gateway_messages.Init)
    assert greeting["relays"][0]["expires_at"] == WALL + 90 * 86400
    assert greeting["authorizations"] == [] and greeting["account_slug"] == "acme"

    client.asks("create_flow", {"resource_id": world.id("web"), "connected_gateway_ids": []})
    assert client.taken() == []
    demand = gateway.takes("authorize_flow")
    decoded = gateway_messages.decode("authorize_flow", demand)
    assert isinstance(decoded, gateway_messages.AuthorizeFlow)
    assert decoded.expires_at == TOKEN_END
    assert demand["resource"]["filters"] == [
        {"protocol": "tcp", "port_range_start": 443, "port_range_end": 443},
        {"protocol": "tcp", "port_range_start": 8000, "port_range_end": 8100},
        {"protocol": "icmp"},
    ]

    answer = gateway.asks("flow_authorized", {"ref": demand["ref"]})
    assert answer["payload"] == {"status": "ok", "response": {}}
    created = client.takes("flow_created")
    flow = client_messages.decode("flow_created", created)
    assert isinstance(flow, client_messages.FlowCreated)
    assert flow.preshared_key == decoded.client.preshared_key
    assert (flow.client_ice, flow.gateway_ice) == (decoded.client_ice, decoded.gateway_ice)
    assert str(flow.gateway_ipv4) == greeting["interface"]["ipv4"]
    assert str(decoded.client.ipv4) == init["interface"]["ipv4"]

    candidates = {"candidates": ["candidate:1"]}
    for ours, theirs in (
        ("broadcast_ice_candidates", "ice_candidates"),
        ("broadcast_invalidated_ice_candidates", "invalidate_ice_candidates"),
    ):
        client.asks(ours, {"gateway_ids": [created["gateway_id"]], **candidates})
        assert gateway.takes(theirs) == {"client_id": demand["client"]["id"], **candidates}
        gateway.asks(ours, {"client_ids": [demand["client"]["id"]], **candidates})
        assert client.takes(theirs) == {"gateway_id": created["gateway_id"], **candidates}


def test_a_repeated_request_gets_the_same_values() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    gateway.taken()
    first, again = (world.flow(client, gateway) for _ in range(2))
    assert first == again


def test_only_the_first_answer_to_a_repeated_request_counts() -> None:
    world = World()
    world.relay()
    gateway, client = world.gateway(), world.client()
    gateway.taken(), client.taken()
    wanted = {"resource_id": world.id("web"), "connected_gateway_ids": []}
    client.asks("create_flow", wanted)
    client.asks("create_flow", wanted)
    first, second = [payload["ref"] for _, payload in gateway.taken()]
    assert gateway.asks("flow_authorized", {"ref": first})["payload"]["status"] == "ok"
    assert client.takes("flow_created")
    for ref in (first, second):
        answer = gateway.asks("flow_authorized", {"ref": ref})
        assert answer["payload"]["response"] == {"reason": "invalid_ref"}
    assert client.taken() == []


def test_a_flow_is_authorized_when_its_gateway_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "firezone.portal.flows")
    world = World()
    world.relay()
    gateway, client = world.gateway(), world.client()
    gateway.taken()
    client.asks("create_flow", {"resource_id": world.id("web"), "connected_gateway_ids": []})
    assert [record.getMessage() for record in caplog.records] == ["flow requested"]
    gateway.asks("flow_authorized", {"ref": gateway.takes("authorize_flow")["ref"]})
    assert [record.getMessage() for record in caplog.records][1:] == ["flow authorized"]


def test_a_made_up_ref_is_refused() -> None:
    world = World()
    gateway = world.gateway()
    answer = gateway.asks("flow_authorized", {"ref": "guess"})
    assert answer["payload"] == {"status": "error", "response": {"reason": "invalid_ref"}}


def test_why_there_is_no_flow() -> None:
    world = World(CONFIG.replace("#web\n", ONLY_HOME))
    client = world.client()
    client.taken()

    def reason(resource_id: str) -> dict[str, Any]:
        client.asks("create_flow", {"resource_id": resource_id, "connected_gateway_ids": []})
        failed = client.takes("flow_creation_failed")
        assert failed.pop("resource_id") == resource_id
        return failed

    assert reason(world.id("vault")) == {"reason": "not_found"}
    world.relay()
    client.taken()
    assert reason("no such thing") == {"reason": "not_found"}
    assert reason(world.id("nowhere")) == {"reason": "not_found"}
    assert reason(world.id("bench")) == {"reason": "offline"}
    assert reason(world.id("web")) == {"reason": "forbidden", "violated_properties": ["remote_ip"]}


def test_a_gateway_of_an_old_version_is_not_found() -> None:
    world = World()
    world.relay()
    world.gateway(agent="x connlib/1.3.0")
    client = world.client()
    client.taken()
    client.asks("create_flow", {"resource_id": world.id("web"), "connected_gateway_ids": []})
    assert client.takes("flow_creation_failed")["reason"] == "not_found"


def test_candidates_pass_only_between_the_ends_of_a_flow() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    id = gateway.id
    gateway.taken()
    client.asks("broadcast_ice_candidates", {"gateway_ids": [id], "candidates": ["c"]})
    assert gateway.taken() == []


def test_a_message_of_candidates_is_of_limited_size() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    most = {"gateway_ids": [gateway.id] * 32, "candidates": ["c" * 256] * 64}
    for change in (
        {"gateway_ids": [gateway.id] * 33},
        {"gateway_ids": [gateway.id, "x" * 65]},
        {"candidates": ["c"] * 65},
        {"candidates": ["c" * 257]},
        {"candidates": [{}]},
    ):
        client.asks("broadcast_ice_candidates", most | change)
    assert gateway.taken() == []
    assert world.portal.counters["malformed ClientCandidates"] == 5
    client.asks("broadcast_ice_candidates", most)
    assert gateway.takes("ice_candidates")["candidates"] == most["candidates"]
    gateway.asks("broadcast_ice_candidates", {"client_ids": [client.id] * 33, "candidates": []})
    assert client.taken() == []
    assert world.portal.counters["malformed GatewayCandidates"] == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"token": "wrong"}, 401),
        ({"token": None}, 401),
        ({"token": "gateway-token"}, 401),
        ({"token": "x" * 5000}, 401),
        ({"external_id": None}, 422),
        ({"external_id": "x" * 256}, 422),
        ({"public_key": None}, 422),
        ({"public_key": "AAAA"}, 422),
        ({"public_key": "é" * 44}, 422),
    ],
)
def test_who_is_refused(change: dict[str, str | None], status: int) -> None:
    outcome = World().admit("client", "alice-token", CLIENT_AGENT, change)
    assert isinstance(outcome, Refusal) and outcome.status == status


@pytest.mark.parametrize("agent", ["", "curl/8", "connlib/1", "xconnlib/1.2.3", "connlib/a.b.c"])
def test_a_user_agent_without_version_is_refused(agent: str) -> None:
    outcome = World().admit("client", "alice-token", agent)
    assert isinstance(outcome, Refusal) and outcome.status == 422


def test_relays_without_address_are_refused() -> None:
    world = World()
    for change in ({"ipv4": None}, {"ipv4": "x"}, {"port": "0"}, {"port": "http"}):
        outcome = world.admit("relay", "relay-token", "relay/0.1.0", change)
        assert isinstance(outcome, Refusal) and outcome.status == 422


def test_a_disabled_account_and_actor_are_forbidden() -> None:
    for old, new in (
        ('slug = "acme"', 'slug = "acme"\ndisabled = true'),
        ('groups = ["staff"]', 'groups = ["staff"]\ndisabled = true'),
    ):
        outcome = World(CONFIG.replace(old, new)).admit("client", "alice-token", CLIENT_AGENT)
        assert isinstance(outcome, Refusal) and outcome.status == 403


def test_an_expired_token_is_refused_and_closes_its_connection() -> None:
    world = World()
    client = world.client()
    world.wall = TOKEN_END
    world.advance(61 * SECOND)
    assert client.is_closed
    outcome = world.admit("client", "alice-token", CLIENT_AGENT)
    assert isinstance(outcome, Refusal) and outcome.status == 401


def test_what_a_peer_may_not_say() -> None:
    world = World()
    client = world.client()
    assert client.asks("flow_authorized", {"ref": "x"})["payload"]["response"] == {
        "reason": "unknown_message"
    }
    client.taken()
    for payload in (None, {}, {"resource_id": 5}, [], {"resource_id": "x"}):
        client.asks("create_flow", payload)
    assert client.taken() == []
    assert world.portal.counters["malformed CreateFlow"] == 5


# Changes of the file.


def test_a_policy_removed_takes_the_access_back() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    world.edit('group = "staff"\nresource = "web"', 'group = "guests"\nresource = "web"')
    assert client.taken() == [("resource_deleted", world.id("web"))]
    assert gateway.takes("reject_access") == {
        "client_id": client.id,
        "resource_id": world.id("web"),
    }
    world.edit('group = "guests"\nresource = "web"', 'group = "staff"\nresource = "web"')
    assert client.takes("resource_created_or_updated")["id"] == world.id("web")
    assert gateway.taken() == []


def test_another_policy_that_covers_the_pair_changes_the_expiry_only() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    world.edit("#web\n", "expires_at = 2026-12-01T00:00:00Z\n")
    assert client.taken() == []
    assert gateway.takes("access_authorization_expiry_updated") == {
        "client_id": client.id,
        "resource_id": world.id("web"),
        "expires_at": 1796083200,
    }


def test_changed_filters_reach_the_gateways_in_use() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    gateway.taken()
    world.edit("tcp/443", "tcp/80")
    assert gateway.taken() == [] and client.takes("init")
    world.flow(client, gateway)
    world.edit('"tcp/80"', '"udp/53"')
    updated = gateway.takes("resource_updated")
    assert updated["filters"][0] == {
        "protocol": "udp",
        "port_range_start": 53,
        "port_range_end": 53,
    }
    assert client.taken() == []


def test_another_address_ends_the_flows() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    world.edit("10.0.0.0/24", "10.0.9.0/24")
    assert client.takes("resource_created_or_updated")["address"] == "10.0.9.0/24"
    assert gateway.takes("reject_access")


def test_other_sites_are_told_as_deletion_and_creation() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    world.edit(
        'address = "10.0.0.0/24"\nsites = ["office"]', 'address = "10.0.0.0/24"\nsites = ["lab"]'
    )
    assert [event for event, _ in client.taken()] == [
        "resource_deleted",
        "resource_created_or_updated",
    ]
    assert gateway.takes("reject_access")


def test_another_dns_server_is_a_changed_config() -> None:
    world = World()
    client, gateway = world.client(), world.gateway()
    client.taken(), gateway.taken()
    world.edit('slug = "acme"', 'slug = "acme"\nupstream_dns = ["9.9.9.9"]')
    interface = client.takes("config_changed")["interface"]
    assert interface["upstream_dns"] == [{"protocol": "ip_port", "address": "9.9.9.9:53"}]
    assert gateway.taken() == []


def test_a_removed_token_closes_its_connections_and_takes_the_access_back() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    world.edit(token_hash("alice-token"), token_hash("another"))
    assert client.is_closed and not gateway.is_closed
    assert gateway.takes("reject_access")["client_id"] == client.id
    outcome = world.admit("client", "alice-token", CLIENT_AGENT)
    assert isinstance(outcome, Refusal) and outcome.status == 401
    client.asks("create_flow", {"resource_id": world.id("web"), "connected_gateway_ids": []})
    assert gateway.taken() == []


def test_a_time_window_that_closes_takes_the_access_back() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.edit("#web\n", "expires_at = 2026-09-21T15:00:00Z\n")
    world.flow(client, gateway)
    world.wall = 1_790_010_000
    world.advance(MINUTE)
    assert client.takes("resource_deleted") == world.id("web")
    assert gateway.taken() == []  # it was told when to stop


def test_a_client_that_comes_back_from_elsewhere_is_judged_by_where_it_is_now() -> None:
    world = World(CONFIG.replace("#web\n", ONLY_HOME.replace("198.51.100", "192.0.2")))
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    client.leave()
    world.remote = "198.51.100.9"
    client = world.client()
    assert gateway.takes("reject_access")["client_id"] == client.id
    assert [r["name"] for r in client.takes("init")["resources"]] == ["bench"]


# Gateways that were away.


def test_a_gateway_that_reconnects_hears_of_its_authorizations() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    gateway.leave()
    world.edit("tcp/443", "tcp/80")
    gateway = world.gateway()
    assert gateway.takes("init")["authorizations"] == [
        {
            "client_id": client.id,
            "resource_id": world.id("web"),
            "expires_at": TOKEN_END,
        }
    ]


def test_a_gateway_that_was_away_gets_revocations_and_filters_afterwards() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    world.flow(client, gateway)
    gateway.leave()
    world.edit("tcp/443", "tcp/80")
    again = world.gateway()
    (event, _), (update, resource) = again.taken()
    assert (event, update) == ("init", "resource_updated")
    assert resource["filters"][0]["port_range_start"] == 80
    again.leave()
    world.edit('group = "staff"\nresource = "web"', 'group = "guests"\nresource = "web"')
    last = world.gateway()
    (event, init), (revoked, pair) = last.taken()
    assert (event, revoked) == ("init", "reject_access")
    assert init["authorizations"] == [] and pair["client_id"] == client.id


def test_a_portal_that_restarts_remembers_peers_and_flows() -> None:
    world = World()
    gateway, client = world.gateway(), world.client()
    before = world.flow(client, gateway)
    world.restart()
    world.edit('group = "staff"\nresource = "web"', 'group = "guests"\nresource = "web"')
    again = world.gateway()
    assert [event for event, _ in again.taken()] == ["init", "reject_access"]
    world.edit('group = "guests"\nresource = "web"', 'group = "staff"\nresource = "web"')
    assert world.flow(world.client(), again) == before


def test_a_peer_that_reconnects_replaces_its_old_connection() -> None:
    world = World()
    old = world.client()
    new = world.client()
    assert old.is_closed and not new.is_closed
    assert new.id == old.id
    old.leave()
    assert world.flow(new, world.gateway())


# Relays.


def test_peers_without_relays_are_told_of_the_first_ones() -> None:
    world = World()
    client = world.client()
    assert client.takes("init")["relays"] == []
    first = world.relay()
    told = client.takes("relays_presence")
    assert told["disconnected_ids"] == [] and [r["id"] for r in told["connected"]] == [first.id]
    world.relay("203.0.113.6")
    assert client.takes("relays_presence")
    world.relay("203.0.113.7")
    assert client.taken() == []


def test_without_a_relay_there_is_no_flow(caplog: pytest.LogCaptureFixture) -> None:
    """Peers that set one up drop their connection to the portal, to get a relay, for ever."""
    world = World()
    gateway, client = world.gateway(), world.client()

    def failed(resource: str) -> str:
        gateway.taken(), client.taken()
        wanted = {"resource_id": world.id(resource), "connected_gateway_ids": []}
        client.asks("create_flow", wanted)
        assert gateway.taken() == []
        return str(client.takes("flow_creation_failed")["reason"])

    assert failed("vault") == "not_found", "who may not use it learns nothing of relays"
    assert [failed("web") for _ in range(3)] == ["offline"] * 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no relay is online" in caplog.text
    world.wall += 60
    assert failed("web") == "offline"
    assert len(caplog.records) == 2

    relay = world.relay()
    assert gateway.takes("relays_presence") and client.takes("relays_presence")
    assert world.flow(client, gateway)
    relay.leave()
    assert world.flow(client, gateway), "it may be back at once"
    world.advance(3 * SECOND)
    assert failed("web") == "offline"


def test_a_relay_with_both_families_is_two_neighbours() -> None:
    world = World()
    world.relay(ipv6="2001:db8::5")
    entries = world.client().takes("init")["relays"]
    assert [e["addr"] for e in entries] == ["203.0.113.5:3478", "[2001:db8::5]:3478"]
    assert entries[0]["id"] == entries[1]["id"]


def test_a_relay_that_is_back_at_once_was_never_gone() -> None:
    world = World()
    relay, client = world.relay(), world.client()
    client.taken()
    relay.leave()
    world.advance(2 * SECOND)
    world.relay()
    world.advance(MINUTE)
    assert client.taken() == []


def test_a_relay_that_is_gone_for_three_seconds_is_replaced() -> None:
    world = World()
    relay, client, gateway = world.relay(), world.client(), world.gateway()
    spare = world.relay("203.0.113.6")
    client.taken(), gateway.taken()
    third = world.relay("203.0.113.7")
    relay.leave()
    world.advance(3 * SECOND - 1)
    assert client.taken() == gateway.taken() == []
    world.advance(1)
    for peer in (client, gateway):
        told = peer.takes("relays_presence")
        assert told["disconnected_ids"] == [relay.id]
        assert [r["id"] for r in told["connected"]] == [third.id]
    assert spare.id != third.id


def test_a_relay_that_restarted_has_new_credentials_at_once() -> None:
    world = World()
    relay, client = world.relay(), world.client()
    old = client.takes("init")["relays"][0]["password"]
    relay.leave()
    world.relay(secret="another")
    told = client.takes("relays_presence")
    assert told["disconnected_ids"] == [relay.id]
    assert told["connected"][0]["password"] != old
    world.advance(MINUTE)
    assert client.taken() == []


def test_a_relay_must_join_with_a_secret() -> None:
    world = World()
    relay = world.connect("relay", "relay-token", "relay/0.1.0")
    for payload in (None, {}, {"stamp_secret": ""}, {"stamp_secret": 5}):
        assert relay.asks("phx_join", payload)["payload"]["status"] == "error"
    assert world.client().takes("init")["relays"] == []
