import base64
import copy
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.model import Endpoint, IceCredentials
from firezone.phoenix.messages import (
    MalformedMessage,
    Outgoing,
    Relay,
    RelaysPresence,
    UnknownEvent,
    client,
    gateway,
    relay,
)

RID, GID, CID, SID, YID = (f"0000000{n}-0000-4000-8000-00000000000a" for n in range(1, 6))
RAW_KEY = bytes(range(32))
KEY = base64.b64encode(RAW_KEY).decode()
TURN = {
    "type": "turn",
    "id": YID,
    "addr": "198.51.100.7:3478",
    "username": "1790000000:abc",
    "password": "xyz",
    "expires_at": 1790000000,
}
INTERFACE = {
    "ipv4": "100.64.9.2",
    "ipv6": "fd00:2021:1111::9:2",
    "upstream_dns": [{"protocol": "ip_port", "address": "[2001:db8::53]:53"}],
    "search_domain": None,
}
CIDR = {
    "type": "cidr",
    "id": RID,
    "name": "lab",
    "address": "10.9.0.0/16",
    "address_description": None,
    "gateway_groups": [{"id": SID, "name": "hq"}],
    "filters": [{"protocol": "tcp"}],
    "can_be_disabled": True,
}
CLIENT_INIT: dict[str, Any] = {"interface": INTERFACE, "resources": [CIDR], "relays": [TURN]}
ICE = {
    "client_ice_credentials": {"username": "abcd", "password": "p" * 22},
    "gateway_ice_credentials": {"username": "efgh", "password": "q" * 22},
}
FLOW_CREATED: dict[str, Any] = {
    "resource_id": RID,
    "gateway_id": GID,
    "gateway_group_id": SID,
    "gateway_public_key": KEY,
    "gateway_ipv4": "100.64.3.3",
    "gateway_ipv6": "fd00:2021:1111::3:3",
    "preshared_key": KEY,
    **ICE,
}
GATEWAY_CIDR = {
    "type": "cidr",
    "id": RID,
    "name": "lab",
    "address": "10.9.0.0/16",
    "filters": [
        {"protocol": "tcp", "port_range_start": 443, "port_range_end": 443},
        {"protocol": "udp", "port_range_start": 53},
        {"protocol": "udp", "port_range_end": 99},
        {"protocol": "tcp"},
        {"protocol": "icmp"},
    ],
}
AUTHORIZE: dict[str, Any] = {
    "ref": "opaque",
    "resource": GATEWAY_CIDR,
    "client": {
        "id": CID,
        "public_key": KEY,
        "preshared_key": KEY,
        "ipv4": "100.64.9.2",
        "ipv6": "fd00:2021:1111::9:2",
    },
    **ICE,
    "expires_at": 1790000000,
    "actor": {"name": "x"},
}
GATEWAY_INIT: dict[str, Any] = {
    "interface": {"ipv4": "100.64.3.3", "ipv6": "fd00:2021:1111::3:3"},
    "config": {"ipv4_masquerade_enabled": True, "ipv6_masquerade_enabled": False},
    "account_slug": "acme",
    "authorizations": [{"client_id": CID, "resource_id": RID, "expires_at": 17}],
}
HOST = "candidate:1 1 udp 2130706175 192.0.2.4 52625 typ host"
SRFLX = "candidate:2 1 udp 1694498815 198.51.100.9 4000 typ srflx raddr 0.0.0.0 rport 0"


def test_client_init() -> None:
    message = client.decode("init", CLIENT_INIT)
    assert isinstance(message, client.Init)
    assert message.interface.upstream_dns == (Endpoint.parse("[2001:db8::53]:53"),)
    assert message.resources == (
        client.CidrResource(
            client.ResourceId(RID),
            "lab",
            ip_network("10.9.0.0/16"),
            (client.Site(client.SiteId(SID), "hq"),),
        ),
    )
    [turn] = message.relays
    assert turn == Relay(
        YID, Endpoint.parse("198.51.100.7:3478"), "1790000000:abc", "xyz", 1790000000
    )
    assert "xyz" not in repr(message)


def test_client_init_without_lists() -> None:
    message = client.decode("init", {"interface": {k: INTERFACE[k] for k in ("ipv4", "ipv6")}})
    assert message == client.Init(
        client.Interface(IPv4Address("100.64.9.2"), IPv6Address("fd00:2021:1111::9:2"))
    )


def test_one_bad_resource_does_not_spoil_the_others() -> None:
    dns = {
        "type": "dns",
        "id": RID,
        "name": "web",
        "address": "**.example.com",
        "gateway_groups": [],
        "ipv4": "stray",
    }
    resources = [
        {**CIDR, "address": "10.9.0.1/16"},
        {"type": "cidr"},
        {"type": "from-the-future", "id": 1},
        {**CIDR, "id": "no uuid"},
        {**dns, "ip_stack": "ipv5"},
        {**dns, "ip_stack": None},
        {**dns, "ip_stack": "ipv6_only"},
        {"type": "internet", "id": RID, "gateway_groups": []},
    ]
    message = client.decode("init", {**CLIENT_INIT, "resources": resources})
    assert isinstance(message, client.Init)
    assert [getattr(r, "ip_stack", r.name) for r in message.resources] == [
        "dual",
        "ipv6_only",
        "Internet Resource",
    ]


@pytest.mark.parametrize("resource", [{}, {"type": 5}, [], None])
def test_a_resource_without_a_type_spoils_the_message(resource: object) -> None:
    with pytest.raises(MalformedMessage):
        client.decode("init", {**CLIENT_INIT, "resources": [CIDR, resource]})


@pytest.mark.parametrize(
    "relays",
    [
        [TURN, {**TURN, "type": "quic"}],
        [TURN, {**TURN, "addr": "198.51.100.7"}],
        [TURN, {**TURN, "expires_at": "17"}],
        [TURN, {"type": "stun", "id": YID, "addr": "nowhere"}],
        [{k: v for k, v in TURN.items() if k != "password"}],
        None,
    ],
)
def test_one_bad_relay_spoils_the_message(relays: object) -> None:
    for decode, init in ((client.decode, CLIENT_INIT), (gateway.decode, GATEWAY_INIT)):
        with pytest.raises(MalformedMessage):
            decode("init", {**init, "relays": relays})


def test_plain_stun_servers_are_ignored() -> None:
    stun = {"type": "stun", "id": YID, "addr": "198.51.100.7:3478"}
    message = client.decode("relays_presence", {"disconnected_ids": [YID], "connected": [stun]})
    assert message == RelaysPresence((client.common.RelayId(YID),), ())


@pytest.mark.parametrize(
    "change",
    [
        {"upstream_dns": None},
        {"upstream_dns": [{"protocol": "ip_port", "address": "9.9.9.9"}]},
        {"upstream_dns": [{"protocol": "doh", "address": "9.9.9.9:53"}]},
        {"ipv4": "fd00::1"},
        {"ipv4": 5},
        {"ipv6": None},
        {"search_domain": 4},
    ],
)
def test_a_bad_interface_spoils_the_message(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        client.decode("config_changed", {"interface": {**INTERFACE, **change}})


def test_a_deleted_resource_is_a_bare_id() -> None:
    assert client.decode("resource_deleted", RID) == client.ResourceDeleted(client.ResourceId(RID))
    for bad in ({"id": RID}, None, 5, "x", RID + "\n"):
        with pytest.raises(MalformedMessage):
            client.decode("resource_deleted", bad)


def test_flow_created_keeps_its_secrets() -> None:
    message = client.decode("flow_created", FLOW_CREATED)
    assert isinstance(message, client.FlowCreated)
    assert message.gateway_public_key == message.preshared_key == RAW_KEY
    assert message.gateway_ice == IceCredentials("efgh", "q" * 22)
    assert "preshared_key" not in repr(message) and "pppp" not in repr(message)


@pytest.mark.parametrize("key", list(FLOW_CREATED))
def test_flow_created_needs_all_its_fields(key: str) -> None:
    with pytest.raises(MalformedMessage):
        client.decode("flow_created", {k: v for k, v in FLOW_CREATED.items() if k != key})


@pytest.mark.parametrize("bad", [KEY[:-1], KEY[:-4], KEY + KEY, KEY + "\n", "", 5, None])
def test_keys_are_32_bytes_of_padded_base64(bad: object) -> None:
    with pytest.raises(MalformedMessage):
        client.decode("flow_created", {**FLOW_CREATED, "preshared_key": bad})


def test_why_a_flow_was_not_created() -> None:
    failed = {"resource_id": RID, "reason": "offline"}
    message = client.decode("flow_creation_failed", failed)
    assert isinstance(message, client.FlowCreationFailed)
    assert message.reason is client.FailureReason.OFFLINE
    message = client.decode(
        "flow_creation_failed", {**failed, "reason": "moon", "violated_properties": ["remote_ip"]}
    )
    assert isinstance(message, client.FlowCreationFailed)
    assert message.reason is client.FailureReason.UNKNOWN
    assert message.violated_properties == ("remote_ip",)


def test_what_is_no_text_is_no_candidate() -> None:
    message = client.decode("ice_candidates", {"gateway_id": GID, "candidates": [1, None, HOST]})
    assert message == client.IceCandidates(client.GatewayId(GID), (HOST,))
    message = client.decode("invalidate_ice_candidates", {"gateway_id": GID, "candidates": []})
    assert message == client.InvalidateIceCandidates(client.GatewayId(GID), ())


def test_create_flow() -> None:
    outgoing = client.create_flow(client.ResourceId("r"), [client.GatewayId(g) for g in "bab"])
    assert outgoing == Outgoing(
        "create_flow", {"resource_id": "r", "connected_gateway_ids": ["a", "b"]}
    )
    assert client.create_flow(client.ResourceId("r"), []).payload == {
        "resource_id": "r",
        "connected_gateway_ids": [],
    }


def test_candidates_go_out_by_priority_and_none_is_lost() -> None:
    """The original loses one of two candidates of equal priority."""
    twin = HOST.replace("192.0.2.4", "192.0.2.5")
    outgoing = client.broadcast_ice_candidates([client.GatewayId(GID)], [SRFLX, HOST, twin, HOST])
    assert outgoing == Outgoing(
        "broadcast_ice_candidates", {"gateway_ids": [GID], "candidates": [HOST, twin, SRFLX]}
    )
    outgoing = gateway.broadcast_invalidated_ice_candidates([gateway.ClientId(CID)], ["odd"])
    assert outgoing == Outgoing(
        "broadcast_invalidated_ice_candidates", {"client_ids": [CID], "candidates": ["odd"]}
    )


def test_gateway_init() -> None:
    message = gateway.decode("init", GATEWAY_INIT)
    assert isinstance(message, gateway.Init)
    assert message.config == gateway.Config(True, False)
    assert message.authorizations == (
        gateway.Authorization(gateway.ClientId(CID), gateway.ResourceId(RID), 17),
    )


@pytest.mark.parametrize("key", ["interface", "config"])
def test_gateway_init_needs_interface_and_config(key: str) -> None:
    with pytest.raises(MalformedMessage):
        gateway.decode("init", {k: v for k, v in GATEWAY_INIT.items() if k != key})


def test_authorize_flow() -> None:
    message = gateway.decode("authorize_flow", AUTHORIZE)
    assert isinstance(message, gateway.AuthorizeFlow)
    assert isinstance(message.resource, gateway.CidrResource)
    tcp, udp, icmp = gateway.Protocol
    assert message.resource.filters == (
        gateway.Filter(tcp, 443, 443),
        gateway.Filter(udp, 53, 65535),
        gateway.Filter(udp, 0, 99),
        gateway.Filter(tcp, 0, 65535),
        gateway.Filter(icmp),
    )
    assert message.client.preshared_key == RAW_KEY
    assert "preshared_key" not in repr(message)


def test_an_expiry_may_be_null_but_must_be_there() -> None:
    message = gateway.decode("authorize_flow", {**AUTHORIZE, "expires_at": None})
    assert isinstance(message, gateway.AuthorizeFlow) and message.expires_at is None
    with pytest.raises(MalformedMessage):
        gateway.decode("authorize_flow", {k: v for k, v in AUTHORIZE.items() if k != "expires_at"})


@pytest.mark.parametrize(
    "change",
    [
        {"filters": None},
        {"filters": [{"protocol": "sctp"}]},
        {"filters": [{"protocol": "tcp", "port_range_start": 65536}]},
        {"filters": [{"protocol": "tcp", "port_range_start": -1}]},
        {"filters": [{}]},
        {"type": "ip"},
        {"address": "10.9.0.1/16"},
        {"address": "10.9.0.0/33"},
    ],
)
def test_the_gateway_guesses_at_no_resource(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        gateway.decode("resource_updated", {**GATEWAY_CIDR, **change})
    with pytest.raises(MalformedMessage):
        gateway.decode(
            "resource_updated", {k: v for k, v in GATEWAY_CIDR.items() if k not in change}
        )


def test_the_other_gateway_messages() -> None:
    pair = {"client_id": CID, "resource_id": RID}
    ids = (gateway.ClientId(CID), gateway.ResourceId(RID))
    assert gateway.decode("reject_access", pair) == gateway.RejectAccess(*ids)
    assert gateway.decode(
        "access_authorization_expiry_updated", {**pair, "expires_at": 9}
    ) == gateway.AccessAuthorizationExpiryUpdated(*ids, 9)
    assert gateway.decode(
        "ice_candidates", {"client_id": CID, "candidates": [HOST]}
    ) == gateway.IceCandidates(ids[0], (HOST,))
    assert gateway.decode("resource_updated", {"type": "internet", "id": RID}) == (
        gateway.ResourceUpdated(gateway.InternetResource(ids[1]))
    )
    assert gateway.flow_authorized("x") == Outgoing("flow_authorized", {"ref": "x"})


def test_relay_messages() -> None:
    assert relay.decode("init", {"more": 1}) == relay.Init()
    with pytest.raises(UnknownEvent):
        relay.decode("relays_presence", {})
    assert relay.join_payload("0f" * 32) == {"stamp_secret": "0f" * 32}


VALID: list[tuple[Any, str, Any]] = [
    (client.decode, "init", CLIENT_INIT),
    (client.decode, "flow_created", FLOW_CREATED),
    (client.decode, "relays_presence", {"disconnected_ids": [YID], "connected": [TURN]}),
    (client.decode, "resource_created_or_updated", CIDR),
    (gateway.decode, "init", GATEWAY_INIT),
    (gateway.decode, "authorize_flow", AUTHORIZE),
    (gateway.decode, "resource_updated", GATEWAY_CIDR),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(VALID), JSON)
def test_random_payloads_raise_nothing_else(valid: tuple[Any, str, Any], payload: object) -> None:
    decode, event, _ = valid
    with suppress(MalformedMessage):
        decode(event, payload)


@given(st.sampled_from(VALID), st.data())
def test_mutated_payloads_raise_nothing_else(valid: tuple[Any, str, Any], data: Any) -> None:
    decode, event, payload = valid
    payload = node = copy.deepcopy(payload)
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not (node[key] and isinstance(node[key], dict | list)) or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(JSON)
    with suppress(MalformedMessage):
        decode(event, payload)
