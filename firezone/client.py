"""The Client: asks the portal for what the host's packets are for, and sends them there.

A packet that no flow covers comes here once. Its destination names a resource; a resource has a
gateway or not. With one, the flow is installed and the packet goes on by itself. Without one it
waits while we ask the portal for a flow (an *intent*), which names the gateway and the keys.
Traffic repeats an intent; the clock does so only for what was reached before we moved, the gateway
came back with another key, or a connection that carried data failed. When a gateway is lost
otherwise, what it served is forgotten, and the next packet asks again. The portal may then choose
another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Unpack

from firezone.commands import (
    NOBODY,
    BumpGeneration,
    DeliverPacket,
    Direction,
    Reinject,
)
from firezone.model import (
    GatewayId,
    IPAddress,
    ResourceId,
    Timeout,
    earliest,
)
from firezone.node import (
    ConnectionEstablished,
    ConnectionEvent,
    ConnectionFailed,
    PeerKeys,
)
from firezone.phoenix.messages import RelaysPresence
from firezone.phoenix.messages import client as messages
from firezone.policy import (
    TUNNEL_IPV4,
    TUNNEL_IPV6,
    CidrResource,
    Flow,
    PendingFlows,
    ResourceTable,
    Resumptions,
    control_kind,
    forward,
    is_peer,
    prohibited,
    refuse,
)
from firezone.roles import (
    PeerFacts,
    Rebind,
    ReconnectPortal,
    Role,
    RoleArguments,
    candidates,
    relays,
)

REMEMBERED_GATEWAYS = 100


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that a flow was created for."""

    id: GatewayId
    addresses: frozenset[IPAddress]


class Client(Role):
    """The state machine of `firezone client`."""

    peer = "gateway"

    def __init__(self, **arguments: Unpack[RoleArguments]) -> None:
        super().__init__(**arguments)
        self._resources = ResourceTable(lambda resource: resource in self._gateway_of)
        self._pending = PendingFlows()
        self._gateways: dict[GatewayId, Gateway] = {}
        self._gateway_of: dict[ResourceId, GatewayId] = {}
        self._remembered: dict[GatewayId, None] = {}
        self._interrupted: dict[ResourceId, None] = {}
        self._resumptions = Resumptions()

    # Inputs.

    def handle_message(self, message: messages.Message, now: int) -> None:
        """What the portal said."""
        match message:
            case messages.Init():
                self._interface = message.interface
                self._set_resources(message.resources)
                self.node.update_relays((), relays(message.relays), now)
            case messages.ConfigChanged():
                self._interface = message.interface
            case messages.ResourceCreatedOrUpdated():
                self._put_resource(message.resource, now)
            case messages.ResourceDeleted():
                self._remove_resource(message.id)
            case RelaysPresence():
                gone = message.disconnected_ids
                self.node.update_relays(gone, relays(message.connected), now)
            case messages.IceCandidates():
                for candidate in candidates(message.candidates):
                    self.node.add_remote_candidate(message.gateway_id, candidate, now)
            case messages.InvalidateIceCandidates():
                for candidate in candidates(message.candidates):
                    self.node.remove_remote_candidate(message.gateway_id, candidate, now)
            case messages.FlowCreated():
                self._create_flow(message, now)
            case messages.FlowCreationFailed():
                self._flow_failed(message)
        self._configure_tun(self._resources.networks() | {TUNNEL_IPV4, TUNNEL_IPV6})
        if isinstance(message, messages.Init):
            self._progress("ready", resources=len(list(self._resources)))
            self._resume(self._interrupted, now)
            self._interrupted.clear()
        self._drain_node()

    def handle_flow_missed(self, direction: Direction, slot: int, packet: bytes, now: int) -> None:
        """A packet whose flow is not decided: from the host (UP) or from a gateway (DOWN)."""
        if direction is Direction.UP:
            self._decide_up(packet, now)
        else:
            self._decide_down(slot, packet, now)
        self._drain_node()

    def handle_timeout(self, now: int) -> None:
        for resource in self._resumptions.due(now):
            self._pending.expect(resource, now)
            self._ask(resource)
        super().handle_timeout(now)

    def reset(self, now: int) -> None:
        """The network changed: new key, new sockets, all connections anew.

        What was reached before is asked for again, without waiting for a packet: who downloads has
        nothing to send until more comes.
        """
        self._interrupted |= dict.fromkeys([*self._gateway_of, *self._resumptions.take_all()])
        self.node.reset(now)
        self._drain_node()
        self._remembered.clear()
        self._events.append(Rebind())
        self._events.append(ReconnectPortal("network changed"))

    # Outputs.

    def poll_timeout(self) -> Timeout | None:
        return earliest(super().poll_timeout(), self._resumptions.poll_timeout())

    # For whoever looks on.

    def peer_facts(self, peer: str) -> PeerFacts:
        gateway = self._gateways.get(GatewayId(peer))
        if gateway is None:
            return PeerFacts()
        names = tuple(r.name for r in self._resources if self._gateway_of.get(r.id) == peer)
        return PeerFacts(gateway.addresses, names)

    def peer_at(self, address: IPAddress) -> str | None:
        if is_peer(address):
            return self._gateway_at(address)
        resource = self._resources.lookup(address)
        return None if resource is None else self._gateway_of.get(resource.id)

    def why_nobody(self, address: IPAddress) -> str:
        resource = None if is_peer(address) else self._resources.lookup(address)
        if resource is None:
            return f"no resource or gateway of ours has the address {address}"
        return f"the resource {resource.name!r} has no gateway now; traffic for it asks for one"

    # Packets.

    def _decide_up(self, packet: bytes, now: int) -> None:
        flow = Flow.of(packet)
        if flow is None or not self._is_ours(flow.source):
            self.counters["packet that is not ours to send"] += 1
            return
        if is_peer(flow.destination):
            gateway = self._gateway_at(flow.destination)
        else:
            resource = self._resources.lookup(flow.destination)
            if resource is None:
                self._refuse(flow, packet, now)
                return
            gateway = self._gateway_of.get(resource.id)
            if gateway is None:
                self._want(resource.id, packet, now)
                return
        slot = self.node.slot_of(gateway) if gateway is not None else None
        if slot is None:
            self._refuse(flow, packet, now)
            return
        self._commands.extend(forward(flow, Direction.UP, slot))
        self._commands.append(Reinject(Direction.UP, slot, packet))

    def _refuse(self, flow: Flow, packet: bytes, now: int) -> None:
        """Its sender hears of it, rather than wait for what cannot come."""
        self._commands.append(refuse(flow, Direction.UP, NOBODY, now))
        answer = prohibited(packet)
        if answer is not None:
            self._commands.append(DeliverPacket(answer))

    def _decide_down(self, slot: int, packet: bytes, now: int) -> None:
        gateway = self._gateways.get(GatewayId(self.node.connection_at(slot) or ""))
        if gateway is None:
            self.counters["packet of nobody"] += 1
            return
        kind = control_kind(packet)
        if kind is not None:
            self._handle_control(slot, kind, now)
            return
        flow = Flow.of(packet)
        if flow is None:
            self.counters["packet that cannot be read"] += 1
        elif self._is_ours(flow.destination) and self._may_send(gateway, flow.source):
            self._commands.extend(forward(flow, Direction.DOWN, slot))
            self._commands.append(Reinject(Direction.DOWN, slot, packet))
        else:
            self.counters["packet with a foreign source"] += 1
            self._commands.append(refuse(flow, Direction.DOWN, slot, now))

    def _may_send(self, gateway: Gateway, source: IPAddress) -> bool:
        """A gateway speaks for itself and for the resources it serves us."""
        if source in gateway.addresses:
            return True
        resource = self._resources.lookup(source)
        return resource is not None and self._gateway_of.get(resource.id) == gateway.id

    def _gateway_at(self, address: IPAddress) -> GatewayId | None:
        return next((g.id for g in self._gateways.values() if address in g.addresses), None)

    # Flows of the portal.

    def _resume(self, resources: Iterable[ResourceId], now: int) -> None:
        """Ask for these now, and again while no gateway comes."""
        for resource in resources:
            is_ours = self._resources.get(resource) is not None
            if is_ours and resource not in self._gateway_of:
                self._resumptions.begin(resource, now)
                self._pending.expect(resource, now)
                self._ask(resource)

    def _want(self, resource: ResourceId, packet: bytes, now: int) -> None:
        if self._pending.wait(resource, packet, now):
            self._ask(resource)

    def _ask(self, resource: ResourceId) -> None:
        self._tell(messages.create_flow(resource, self._remembered))
        self._progress("flow_requested", resource=resource)

    def _create_flow(self, flow: messages.FlowCreated, now: int) -> None:
        asked_at = self._pending.asked_at(flow.resource_id)
        if asked_at is None or self._resources.get(flow.resource_id) is None:
            self.counters["flow that nobody waits for"] += 1
            return
        keys = PeerKeys(
            flow.gateway_public_key, flow.preshared_key, flow.client_ice, flow.gateway_ice
        )
        self._progress("flow_authorised", resource=flow.resource_id, gateway=flow.gateway_id)
        if not self._connect(flow.gateway_id, keys, now, signalling=(now - asked_at) // 2):
            return  # the packets go on waiting, and the next one asks the portal again
        addresses: frozenset[IPAddress] = frozenset({flow.gateway_ipv4, flow.gateway_ipv6})
        self._gateways[flow.gateway_id] = Gateway(flow.gateway_id, addresses)
        self._gateway_of[flow.resource_id] = flow.gateway_id
        if self.node.is_established(flow.gateway_id):
            self._resumptions.settle(flow.resource_id)
        else:
            self._resumptions.rest(flow.resource_id)
        self._remember(flow.gateway_id)
        self._resources.rebuild()
        self._commands.append(BumpGeneration(NOBODY))
        slot = self.node.slot_of(flow.gateway_id)
        pending = self._pending.take(flow.resource_id)
        if pending is not None and slot is not None:
            for packet in pending.packets.drain():
                self.node.send_packet(slot, packet, now)

    def _flow_failed(self, failure: messages.FlowCreationFailed) -> None:
        """Tell the senders that wait, unless a gateway may yet come. The intent stays, so that
        further packets do not ask the portal more often than before."""
        if failure.reason is not messages.FailureReason.OFFLINE:
            self._resumptions.settle(failure.resource_id)
            for packet in self._pending.waiting(failure.resource_id):
                answer = prohibited(packet)
                if answer is not None:
                    self._commands.append(DeliverPacket(answer))
        self._progress(
            "flow_refused",
            resource=failure.resource_id,
            reason=failure.reason.value,
            violated=list(failure.violated_properties),
        )

    def _remember(self, gateway: GatewayId) -> None:
        self._remembered.pop(gateway, None)
        self._remembered[gateway] = None
        while len(self._remembered) > REMEMBERED_GATEWAYS:
            del self._remembered[next(iter(self._remembered))]

    # Resources.

    def _set_resources(self, resources: tuple[messages.Resource, ...]) -> None:
        ours = [r for r in map(self._supported, resources) if r is not None]
        self._revoke(self._resources.replace(ours))

    def _put_resource(self, resource: messages.Resource, now: int) -> None:
        ours = self._supported(resource)
        if ours is not None:
            moved = self._resources.put(ours)
            self._revoke([ours.id] if moved else [])
            if ours.id in self._interrupted:
                del self._interrupted[ours.id]
                self._resume([ours.id], now)

    def _remove_resource(self, resource: ResourceId) -> None:
        """It comes back at once if only its gateway has another key now: then it is asked for
        without waiting for a packet, as after a change of network."""
        if self._resources.remove(resource):
            if resource in self._gateway_of or resource in self._resumptions:
                self._interrupted[resource] = None
            self._revoke([resource])

    def _supported(self, resource: messages.Resource) -> CidrResource | None:
        if not isinstance(resource, messages.CidrResource):
            self._progress("resource_unsupported", resource=resource.id, name=resource.name)
            return None
        sites = tuple(site.id for site in resource.sites)
        return CidrResource(resource.id, resource.name, resource.address, sites)

    def _revoke(self, resources: list[ResourceId]) -> None:
        """Forget how these are reached, and have every flow decided anew."""
        for resource in resources:
            self._pending.take(resource)
            self._resumptions.settle(resource)
            self._gateway_of.pop(resource, None)
        self._resources.rebuild()
        self._commands.append(BumpGeneration(NOBODY))
        for c in self.node.connections():
            self._commands.append(BumpGeneration(c.slot))

    # The node.

    def _signal(self, peer: str, candidates: list[str], *, withdrawn: bool) -> None:
        tell = messages.broadcast_ice_candidates
        if withdrawn:
            tell = messages.broadcast_invalidated_ice_candidates
        self._tell(tell([GatewayId(peer)], candidates))

    def _handle_node_event(self, event: ConnectionEvent) -> None:
        """What was in use when its connection failed is asked for until it is reached again."""
        served = self._served_by(event.connection)
        super()._handle_node_event(event)
        match event:
            case ConnectionEstablished():
                for resource in served:
                    self._resumptions.settle(resource)
            case ConnectionFailed(in_use=True):
                self._resume(served, event.at)
            case ConnectionFailed():
                for resource in served:
                    self._resumptions.go_on(resource, event.at)

    def _served_by(self, peer: str) -> list[ResourceId]:
        return [resource for resource, gateway in self._gateway_of.items() if gateway == peer]

    def _lost(self, peer: str) -> None:
        """The next packet for what this gateway served asks the portal again."""
        self._gateways.pop(GatewayId(peer), None)
        for resource in self._served_by(peer):
            del self._gateway_of[resource]
        self._resources.rebuild()
