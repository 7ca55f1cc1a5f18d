"""A portal that brings one client and one gateway together, in virtual time.

It speaks the portal's messages, derives keys and credentials from the public keys as a portal must
(equal keys give equal values), and lets a test grant and revoke.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from firezone.durations import DAY, MILLISECOND, SECOND
from firezone.phoenix.messages import client as client_messages
from firezone.phoenix.messages import gateway as gateway_messages
from firezone.sim.clock import Clock
from firezone.sim.peers import RELAY_PORT, Peer, RelayHost

CLIENT_ID = "c0000000-0000-4000-8000-000000000001"
GATEWAY_ID = "90000000-0000-4000-8000-000000000001"
SITE_ID = "50000000-0000-4000-8000-000000000001"
CLIENT_ADDRESSES = ("100.64.0.2", "fd00:2021:1111::2")
GATEWAY_ADDRESSES = ("100.64.0.3", "fd00:2021:1111::3")


@dataclass(frozen=True, slots=True)
class Resource:
    """A network that the client may be granted. `filters` as the portal writes them."""

    id: str
    address: str
    filters: tuple[dict[str, Any], ...] = ()

    def view(self) -> dict[str, Any]:
        return {"type": "cidr", "id": self.id, "name": self.address, "address": self.address}


class Portal:
    """Forwards after `latency`, unless `is_down`."""

    def __init__(self, clock: Clock, relays: list[RelayHost]) -> None:
        self.clock = clock
        self.relays = relays
        self.latency = 5 * MILLISECOND
        self.is_down = False
        self.resources: dict[str, Resource] = {}
        self.expires_at: int | None = None
        self.requests: list[str] = []
        self._client: Peer | None = None
        self._gateway: Peer | None = None

    def join_client(self, client: Peer) -> None:
        self._client = client
        client.tell_portal = self._from_client
        client.reconnect_portal = lambda: self._later(lambda: self._init_client(client))
        self._init_client(client)

    def join_gateway(self, gateway: Peer) -> None:
        self._gateway = gateway
        gateway.tell_portal = self._from_gateway
        gateway.reconnect_portal = lambda: self._later(lambda: self._init_gateway(gateway))
        self._init_gateway(gateway)

    def announce_relays(self, gone: list[RelayHost]) -> None:
        """Tell everybody that these are gone, and what there is now."""
        for peer, module in ((self._client, client_messages), (self._gateway, gateway_messages)):
            if peer is not None:
                payload = {
                    "disconnected_ids": [relay.id for relay in gone],
                    "connected": self._relays_for(peer),
                }
                self._push(peer, module, "relays_presence", payload)

    def reject(self, resource: Resource) -> None:
        """Take the client's access away."""
        del self.resources[resource.id]
        self._push(self._gateway, gateway_messages, "reject_access", self._pair(resource.id))

    def set_expiry(self, resource: Resource, expires_at: int) -> None:
        payload = {**self._pair(resource.id), "expires_at": expires_at}
        self._push(self._gateway, gateway_messages, "access_authorization_expiry_updated", payload)

    def grant(self, resource: Resource) -> None:
        """Offer a resource to the client."""
        self.resources[resource.id] = resource
        view = {**resource.view(), "gateway_groups": [{"id": SITE_ID, "name": "site"}]}
        self._push(self._client, client_messages, "resource_created_or_updated", view)

    # What the peers say.

    def _from_client(self, event: str, payload: Any) -> None:
        self.requests.append(event)
        match event:
            case "create_flow":
                self._authorize(payload["resource_id"])
            case "broadcast_ice_candidates" | "broadcast_invalidated_ice_candidates":
                name = _FORWARDED[event]
                forwarded = {"client_id": CLIENT_ID, "candidates": payload["candidates"]}
                self._push(self._gateway, gateway_messages, name, forwarded)

    def _from_gateway(self, event: str, payload: Any) -> None:
        match event:
            case "flow_authorized":
                self._create_flow(payload["ref"])
            case "broadcast_ice_candidates" | "broadcast_invalidated_ice_candidates":
                name = _FORWARDED[event]
                forwarded = {"gateway_id": GATEWAY_ID, "candidates": payload["candidates"]}
                self._push(self._client, client_messages, name, forwarded)

    def _authorize(self, resource_id: str) -> None:
        resource = self.resources.get(resource_id)
        if self._gateway is None or resource is None:
            reason = "forbidden" if resource is None else "offline"
            refusal = {"resource_id": resource_id, "reason": reason}
            self._push(self._client, client_messages, "flow_creation_failed", refusal)
            return
        assert self._client is not None
        v4, v6 = CLIENT_ADDRESSES
        payload: dict[str, Any] = {
            "ref": resource_id,
            "resource": {**resource.view(), "filters": list(resource.filters)},
            "client": {
                "id": CLIENT_ID,
                "public_key": _key(self._client),
                "preshared_key": self._preshared_key(),
                "ipv4": v4,
                "ipv6": v6,
            },
            **self._ice(),
            "expires_at": self.expires_at,
        }
        self._push(self._gateway, gateway_messages, "authorize_flow", payload)

    def _create_flow(self, resource_id: str) -> None:
        assert self._gateway is not None
        v4, v6 = GATEWAY_ADDRESSES
        payload: dict[str, Any] = {
            "resource_id": resource_id,
            "gateway_id": GATEWAY_ID,
            "gateway_group_id": SITE_ID,
            "gateway_public_key": _key(self._gateway),
            "gateway_ipv4": v4,
            "gateway_ipv6": v6,
            "preshared_key": self._preshared_key(),
            **self._ice(),
        }
        self._push(self._client, client_messages, "flow_created", payload)

    # What the portal says.

    def _init_client(self, client: Peer) -> None:
        v4, v6 = CLIENT_ADDRESSES
        groups = [{"id": SITE_ID, "name": "site"}]
        views = [{**r.view(), "gateway_groups": groups} for r in self.resources.values()]
        payload = {
            "interface": {"ipv4": v4, "ipv6": v6},
            "resources": views,
            "relays": self._relays_for(client),
        }
        self._push(client, client_messages, "init", payload)

    def _init_gateway(self, gateway: Peer) -> None:
        v4, v6 = GATEWAY_ADDRESSES
        payload = {
            "interface": {"ipv4": v4, "ipv6": v6},
            "config": {"ipv4_masquerade_enabled": True, "ipv6_masquerade_enabled": True},
            "relays": self._relays_for(gateway),
        }
        self._push(gateway, gateway_messages, "init", payload)

    def _relays_for(self, peer: Peer) -> list[dict[str, Any]]:
        expiry = (self.clock.unix_now + DAY) // SECOND
        salt = _unpadded(_key(peer).encode())
        return [
            {
                "type": "turn",
                "id": relay.id,
                "addr": f"[{address}]:{RELAY_PORT}" if family == 6 else f"{address}:{RELAY_PORT}",
                "username": f"{expiry}:{salt}",
                "password": _unpadded(f"{expiry}:{relay.secret}:{salt}".encode()),
                "expires_at": expiry,
            }
            for relay in self.relays
            for family in (4, 6)
            if (address := relay.address(family)) is not None
        ]

    def _seed(self) -> bytes:
        assert self._client is not None
        assert self._gateway is not None
        return f"{_key(self._client)}:{_key(self._gateway)}".encode()

    def _preshared_key(self) -> str:
        return base64.b64encode(hashlib.sha256(b"psk" + self._seed()).digest()).decode()

    def _ice(self) -> dict[str, Any]:
        text = hashlib.sha256(self._seed()).hexdigest()
        return {
            "client_ice_credentials": {"username": text[:4], "password": text[4:26]},
            "gateway_ice_credentials": {"username": text[26:30], "password": text[30:52]},
        }

    def _pair(self, resource_id: str) -> dict[str, Any]:
        return {"client_id": CLIENT_ID, "resource_id": resource_id}

    def _push(self, peer: Peer | None, module: Any, event: str, payload: Any) -> None:
        if peer is not None:
            self._later(lambda: peer.handle_message(module.decode(event, payload)))

    def _later(self, action: Callable[[], None]) -> None:
        if not self.is_down:
            self.clock.at(self.clock.now + self.latency, action)


_FORWARDED = {
    "broadcast_ice_candidates": "ice_candidates",
    "broadcast_invalidated_ice_candidates": "invalidate_ice_candidates",
}


def _key(peer: Peer) -> str:
    return base64.b64encode(peer.role.node.public_key).decode()


def _unpadded(text: bytes) -> str:
    return base64.b64encode(hashlib.sha256(text).digest()).decode().rstrip("=")
