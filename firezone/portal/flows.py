"""Flows: from a client's request to the gateway's consent, and back when access ends.

A request is answered only after the gateway said that it knows the client; a gateway that keeps
silent leaves the client to ask again. So requests repeat, and each repetition gives the same
values. What was decided is decided anew whenever the portal file changes and once a minute: a
flow whose access ended is taken from its gateway, at once or when it is next online.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Annotated

import msgspec

from firezone.model import Entropy
from firezone.phoenix.frames import Frame
from firezone.portal import views
from firezone.portal.access import Allowed, Decision, Forbidden, NotFound, decide
from firezone.portal.balance import choose_gateway
from firezone.portal.conditions import Context
from firezone.portal.config import Config, Resource
from firezone.portal.credentials import Party, ice_credentials, preshared_key
from firezone.portal.flow_table import FlowTable
from firezone.portal.presence import RelayPresence
from firezone.portal.sessions import ClientSession, GatewaySession, PeerSession, Switchboard
from firezone.portal.store import Flow, FlowKey

_log = logging.getLogger(__name__)

SETTLED_SECONDS = 30 * 60
"""A gateway that still keeps the connection on which it was told to end a flow has heard of it:
TCP gives up a connection earlier on which nothing is acknowledged (RFC 9293 section 3.8.3)."""


Id = Annotated[str, msgspec.Meta(max_length=64)]
NO_RELAY_WARNING_SECONDS = 60


class CreateFlow(msgspec.Struct):
    """Clients name up to 100 gateways."""

    resource_id: Id
    connected_gateway_ids: Annotated[list[Id], msgspec.Meta(max_length=128)]


class FlowAuthorized(msgspec.Struct):
    ref: Id


@dataclass(frozen=True, slots=True)
class _Pending:
    """What the client hears once the gateway consents."""

    client: ClientSession
    gateway: GatewaySession
    flow_created: views.Json


class Flows:
    """All flows that are in force, and those that a gateway must still be told to end."""

    def __init__(
        self, board: Switchboard, presence: RelayPresence, flows: FlowTable, entropy: Entropy
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._board = board
        self._presence = presence
        self._entropy = entropy
        self._flows = flows
        self._pending: dict[str, _Pending] = {}
        self._refs: dict[FlowKey, str] = {}
        self._told: dict[FlowKey, tuple[str, str | None]] = {}
        """What clients go by: the public keys of client and gateway, None for a flow that ended."""
        self._warned_at: int | None = None
        self._rejected: dict[FlowKey, tuple[int, int]] = {}
        """When gateways were last told to end a flow: the connection, and Unix seconds."""

    @property
    def is_saved(self) -> bool:
        """Whether the store holds all that was decided."""
        return self._flows.is_saved

    def save(self) -> None:
        """Try again to write what could not be written."""
        self._flows.save()

    def are_linked(self, client_id: str, gateway_id: str) -> bool:
        """Whether some flow joins the two: only then may they exchange candidates."""
        return self._flows.are_linked(client_id, gateway_id)

    def handle_create_flow(
        self, config: Config, client: ClientSession, request: CreateFlow, unix_now: int
    ) -> None:
        """Ask a gateway, or tell the client why not."""
        context = Context(client.admission.remote_ip, unix_now)
        token = config.tokens[client.admission.token.hash]
        decision = decide(config, token, request.resource_id, context)
        if not isinstance(decision, Allowed):
            self._refuse(client, request.resource_id, decision)
            return
        if not self._presence.has_relay():
            # Peers that set up a flow without one drop their connection to us, over and over.
            self._warn_of_relays(unix_now)
            self._fail(client, request.resource_id, "offline")
            return
        gateway = self._choose_gateway(client, decision.resource, request)
        if gateway is not None:
            self._authorize(client, gateway, decision)

    def handle_flow_authorized(self, gateway: GatewaySession, frame: Frame, ref: str) -> None:
        """The gateway consents: tell the client."""
        pending = self._pending.get(ref)
        if pending is None or pending.gateway is not gateway:
            gateway.channel.refuse(frame, "invalid_ref")
            return
        gateway.channel.ok(frame)
        key = pending.client.id, gateway.id, pending.flow_created["resource_id"]
        self._forget_pending(key)
        if (flow := self._flows.get(key)) is not None:
            _log.info("flow authorized", extra=_log_fields(flow))
        self._told[key] = pending.client.admission.public_key, gateway.admission.public_key
        self._board.push(pending.client, "flow_created", pending.flow_created)

    def handle_client_joined(self, client: ClientSession) -> None:
        """From now on its flows rest on the token it shows and the address it comes from."""
        admission = client.admission
        for flow in self._flows:
            if flow.client_id == client.id and not flow.revoked:
                remote_ip, token_hash = str(admission.remote_ip), admission.token.hash
                self._flows.put(replace(flow, remote_ip=remote_ip, token_hash=token_hash))

    def handle_left(self, session: PeerSession) -> None:
        """Its connection ended: answers for it lead nowhere."""
        for key, ref in list(self._refs.items()):
            pending = self._pending[ref]
            if session in (pending.client, pending.gateway):
                self._forget_pending(key)

    def take_outdated(self) -> list[tuple[ClientSession, str]]:
        """Which clients look for a resource at a gateway that does not serve it to them any more:
        the gateway has another key by now, or the flow has expired there.

        Each is named once: from then on the client is taken to have heard of it.
        """
        clients = {client.id: client for client in self._board.joined(ClientSession)}
        keys = {g.id: g.admission.public_key for g in self._board.joined(GatewaySession)}
        outdated = []
        for (client_id, gateway_id, resource_id), (mine, its) in list(self._told.items()):
            client = clients.get(client_id)
            is_current = its is not None and keys.get(gateway_id, its) == its
            if client is None or is_current:
                continue
            del self._told[client_id, gateway_id, resource_id]
            # A client that has another key itself started anew, and knows no gateway.
            if mine == client.admission.public_key:
                outdated.append((client, resource_id))
        return outdated

    def in_force(self, gateway: GatewaySession) -> list[Flow]:
        """The flows of a gateway, as last decided."""
        return [flow for flow in self._flows if flow.gateway_id == gateway.id and not flow.revoked]

    def catch_up(self, config: Config, gateway: GatewaySession, unix_now: int) -> None:
        """What the gateway may have missed: after its `init`.

        It may have been away without our noticing, so what was sent to it need not have arrived.
        """
        mine = [flow for flow in self._flows if flow.gateway_id == gateway.id]
        for flow in mine:
            if flow.revoked:
                self._reject(gateway, flow, unix_now)
        # Its filters may have changed meanwhile, and `authorizations` do not carry them.
        for id in dict.fromkeys(flow.resource_id for flow in mine if not flow.revoked):
            resource = views.gateway_resource(config.resources[id])
            self._board.push(gateway, "resource_updated", resource)

    def reevaluate(self, config: Config, unix_now: int) -> None:
        """Decide every flow anew."""
        for flow in self._flows:
            if flow.expires_at <= unix_now:
                self._expire(flow)
            elif not flow.revoked:
                self._reevaluate(config, flow, unix_now)
            elif self._is_settled(flow, unix_now):
                self._delete(flow)

    def announce_filters(self, resource: Resource) -> None:
        """The filters of a resource changed."""
        flows = (flow for flow in self._flows if not flow.revoked)
        users = {flow.gateway_id for flow in flows if flow.resource_id == resource.id}
        for gateway in list(self._board.joined(GatewaySession)):
            if gateway.id in users:
                self._board.push(gateway, "resource_updated", views.gateway_resource(resource))

    # Creating.

    def _refuse(self, client: ClientSession, resource_id: str, decision: Decision) -> None:
        match decision:
            case Forbidden(violated):
                self._fail(client, resource_id, "forbidden", sorted(violated))
            case NotFound():
                self._fail(client, resource_id, "not_found")

    def _warn_of_relays(self, unix_now: int) -> None:
        """At most once a minute."""
        if self._warned_at is None or abs(unix_now - self._warned_at) >= NO_RELAY_WARNING_SECONDS:
            self._warned_at = unix_now
            _log.warning("no relay is online, so no flow is set up", extra={"event": "no_relay"})

    def _fail(
        self,
        client: ClientSession,
        resource_id: str,
        reason: str,
        violated: list[str] | None = None,
    ) -> None:
        self.counters[reason] += 1
        payload: views.Json = {"resource_id": resource_id, "reason": reason}
        if violated is not None:
            payload["violated_properties"] = violated
        self._board.push(client, "flow_creation_failed", payload)

    def _choose_gateway(
        self, client: ClientSession, resource: Resource, request: CreateFlow
    ) -> GatewaySession | None:
        sites = {site.name for site in resource.sites}
        online = [g for g in self._board.joined(GatewaySession) if g.site in sites]
        if not online:
            self._fail(client, resource.id, "offline")
            return None
        connected = frozenset(request.connected_gateway_ids)
        gateway = choose_gateway(online, client.version, connected, self._entropy)
        if gateway is None:
            self._fail(client, resource.id, "not_found")
        return gateway

    def _authorize(self, client: ClientSession, gateway: GatewaySession, decision: Allowed) -> None:
        flow = _flow(client, gateway, decision)
        self._flows.put(flow)
        ours, theirs = _party(client), _party(gateway)
        psk = preshared_key(ours, theirs)
        client_ice, gateway_ice = map(views.ice, ice_credentials(ours, theirs))
        ice = {"client_ice_credentials": client_ice, "gateway_ice_credentials": gateway_ice}
        site = next(site for site in decision.resource.sites if site.name == gateway.site)
        answer = {
            "resource_id": decision.resource.id,
            "gateway_id": gateway.id,
            "gateway_group_id": site.id,
            "gateway_public_key": gateway.admission.public_key,
            "gateway_ipv4": str(gateway.admission.identity.ipv4),
            "gateway_ipv6": str(gateway.admission.identity.ipv6),
            "preshared_key": psk,
            **ice,
        }
        demand = {
            "ref": self._await(flow.key, _Pending(client, gateway, answer)),
            "resource": views.gateway_resource(decision.resource),
            "client": views.flow_client(client.admission, psk),
            **ice,
            "expires_at": decision.expires_at,
        }
        self._board.push(gateway, "authorize_flow", demand)
        _log.info("flow requested", extra=_log_fields(flow))

    def _await(self, key: FlowKey, pending: _Pending) -> str:
        """A repeated request keeps its ref until the gateway's first answer, which counts."""
        ref = self._refs.get(key) or self._entropy(16).hex()
        self._refs[key] = ref
        self._pending[ref] = pending
        return ref

    # Deciding anew.

    def _reevaluate(self, config: Config, flow: Flow, unix_now: int) -> None:
        until = _valid_until(config, flow, unix_now)
        if until is None:
            self._revoke(flow, unix_now)
        elif until != flow.expires_at:
            self._extend(replace(flow, expires_at=until))

    def _extend(self, flow: Flow) -> None:
        self._flows.put(flow)
        if (gateway := self._board.find(GatewaySession, flow.gateway_id)) is not None:
            payload = {**views.pair(flow), "expires_at": flow.expires_at}
            self._board.push(gateway, "access_authorization_expiry_updated", payload)

    def _expire(self, flow: Flow) -> None:
        """Its gateway has ended it by itself, but its client was told nothing."""
        told = self._told.get(flow.key)
        self._delete(flow)
        if told is not None:
            self._told[flow.key] = told[0], None

    def _revoke(self, flow: Flow, unix_now: int) -> None:
        """Remembered until the flow would have ended anyhow: its gateway may be gone unnoticed."""
        self._forget_pending(flow.key)
        self._told.pop(flow.key, None)
        _log.info("access revoked", extra=_log_fields(flow))
        if (gateway := self._board.find(GatewaySession, flow.gateway_id)) is not None:
            self._reject(gateway, flow, unix_now)
        self._flows.put(replace(flow, revoked=True))

    def _reject(self, gateway: GatewaySession, flow: Flow, unix_now: int) -> None:
        self._rejected[flow.key] = gateway.connection, unix_now
        self._board.push(gateway, "reject_access", views.pair(flow))

    def _is_settled(self, flow: Flow, unix_now: int) -> bool:
        """Whether the gateway of a revoked flow has heard of that for certain."""
        gateway = self._board.find(GatewaySession, flow.gateway_id)
        connection, at = self._rejected.get(flow.key, (0, unix_now))
        if gateway is None or gateway.connection != connection:
            return False
        return unix_now - at >= SETTLED_SECONDS

    def _delete(self, flow: Flow) -> None:
        self._forget_pending(flow.key)
        self._told.pop(flow.key, None)
        self._rejected.pop(flow.key, None)
        self._flows.delete(flow.key)

    def _forget_pending(self, key: FlowKey) -> None:
        if (ref := self._refs.pop(key, None)) is not None:
            del self._pending[ref]


def _valid_until(config: Config, flow: Flow, unix_now: int) -> int | None:
    """Until when a flow may go on under this portal file, None if not at all."""
    token = config.tokens.get(flow.token_hash)
    resource = config.resources.get(flow.resource_id)
    if token is None or token.owner != flow.actor or not token.is_live(unix_now):
        return None
    if resource is None or resource.target != flow.target or config.account.disabled:
        return None
    if flow.site not in {site.name for site in resource.sites}:
        return None
    context = Context(ip_address(flow.remote_ip), unix_now)
    decision = decide(config, token, flow.resource_id, context)
    return decision.expires_at if isinstance(decision, Allowed) else None


def _flow(client: ClientSession, gateway: GatewaySession, decision: Allowed) -> Flow:
    return Flow(
        client_id=client.id,
        gateway_id=gateway.id,
        resource_id=decision.resource.id,
        actor=client.admission.token.owner,
        site=gateway.site,
        token_hash=client.admission.token.hash,
        remote_ip=str(client.admission.remote_ip),
        target=decision.resource.target,
        expires_at=decision.expires_at,
    )


def _party(session: PeerSession) -> Party:
    identity = session.admission.identity
    return Party(identity.id, session.admission.public_key, identity.psk_base)


def _log_fields(flow: Flow) -> views.Json:
    return {
        "client": flow.client_id,
        "gateway": flow.gateway_id,
        "resource": flow.resource_id,
        "expires_at": flow.expires_at,
    }
