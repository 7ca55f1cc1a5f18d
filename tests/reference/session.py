"""The slow twin of the session kernel: sets instead of bit rings, `cryptography` for the AEAD."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from firezone._ext.batch import Verdict
from firezone.commands import Activity

LAST_COUNTER = 2**64 - 2**13 - 1
RING = 8192


class Window:
    """Accepts each counter once. What leaves the ring (RFC 6479) leaves word by word of 64."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.next = 0

    def allows(self, counter: int) -> bool:
        if counter >= self.next:
            return True
        return self.next - counter <= RING - 64 and counter not in self.seen

    def mark(self, counter: int) -> None:
        self.seen.add(counter)
        self.next = max(self.next, counter + 1)


@dataclass(eq=False)
class Keypair:
    local_index: int
    remote_index: int
    send_key: bytes
    receive_key: bytes
    initiator: bool
    created_at: int
    send_until: int
    receive_until: int
    counter: int = 0
    confirmed: bool = False
    window: Window = field(default_factory=Window)


class Peer:
    def __init__(self, tunnel_id: int) -> None:
        self.tunnel_id = tunnel_id
        self.keypairs: dict[int, Keypair] = {}
        self.send: Keypair | None = None
        self.activity = Activity()

    def take_send_slot(self, keypair: Keypair) -> bool:
        if self.send is not None and self.send.created_at > keypair.created_at:
            return False
        self.send = keypair
        return True

    def drop(self, place: int) -> None:
        if self.send is self.keypairs.pop(place, object()):
            self.send = None


@dataclass
class Result:
    """The state of one slot after a stage."""

    verdict: Verdict
    packet: bytes
    peer: int = 0
    confirmed: bool = False


class Sessions:
    """One packet at a time, in the order of the slots."""

    def __init__(self) -> None:
        self.peers: dict[int, Peer] = {}

    def add_peer(self, slot: int, tunnel_id: int) -> None:
        self.peers[slot] = Peer(tunnel_id)

    def remove_peer(self, slot: int) -> None:
        del self.peers[slot]

    def install_keypair(self, slot: int, keypair: Keypair) -> None:
        peer = self.peers[slot]
        peer.drop(keypair.local_index % 8)
        peer.keypairs[keypair.local_index % 8] = keypair
        if keypair.initiator:
            peer.take_send_slot(keypair)

    def remove_keypair(self, slot: int, local_index: int) -> None:
        peer = self.peers[slot]
        keypair = peer.keypairs.get(local_index % 8)
        if keypair is not None and keypair.local_index == local_index:
            peer.drop(local_index % 8)

    def activity(self, slot: int) -> Activity:
        peer = self.peers[slot]
        if peer.send is None:
            return replace(peer.activity, current_index=0, send_counter=0)
        return replace(
            peer.activity, current_index=peer.send.local_index, send_counter=peer.send.counter
        )

    def seal(self, slot: int, packet: bytes, now: int) -> Result:
        peer = self.peers.get(slot)
        keypair = peer.send if peer else None
        if peer is None or keypair is None or now >= keypair.send_until:
            return Result(Verdict.UNROUTABLE, packet, slot)
        if keypair.counter >= LAST_COUNTER:
            return Result(Verdict.UNROUTABLE, packet, slot)
        counter, keypair.counter = keypair.counter, keypair.counter + 1
        header = b"\x04\0\0\0" + keypair.remote_index.to_bytes(4, "little")
        number = counter.to_bytes(8, "little")
        sealed = ChaCha20Poly1305(keypair.send_key).encrypt(bytes(4) + number, packet, None)
        self._note_sent(peer, bool(packet), now)
        return Result(Verdict.PASS, header + number + sealed, slot)

    def open(self, message: bytes, now: int) -> Result:
        if len(message) < 32 or message[:4] != b"\x04\0\0\0":
            return Result(Verdict.MALFORMED, message)
        index = int.from_bytes(message[4:8], "little")
        counter = int.from_bytes(message[8:16], "little")
        slots = [s for s, peer in self.peers.items() if peer.tunnel_id == index >> 8]
        if not slots:
            return Result(Verdict.NO_PEER, message)
        peer = self.peers[slots[0]]
        keypair = peer.keypairs.get(index % 8)
        if keypair is None or keypair.local_index != index:
            return Result(Verdict.WRONG_INDEX, message)
        if now >= keypair.receive_until or counter >= LAST_COUNTER:
            return Result(Verdict.EXPIRED, message)
        if not keypair.window.allows(counter):
            return Result(Verdict.REPLAYED, message)
        nonce = bytes(4) + message[8:16]
        try:
            packet = ChaCha20Poly1305(keypair.receive_key).decrypt(nonce, message[16:], None)
        except InvalidTag:
            return Result(Verdict.BAD_TAG, message)
        keypair.window.mark(counter)
        self._note_received(peer, bool(packet), now)
        first, keypair.confirmed = not keypair.confirmed, True
        confirmed = first and not keypair.initiator and peer.take_send_slot(keypair)
        verdict = Verdict.PASS if packet else Verdict.CONSUMED
        return Result(verdict, packet, slots[0], confirmed)

    # The stamp of the later call is the greater one, even within one nanosecond.

    def _note_sent(self, peer: Peer, data: bool, now: int) -> None:
        a = peer.activity
        tied = a.unacknowledged_since == now + 1
        peer.activity = a = replace(a, sent_any=now + 1 if tied else now)
        if data:
            standing = a.unanswered_since > a.received_any
            since = a.unanswered_since if standing else max(now, a.received_any + 1)
            peer.activity = replace(a, sent_data=now, unanswered_since=since)

    def _note_received(self, peer: Peer, data: bool, now: int) -> None:
        a = peer.activity
        tied = a.unanswered_since == now + 1
        peer.activity = a = replace(a, received_any=now + 1 if tied else now)
        if data:
            standing = a.unacknowledged_since > a.sent_any
            since = a.unacknowledged_since if standing else max(now, a.sent_any + 1)
            peer.activity = replace(a, received_data=now, unacknowledged_since=since)
