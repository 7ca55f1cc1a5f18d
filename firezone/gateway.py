"""The Gateway: lets clients in as the portal says, and holds every packet of theirs to it.

The portal grants a client resources, each with filters and perhaps an expiry. A packet of a client
that no flow covers comes here once: it must bear the client's own tunnel address, and some granted
resource must permit it. What may not pass is answered with ICMP administratively prohibited. A
change of the grants makes the client's flows stale at once, so it bites on the next packet.

Grants outlive the connection: a client that comes back finds what it was granted before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Unpack

from firezone.commands import (
    BumpGeneration,
    Direction,
    Reinject,
)
from firezone.durations import SECOND
from firezone.model import (
    ClientId,
    IPAddress,
    ResourceId,
    Timeout,
    earliest,
)
from firezone.node import PeerKeys
from firezone.node.deadlines import Deadlines
from firezone.phoenix.messages import RelaysPresence
from firezone.phoenix.messages import gateway as messages
from firezone.policy import (
    TUNNEL_IPV4,
    TUNNEL_IPV6,
    Access,
    ControlKind,
    Filter,
    Flow,
    Grant,
    Protocol,
    control_kind,
    forward,
    prohibited,
    refuse,
)
from firezone.roles import (
    PeerFacts,
    Rebind,
    ReconnectPortal,
    Role,
    RoleArguments,
    TellPortal,
    candidates,
    relays,
)

CLOCK_TOLERANCE = 1 * SECOND
"""How far the wall clock may be from what we reckon with: expiries are in whole seconds."""

_PROTOCOLS = {
    messages.Protocol.TCP: Protocol.TCP,
    messages.Protocol.UDP: Protocol.UDP,
    messages.Protocol.ICMP: Protocol.ICMP,
}


@dataclass(slots=True)
class Peer:
    """A client, and what it may reach."""

    id: ClientId
    addresses: frozenset[IPAddress]
    access: Access = field(default_factory=Access)


class Gateway(Role):
    """The state machine of `firezone gateway`. Expiries are wall time."""

    peer = "client"

    def __init__(self, **arguments: Unpack[RoleArguments]) -> None:
        super().__init__(**arguments)
        self._unix_offset = arguments["unix_now"] - arguments["now"]
        self._peers: dict[ClientId, Peer] = {}
        self._by_address: dict[IPAddress, Peer] = {}
        self._expiries = Deadlines()

    # Inputs.

    def handle_message(self, message: messages.Message, now: int) -> None:
        """What the portal said."""
        match message:
            case messages.Init():
                self._init(message, now)
            case messages.AuthorizeFlow():
                self._authorize(message, now)
            case messages.ResourceUpdated():
                self._update_resource(message.resource)
            case messages.RejectAccess():
                self._reject(message)
            case messages.AccessAuthorizationExpiryUpdated():
                peer = self._peers.get(message.client_id)
                if peer and peer.access.set_expiry(message.resource_id, message.expires_at):
                    self._decide_anew(peer)
            case RelaysPresence():
                gone = message.disconnected_ids
                self.node.update_relays(gone, relays(message.connected), now)
            case messages.IceCandidates():
                for candidate in candidates(message.candidates):
                    self.node.add_remote_candidate(message.client_id, candidate, now)
            case messages.InvalidateIceCandidates():
                for candidate in candidates(message.candidates):
                    self.node.remove_remote_candidate(message.client_id, candidate, now)
        self._drain_node()

    def reset(self, now: int) -> None:
        """The network changed: new key, new sockets, all clients anew. The portal tells them, as it
        sees another key."""
        self.node.reset(now)
        self._drain_node()
        self._events.append(Rebind())
        self._events.append(ReconnectPortal("network changed"))

    def handle_flow_missed(self, direction: Direction, slot: int, packet: bytes, now: int) -> None:
        """A packet whose flow is not decided: from a client (DOWN) or from the TUN (UP)."""
        if direction is Direction.DOWN:
            self._decide_down(slot, packet, now)
        else:
            self._decide_up(packet, now)
        self._drain_node()

    def handle_wall_clock(self, unix_now: int, now: int) -> None:
        """A step of more than a second makes every expiry be reckoned, and every flow decided,
        anew. Less is let be, so that a clock which is being slewed costs nothing."""
        super().handle_wall_clock(unix_now, now)
        offset = unix_now - now
        if abs(offset - self._unix_offset) <= CLOCK_TOLERANCE:
            return
        self._unix_offset = offset
        self.counters["steps of the wall clock"] += 1
        for peer in tuple(self._peers.values()):
            self._decide_anew(peer)

    def handle_timeout(self, now: int) -> None:
        super().handle_timeout(now)
        self._expire(now)

    # Outputs.

    def poll_timeout(self) -> Timeout | None:
        return earliest(super().poll_timeout(), self._expiries.first())

    # For whoever looks on.

    def peer_facts(self, peer: str) -> PeerFacts:
        known = self._peers.get(ClientId(peer))
        if known is None:
            return PeerFacts()
        return PeerFacts(known.addresses, tuple(sorted(known.access)))

    def peer_at(self, address: IPAddress) -> str | None:
        peer = self._by_address.get(address)
        return None if peer is None else peer.id

    def why_nobody(self, address: IPAddress) -> str:
        return f"no client of ours has the address {address}"

    # Packets.

    def _decide_down(self, slot: int, packet: bytes, now: int) -> None:
        peer = self._peers.get(ClientId(self.node.connection_at(slot) or ""))
        kind = control_kind(packet)
        if kind is not None:
            self._handle_control(slot, kind, now)
            return
        flow = Flow.of(packet)
        if flow is None:
            self.counters["packet that cannot be read"] += 1
            return
        expires_at = self._permitted_until(peer, flow, now)
        if expires_at is None:
            self._refuse(flow, slot, packet, now)
            return
        self._commands.extend(forward(flow, Direction.DOWN, slot, expires_at))
        self._commands.append(Reinject(Direction.DOWN, slot, packet))

    def _permitted_until(self, peer: Peer | None, flow: Flow, now: int) -> int | None:
        """Until when (0: for ever) the flow of a client may pass; None: it may not."""
        if peer is None or flow.source not in peer.addresses:
            self.counters["packet with a foreign source"] += 1
            return None
        if self._is_ours(flow.destination):
            return 0
        decision = peer.access.decide(
            flow.destination, flow.protocol, flow.filter_port, self._unix_seconds(now)
        )
        if decision.refusal is not None:
            self.counters[f"refused: {decision.refusal.value}"] += 1
            return None
        return self._deadline(decision.expires_at)

    def _refuse(self, flow: Flow, slot: int, packet: bytes, now: int) -> None:
        self._commands.append(refuse(flow, Direction.DOWN, slot, now))
        answer = prohibited(packet)
        if answer is not None:
            self.node.send_packet(slot, answer, now)

    def _decide_up(self, packet: bytes, now: int) -> None:
        """What comes from a resource passes where the same filters permit its source. Mostly it is
        the reply to a flow of the client, which is installed already."""
        flow = Flow.of(packet)
        peer = self._by_address.get(flow.destination) if flow is not None else None
        slot = self.node.slot_of(peer.id) if peer is not None else None
        if flow is None or peer is None or slot is None:
            self.counters["packet for nobody"] += 1
            return
        if self._is_ours(flow.source):
            expires_at: int | None = 0
        else:
            decision = peer.access.decide(
                flow.source, flow.protocol, flow.reply_filter_port, self._unix_seconds(now)
            )
            refused = decision.refusal is not None
            expires_at = None if refused else self._deadline(decision.expires_at)
        if expires_at is None:
            self.counters["reply that is not permitted"] += 1
            self._commands.append(refuse(flow, Direction.UP, slot, now))
            return
        self._commands.extend(forward(flow, Direction.UP, slot, expires_at))
        self._commands.append(Reinject(Direction.UP, slot, packet))

    def _handle_control(self, slot: int, kind: int, now: int) -> None:
        connection = self.node.connection_at(slot)
        if kind == ControlKind.GOODBYE and connection is not None:
            self.node.close_connection(connection, "the peer said goodbye", now)
        else:
            self.counters["control packet of an unknown kind"] += 1

    # Grants.

    def _init(self, message: messages.Init, now: int) -> None:
        self._interface = message.interface
        self.node.update_relays((), relays(message.relays), now)
        listed: dict[ClientId, dict[ResourceId, int]] = {}
        for grant in message.authorizations:
            listed.setdefault(grant.client_id, {})[grant.resource_id] = grant.expires_at
        for client, grants in listed.items():
            peer = self._peers.get(client)
            if peer is not None:
                peer.access.retain(grants)
                for resource, expires_at in grants.items():
                    peer.access.set_expiry(resource, expires_at)
                self._decide_anew(peer)
        self._configure_tun(frozenset({TUNNEL_IPV4, TUNNEL_IPV6}))
        self._progress("ready", clients=len(self._peers))

    def _authorize(self, flow: messages.AuthorizeFlow, now: int) -> None:
        resource = flow.resource
        if not isinstance(resource, messages.CidrResource):
            self._progress("resource_unsupported", resource=resource.id)
            return
        client = flow.client
        keys = PeerKeys(client.public_key, client.preshared_key, flow.gateway_ice, flow.client_ice)
        peer = self._peer(client)
        grant = Grant(resource.id, resource.address, _filters(resource), flow.expires_at)
        peer.access.authorize(grant)
        self._note_expiry(peer)
        if not self._connect(client.id, keys, now):
            return
        self._decide_anew(peer)
        self._progress("flow_authorised", client=client.id, resource=resource.id)
        self._events.append(TellPortal(*messages.flow_authorized(flow.ref)))

    def _peer(self, client: messages.Client) -> Peer:
        """The record of a client; a client whose addresses changed is another one."""
        addresses: frozenset[IPAddress] = frozenset({client.ipv4, client.ipv6})
        peer = self._peers.get(client.id)
        if peer is None or peer.addresses != addresses:
            if peer is not None:
                self._drop(peer)
            peer = self._peers[client.id] = Peer(client.id, addresses)
            for address in addresses:
                self._by_address[address] = peer
        return peer

    def _update_resource(self, resource: messages.Resource) -> None:
        if not isinstance(resource, messages.CidrResource):
            return
        for peer in tuple(self._peers.values()):
            if peer.access.set_filters(resource.id, _filters(resource)):
                self._decide_anew(peer)

    def _reject(self, message: messages.RejectAccess) -> None:
        peer = self._peers.get(message.client_id)
        if peer is not None and peer.access.revoke(message.resource_id):
            self._progress("access_revoked", client=peer.id, resource=message.resource_id)
            self._decide_anew(peer)

    def _expire(self, now: int) -> None:
        for client in self._expiries.due(now):
            peer = self._peers[ClientId(client)]
            for resource in peer.access.expire(self._unix_seconds(now)):
                self._progress("access_expired", client=peer.id, resource=resource)
            self._decide_anew(peer)

    def _drop(self, peer: Peer) -> None:
        self._peers.pop(peer.id, None)
        self._expiries.set(peer.id, None)
        for address in peer.addresses:
            if self._by_address.get(address) is peer:
                del self._by_address[address]

    def _decide_anew(self, peer: Peer) -> None:
        """Make all flows of a client stale: the policy has changed. Who may do nothing any more
        and is not connected is forgotten."""
        self._note_expiry(peer)
        slot = self.node.slot_of(peer.id)
        if slot is not None:
            self._commands.append(BumpGeneration(slot))
        elif not peer.access:
            self._drop(peer)

    def _note_expiry(self, peer: Peer) -> None:
        """In time and by client, so that nobody has to ask them all with each packet."""
        expiry = peer.access.next_expiry()
        deadline = None if expiry is None else expiry * SECOND - self._unix_offset
        timeout = None if deadline is None else Timeout(deadline, "access expires")
        self._expiries.set(peer.id, timeout)

    def _unix_seconds(self, now: int) -> int:
        return (now + self._unix_offset) // SECOND

    def _deadline(self, expires_at: int | None) -> int:
        """Wall time to the data plane's: absolute nanoseconds, 0 = never."""
        return 0 if expires_at is None else max(1, expires_at * SECOND - self._unix_offset)

    # The node.

    def _signal(self, peer: str, candidates: list[str], *, withdrawn: bool) -> None:
        tell = messages.broadcast_ice_candidates
        if withdrawn:
            tell = messages.broadcast_invalidated_ice_candidates
        self._tell(tell([ClientId(peer)], candidates))

    def _lost(self, peer: str) -> None:
        """Grants stand until the portal or their expiry ends them; without any, nothing does."""
        known = self._peers.get(ClientId(peer))
        if known is not None and not known.access:
            self._drop(known)


def _filters(resource: messages.CidrResource) -> tuple[Filter, ...]:
    return tuple(Filter(_PROTOCOLS[f.protocol], f.port_start, f.port_end) for f in resource.filters)
