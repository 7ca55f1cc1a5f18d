"""Permissions of the relay, and the data that needs them: Send and Data (RFC 8656, 9 to 11).

A permission is for an IP address and lasts 300 s. CreatePermission installs it, and so does
ChannelBind; but a bound channel carries data without one, for 600 s: clients of Firezone bind anew
only after 300 s, and only if data came in.

They do not know Data indications either. So those go only to a client that has sent a
CreatePermission or a Send; then the shell is told of its permissions (`Permit`), old and new, and
may relay by itself what they let through. It hands over every Send of which it is not certain.
"""

from __future__ import annotations

from typing import Final

from firezone import stun
from firezone.errors import LocalError
from firezone.model import Endpoint, Entropy, IPAddress, Transmit
from firezone.stun import Message, Method
from firezone.turn.relay_commands import FiveTuple, Forbid, Permit, SendToPeer
from firezone.turn.relay_exchange import Exchange
from firezone.turn.relay_outbox import Outbox
from firezone.turn.relay_peers import PeerPolicy
from firezone.turn.relay_table import Allocation, Permission, RelayTable

MAX_PERMISSIONS: Final = 4096
"""Per allocation."""


class Permissions:
    """Who may send to whom without a channel."""

    def __init__(
        self,
        table: RelayTable,
        outbox: Outbox,
        *,
        peers: PeerPolicy,
        per_user: int | None,
        entropy: Entropy,
    ) -> None:
        self._table = table
        self._outbox = outbox
        self.peers = peers
        """Whom one may send to. Changed by `set_peers`."""
        self._per_user = per_user
        self._entropy = entropy

    def judge_channel(self, allocation: Allocation, peer: Endpoint) -> int | None:
        """The error code for a peer that no channel of this allocation may have."""
        code = self.judge(allocation, peer)
        return 403 if code is None and not self.peers.allows(peer) else code

    def judge(self, allocation: Allocation, *peers: Endpoint) -> int | None:
        """The error code for peers whose addresses the allocation cannot or may not reach, or for
        more of them than it can have."""
        if any(peer.family not in allocation.families for peer in peers):
            return 443
        if not all(self.peers.permits(peer.address) for peer in peers):
            return 403
        new = {peer.address for peer in peers} - allocation.permissions.keys()
        if len(allocation.permissions) + len(new) > MAX_PERMISSIONS:
            return 508
        if not new or self._per_user is None:
            return None
        present = self._table.permissions_of[allocation.user]
        return 486 if present + len(new) > self._per_user else None

    def install(self, allocation: Allocation, address: IPAddress, now: int) -> None:
        """Install the permission, or let it last anew."""
        if self._table.permit(allocation, address, now) and allocation.takes_data:
            self._outbox.put(self._permit_command(allocation, address))

    def handle_create_permission(
        self, exchange: Exchange, allocation: Allocation | None, now: int
    ) -> None:
        """An authenticated request: all of its peers, or none."""
        peers = exchange.request.get_all(stun.XOR_PEER_ADDRESS)
        if allocation is None or not peers:
            self._outbox.refuse(exchange, 437 if allocation is None else 400)
            return
        code = self.judge(allocation, *peers)
        if code is not None:
            self._outbox.refuse(exchange, code)
            return
        self._take_data(allocation)
        for peer in peers:
            self.install(allocation, peer.address, now)
        self._outbox.succeed(exchange)

    def handle_send(self, allocation: Allocation | None, indication: Message) -> None:
        """A Send indication: nobody is told why it is dropped, but the operator."""
        peer, data = indication.get(stun.XOR_PEER_ADDRESS), indication.get(stun.DATA)
        if allocation is None:
            self._outbox.count("send_without_allocation")
        elif peer is None or data is None or peer.port == 0:
            self._outbox.count("send_malformed")
        elif not self._may_reach(allocation, peer):
            allowed = self.peers.allows(peer)
            self._outbox.count("send_without_permission" if allowed else "send_forbidden")
        else:
            self._take_data(allocation)
            self._outbox.counters["relayed_bytes"] += len(data)
            dont_fragment = indication.get(stun.DONT_FRAGMENT) is not None
            self._outbox.put(SendToPeer(allocation.port, peer, data, dont_fragment))

    def handle_peer_data(self, allocation: Allocation, peer: Endpoint, data: bytes) -> None:
        """What a peer has sent that has no channel."""
        if not allocation.takes_data or peer.address not in allocation.permissions:
            self._outbox.count("unbound_peer")
            return
        indication = Message.indication(Method.DATA, self._entropy)
        indication = indication.with_(stun.XOR_PEER_ADDRESS, peer).with_(stun.DATA, data)
        try:
            encoded = indication.encode()
        except LocalError:
            self._outbox.count("data_too_long")
            return
        self._outbox.counters["relayed_bytes"] += len(data)
        self._outbox.put(_transmit(encoded, allocation.five_tuple))

    def revoke(self, permission: Permission) -> None:
        """Its time is up, or its address family is given back."""
        self._table.revoke(permission)
        if permission.allocation.takes_data:
            self._outbox.put(Forbid(permission.allocation.port, permission.address))

    def revoke_all(self, allocation: Allocation, family: int | None = None) -> None:
        """All of an allocation, or of one of its families."""
        for permission in [*allocation.permissions.values()]:
            if family is None or permission.address.version == family:
                self.revoke(permission)

    def set_peers(self, peers: PeerPolicy) -> None:
        """Change whom one may send to. Permissions that would not be given any more end."""
        before, self.peers = self.peers, peers
        turned = {a for a in peers.own_addresses if _any_port(before, a) != _any_port(peers, a)}
        for allocation in self._table.by_client.values():
            self._revoke_forbidden(allocation)
            if allocation.takes_data:
                changed = turned & allocation.permissions.keys()
                self._outbox.put(*(self._permit_command(allocation, a) for a in changed))

    def _revoke_forbidden(self, allocation: Allocation) -> None:
        for permission in [*allocation.permissions.values()]:
            if not self.peers.permits(permission.address):
                self._outbox.count("permission_revoked")
                self.revoke(permission)

    def _may_reach(self, allocation: Allocation, peer: Endpoint) -> bool:
        """A permitted address has been judged; but of this host some ports are forbidden."""
        if peer.address not in allocation.permissions:
            return False
        judged = peer.address not in self.peers.own_addresses and peer.port != self.peers.one_port
        return judged or self.peers.allows(peer)

    def _take_data(self, allocation: Allocation) -> None:
        if not allocation.takes_data:
            allocation.takes_data = True
            present = allocation.permissions
            self._outbox.put(*(self._permit_command(allocation, a) for a in present))

    def _permit_command(self, allocation: Allocation, address: IPAddress) -> Permit:
        any_port = address not in self.peers.own_addresses or _any_port(self.peers, address)
        return Permit(allocation.five_tuple, allocation.port, address, any_port)


def _any_port(peers: PeerPolicy, address: IPAddress) -> bool:
    """Whether an address may be sent to whatever the port: 0 is no allocation's."""
    return peers.allows(Endpoint(address, 0))


def _transmit(data: bytes, five_tuple: FiveTuple) -> Transmit:
    return Transmit(data, five_tuple.client, five_tuple.local)
