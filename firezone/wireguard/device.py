"""A WireGuard interface without its I/O: peers, cryptokey routing, roaming, keepalives.

A peer has a slot and a tunnel id in the data plane for as long as it exists, and a `noise.Tunnel`
while the interface has a private key. What happens to a packet:

- Out. The longest allowed network that holds the destination names the peer; that answer becomes
  an entry of the flow table. Nobody's destination is refused for a second, and its sender told so.
  Without a session the packet comes back, waits here, and a handshake begins.
- In. The data plane opens it; its source must belong to the peer that sent it, by the same table.

A change of the allowed networks makes the flows of the peers that it touches stale. A peer's
endpoint is where its last authenticated message came from: a handshake message, which this machine
sees, or transport data, which the data plane reports as `handle_roamed`. We answer from the local
address that the peer reached us at, until a handshake goes unanswered: that address may be gone.

Handshakes are tried for 90 s, then waiting packets are given up. The next packet begins anew, and
so does the persistent keepalive, which goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

from firezone.commands import (
    NOBODY,
    Activity,
    BumpGeneration,
    Command,
    CookieSecret,
    DeliverPacket,
    Direction,
    Reinject,
    RemovePeer,
    Traffic,
)
from firezone.durations import SECOND
from firezone.model import Endpoint, Entropy, IPAddress, Timeout, Transmit
from firezone.node.deadlines import Deadlines
from firezone.node.slots import Slots
from firezone.noise import (
    Accepted,
    CookieReply,
    MessageType,
    RateLimiter,
    Rejected,
    StaticKeypair,
    TunnelIds,
    message_type,
    open_initiation,
    receiver_index,
    tunnel_id_of,
)
from firezone.policy.flow import Flow, forward, refuse
from firezone.policy.icmp import prohibited
from firezone.wireguard.allowed_ips import AllowedIPs
from firezone.wireguard.peer import Arrival, Outbox, Peer
from firezone.wireguard.settings import (
    MAX_PEERS,
    NO_KEY,
    DeviceChange,
    DeviceStatus,
    PeerChange,
    PeerStatus,
    SettingsError,
    is_usable,
)


class Device:
    """All peers of one interface.

    `activity` and `traffic` read what the data plane saw of a slot. `unix_now` is the wall clock in
    nanoseconds at `now`. Peers are distributed among the data plane's `workers`.
    """

    def __init__(
        self,
        *,
        entropy: Entropy,
        activity: Callable[[int], Activity],
        traffic: Callable[[int], Traffic],
        unix_now: int,
        now: int,
        workers: int = 1,
    ) -> None:
        self.listen_port = 0
        """What `status` shows; whoever owns the sockets sets it."""
        self.fwmark = 0
        self._entropy = entropy
        self._activity = activity
        self._traffic = traffic
        self._unix_offset = unix_now - now
        self._private_key: bytes | None = None
        self._static: StaticKeypair | None = None
        self._limiter: RateLimiter | None = None
        self._peers: dict[bytes, Peer] = {}
        self._by_slot: dict[int, Peer] = {}
        self._by_tunnel_id: dict[int, Peer] = {}
        self._allowed: AllowedIPs[int] = AllowedIPs()
        self._slots = Slots()
        self._tunnel_ids = TunnelIds(entropy, workers)
        self._deadlines = Deadlines()
        self._outbox = Outbox()

    @property
    def counters(self) -> Counter[str]:
        """What was dropped, by reason, but for what the peers' tunnels count themselves."""
        return self._outbox.counters

    @property
    def handshake_counters(self) -> Counter[str]:
        """What the tunnels of the present peers dropped, by reason."""
        total: Counter[str] = Counter()
        for peer in self._peers.values():
            if peer.tunnel is not None:
                total += peer.tunnel.counters
        return total

    @property
    def public_key(self) -> bytes | None:
        """None while there is no private key."""
        return None if self._static is None else self._static.public

    @property
    def cookie_secret(self) -> CookieSecret | None:
        """For the data plane; None while there is no private key."""
        return None if self._limiter is None else self._limiter.cookie_secret

    def configure(self, change: DeviceChange, now: int) -> None:
        """Carry a change out. Raises SettingsError, and does nothing, if a peer's key is no key.

        With another private key every session ends, and the data plane must be told the new public
        key: see `replay`.
        """
        self.check(change)
        if change.private_key is not None:
            self._set_private_key(change.private_key, now)
        if change.listen_port is not None:
            self.listen_port = change.listen_port
        if change.fwmark is not None:
            self.fwmark = change.fwmark
        if change.replace_peers:
            for peer in tuple(self._peers.values()):
                self._remove(peer)
        for peer_change in change.peers:
            self._configure_peer(peer_change, now)

    def check(self, change: DeviceChange) -> None:
        """Raise SettingsError for a change that `configure` would refuse."""
        _check_keys(change)
        present = set() if change.replace_peers else self._peers.keys()
        added = {peer.public_key for peer in change.peers if not peer.remove}
        if len(present | added) > MAX_PEERS:
            raise SettingsError(f"there can be {MAX_PEERS} peers")

    def replay(self, now: int) -> None:
        """Tell a data plane that knows nothing of the peers; their sessions begin anew."""
        for peer in self._peers.values():
            self._reset(peer, now)
        self._outbox.commands.clear()
        for peer in self._peers.values():
            peer.introduce()

    def status(self) -> DeviceStatus:
        """Everything, secrets included."""
        return DeviceStatus(
            private_key=self._private_key,
            listen_port=self.listen_port,
            fwmark=self.fwmark,
            peers=tuple(map(self._peer_status, self._peers.values())),
        )

    # Inputs.

    def handle_datagram(self, local: Endpoint, source: Endpoint, payload: bytes, now: int) -> None:
        """A datagram that is not transport data."""
        if self._static is None or self._limiter is None:
            self.counters["no private key"] += 1
            return
        match self._limiter.verify(payload, source, now):
            case Rejected(reason):
                self.counters[reason] += 1
            case CookieReply(message):
                self.counters["under_load"] += 1
                self._outbox.transmits.append(Transmit(message, source, local))
            case Accepted():
                self._handle_handshake(self._static, local, source, payload, now)

    def handle_flow_missed(self, direction: Direction, slot: int, packet: bytes, now: int) -> None:
        """A packet whose flow is undecided."""
        flow = Flow.of(packet, fragments=True)
        if flow is None:
            self.counters["unreadable packet"] += 1
        elif direction is Direction.UP:
            self._decide_up(flow, packet, now)
        else:
            self._decide_down(flow, slot, packet, now)

    def handle_unroutable(self, slot: int, packet: bytes, now: int) -> None:
        """A packet for a peer without session or endpoint: it waits for a session."""
        peer = self._by_slot.get(slot)
        if peer is None or peer.tunnel is None:
            self.counters["packet for an unusable peer"] += 1
            return
        if peer.endpoint is None:
            self.counters["packet for a peer without endpoint"] += 1
            self._refuse_to_sender(packet)
            return
        peer.stage(packet, now)
        self._settle(peer, now)

    def handle_session_confirmed(self, slot: int, local_index: int, now: int) -> None:
        """The first packet under a keypair of ours as responder came in."""
        peer = self._by_slot.get(slot)
        if peer is not None and peer.tunnel is not None:
            peer.tunnel.handle_session_confirmed(local_index, now)
            self._settle(peer, now)

    def handle_roamed(self, slot: int, local: Endpoint, remote: Endpoint, now: int) -> None:
        """The last authenticated transport data of a peer came from `remote` to `local`."""
        peer = self._by_slot.get(slot)
        if peer is not None:
            peer.move(Arrival(local, remote))

    def handle_send_failed(self, transmit: Transmit) -> None:
        """The host could not send a message of ours. Maybe its local address is gone: once more
        from any."""
        if transmit.source is not None:
            self.forget_sources(transmit.source)
            self._outbox.transmits.append(replace(transmit, source=None))

    def forget_sources(self, source: Endpoint | None = None) -> None:
        """Let the host choose where to send from, instead of `source`, or of all local addresses
        at which peers reached us."""
        for peer in self._peers.values():
            if source in (None, peer.source):
                peer.forget_source()

    def handle_timeout(self, now: int) -> None:
        """Do what is due."""
        for key in self._deadlines.due(now):
            peer = self._by_slot.get(int(key))
            if peer is not None:
                peer.handle_timeout(self._activity(peer.slot), now)
                self._settle(peer, now)

    # Outputs. Commands are to be carried out before the transmits of the same moment.

    def poll_command(self) -> Command | None:
        return self._outbox.commands.popleft() if self._outbox.commands else None

    def poll_transmit(self) -> Transmit | None:
        return self._outbox.transmits.popleft() if self._outbox.transmits else None

    def poll_timeout(self) -> Timeout | None:
        return self._deadlines.first()

    # Settings.

    def _set_private_key(self, key: bytes, now: int) -> None:
        wanted = None if key == NO_KEY else key
        if wanted == self._private_key:
            return
        if self._static is not None:
            self._static.wipe()
        self._private_key = wanted
        self._static = None if wanted is None else StaticKeypair.from_private(wanted)
        self._limiter = (
            None
            if self._static is None
            else RateLimiter(self._static.public, self._entropy, now=now)
        )
        own = self._peers.get(self.public_key or b"")
        if own is not None:
            self._remove(own)
        for peer in self._peers.values():
            self._reset(peer, now)

    def _configure_peer(self, change: PeerChange, now: int) -> None:
        peer = self._peers.get(change.public_key)
        if change.remove:
            if peer is not None:
                self._remove(peer)
            return
        if peer is None:
            if change.update_only or change.public_key == self.public_key:
                return
            peer = self._add(change.public_key, now)
        if change.preshared_key is not None:
            peer.set_preshared_key(change.preshared_key)
        if change.endpoint is not None:
            peer.set_endpoint(change.endpoint)
        self._set_allowed_ips(peer, change)
        if change.persistent_keepalive is not None:
            peer.set_keepalive(change.persistent_keepalive * SECOND, now)
        self._settle(peer, now)

    def _add(self, public_key: bytes, now: int) -> Peer:
        slot, tunnel_id = self._slots.allocate(), self._tunnel_ids.allocate()
        peer = Peer(public_key, slot, tunnel_id, self._outbox)
        self._peers[public_key] = self._by_slot[peer.slot] = peer
        self._by_tunnel_id[peer.tunnel_id] = peer
        peer.introduce()
        self._reset(peer, now)
        return peer

    def _remove(self, peer: Peer) -> None:
        if peer.tunnel is not None:
            peer.tunnel.close()
        self._allowed.remove_all(peer.slot)
        self._deadlines.set(str(peer.slot), None)
        self._outbox.commands.append(RemovePeer(peer.slot))
        self._slots.release(peer.slot)
        self._tunnel_ids.release(peer.tunnel_id)
        del self._peers[peer.public_key]
        del self._by_slot[peer.slot]
        del self._by_tunnel_id[peer.tunnel_id]

    def _reset(self, peer: Peer, now: int) -> None:
        peer.reset(self._static, self._entropy, self._unix_offset + now, now)
        self._settle(peer, now)

    def _set_allowed_ips(self, peer: Peer, change: PeerChange) -> None:
        touched: set[int] = set()
        if change.replace_allowed_ips:
            kept = {allowed.network for allowed in change.allowed_ips if not allowed.remove}
            for network in self._allowed.of(peer.slot):
                if network not in kept:
                    self._allowed.remove(network, peer.slot)
                    touched.add(peer.slot)
        for allowed in change.allowed_ips:
            if allowed.remove:
                if self._allowed.remove(allowed.network, peer.slot):
                    touched.add(peer.slot)
                continue
            before = self._allowed.insert(allowed.network, peer.slot)
            if before != peer.slot:
                touched |= {before or NOBODY, peer.slot}
        self._outbox.commands.extend(BumpGeneration(group) for group in sorted(touched))

    # Packets.

    def _decide_up(self, flow: Flow, packet: bytes, now: int) -> None:
        slot = self._allowed.lookup(flow.destination)
        if slot is None:
            self.counters["packet for nobody"] += 1
            self._outbox.commands.append(refuse(flow, Direction.UP, NOBODY, now))
            self._refuse_to_sender(packet)
            return
        self._outbox.commands.extend(forward(flow, Direction.UP, slot))
        self._outbox.commands.append(Reinject(Direction.UP, slot, packet))

    def _decide_down(self, flow: Flow, slot: int, packet: bytes, now: int) -> None:
        if slot not in self._by_slot:
            self.counters["packet of nobody"] += 1
        elif self._allowed.lookup(flow.source) == slot:
            self._outbox.commands.extend(forward(flow, Direction.DOWN, slot))
            self._outbox.commands.append(Reinject(Direction.DOWN, slot, packet))
        else:
            self.counters["packet with a foreign source"] += 1
            self._outbox.commands.append(refuse(flow, Direction.DOWN, slot, now))

    def _refuse_to_sender(self, packet: bytes) -> None:
        answer = prohibited(packet) if _is_unicast(packet) else None
        if answer is not None:
            self._outbox.commands.append(DeliverPacket(answer))

    # Handshakes.

    def _handle_handshake(
        self, static: StaticKeypair, local: Endpoint, source: Endpoint, message: bytes, now: int
    ) -> None:
        peer = self._take_handshake(static, message, now)
        if peer is None:
            self.counters["handshake of nobody"] += 1
            return
        self._settle(peer, now, Arrival(local, source))

    def _take_handshake(self, static: StaticKeypair, message: bytes, now: int) -> Peer | None:
        """Give a message to the tunnel it is for: an initiation names its sender's key, the others
        an index of ours."""
        if message_type(message) is MessageType.HANDSHAKE_INITIATION:
            opened = open_initiation(static, message)
            peer = self._peers.get(opened.initiator) if opened is not None else None
            if opened is None or peer is None or peer.tunnel is None:
                return None
            peer.tunnel.handle_initiation(opened, now)
            return peer
        index = receiver_index(message)
        peer = None if index is None else self._by_tunnel_id.get(tunnel_id_of(index))
        if peer is None or peer.tunnel is None:
            return None
        peer.tunnel.handle_handshake(message, now)
        return peer

    def _settle(self, peer: Peer, now: int, arrival: Arrival | None = None) -> None:
        """Let out all that the peer has to say, then wait for its next deadline."""
        peer.settle(now, arrival)
        self._deadlines.set(str(peer.slot), peer.next_timeout(self._activity(peer.slot)))

    def _peer_status(self, peer: Peer) -> PeerStatus:
        established = None if peer.tunnel is None else peer.tunnel.established_at
        return PeerStatus(
            public_key=peer.public_key,
            preshared_key=peer.preshared_key,
            endpoint=peer.endpoint,
            last_handshake=0 if established is None else established + self._unix_offset,
            traffic=self._traffic(peer.slot),
            persistent_keepalive=peer.keepalive_interval // SECOND,
            allowed_ips=self._allowed.of(peer.slot),
        )


def _check_keys(change: DeviceChange) -> None:
    """Raise SettingsError for a key that no tunnel could be made with."""
    if not all(peer.remove or is_usable(peer.public_key) for peer in change.peers):
        raise SettingsError("a peer's public key is of small order")


def _is_unicast(packet: bytes) -> bool:
    """Nobody answers what goes to or comes from many, or from nowhere (RFC 1122, RFC 4443)."""
    match packet[0] >> 4 if packet else 0:
        case 4 if len(packet) >= 20:
            ends = packet[12:16], packet[16:20]
        case 6 if len(packet) >= 40:
            ends = packet[8:24], packet[24:40]
        case _:
            return False
    addresses: list[IPAddress] = [ip_address(end) for end in ends]
    return not any(a.is_multicast or a.is_unspecified for a in addresses) and ends[1] != b"\xff" * 4
