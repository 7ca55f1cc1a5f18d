"""How the portal words things for its peers: JSON values as they stand on the wire."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from firezone.model import Endpoint, IceCredentials
from firezone.portal.admission import PeerAdmission, RelayAdmission
from firezone.portal.config import Account, Filter, Resource
from firezone.portal.credentials import turn_credentials
from firezone.portal.store import Flow

Json = dict[str, Any]


def interface(peer: PeerAdmission, account: Account) -> Json:
    servers = [{"protocol": "ip_port", "address": str(e)} for e in account.upstream_dns]
    return {
        "ipv4": str(peer.identity.ipv4),
        "ipv6": str(peer.identity.ipv6),
        "upstream_dns": servers,
        "search_domain": account.search_domain,
    }


def client_resource(resource: Resource) -> Json:
    """For a client. `ip_stack` is left out unless set: the peers want no null there."""
    view: Json = {
        "type": resource.kind,
        "id": resource.id,
        "name": resource.name,
        "address": resource.address,
        "address_description": resource.description,
        "gateway_groups": [{"id": site.id, "name": site.name} for site in resource.sites],
    }
    if resource.kind == "dns" and resource.ip_stack is not None:
        view["ip_stack"] = resource.ip_stack
    return view


def gateway_resource(resource: Resource) -> Json:
    """For a gateway: no sites, but filters."""
    return {
        "type": resource.kind,
        "id": resource.id,
        "name": resource.name,
        "address": resource.address,
        "filters": [_filter(entry) for entry in resource.filters],
    }


def relay(relay: RelayAdmission, public_key: str, stamp_secret: str, expires_at: int) -> list[Json]:
    """One entry per address, v4 then v6: peers group neighbours."""
    credentials = turn_credentials(public_key, stamp_secret, expires_at)
    return [
        {
            "type": "turn",
            "id": relay.id,
            "addr": str(Endpoint(address, relay.port)),
            "username": credentials.username,
            "password": credentials.password,
            "expires_at": expires_at,
        }
        for address in (relay.ipv4, relay.ipv6)
        if address is not None
    ]


def ice(credentials: IceCredentials) -> Json:
    return {"username": credentials.username, "password": credentials.password}


def flow_client(peer: PeerAdmission, preshared_key: str) -> Json:
    """The client of a flow, for its gateway."""
    return {
        "id": peer.identity.id,
        "public_key": peer.public_key,
        "preshared_key": preshared_key,
        "ipv4": str(peer.identity.ipv4),
        "ipv6": str(peer.identity.ipv6),
    }


def pair(flow: Flow) -> Json:
    return {"client_id": flow.client_id, "resource_id": flow.resource_id}


def authorizations(flows: Iterable[Flow]) -> list[Json]:
    return [{**pair(flow), "expires_at": flow.expires_at} for flow in flows]


def _filter(entry: Filter) -> Json:
    view: Json = {"protocol": entry.protocol}
    if entry.ports is not None:
        view["port_range_start"], view["port_range_end"] = entry.ports
    return view
