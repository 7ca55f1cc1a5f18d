"""The slow twin of the relay kernel: dictionaries and a set, one datagram at a time."""

from __future__ import annotations

import struct
from collections import Counter
from typing import ClassVar, NamedTuple

from firezone import stun
from firezone.model import Endpoint, unpack_address
from firezone.stun import Class, Message, Method

Address = tuple[int, bytes, int]

RING_PAYLOAD = 2240
PLAIN = {stun.XOR_PEER_ADDRESS, stun.DATA, stun.SOFTWARE}
"""What a Send has that needs no second look, and FINGERPRINT."""
MAGIC_COOKIE = b"\x21\x12\xa4\x42"


class Channel(NamedTuple):
    client: Address
    local: Address
    number: int
    port: int
    peer: Address


class Sent(NamedTuple):
    """A datagram that leaves: through the socket of `port`, from `source` if that is told."""

    port: int
    destination: Address
    payload: bytes


class Control(NamedTuple):
    """A STUN message for the control layer."""

    local: Address
    remote: Address
    payload: bytes


class Permit(NamedTuple):
    client: Address
    local: Address
    any_port: bool


class Forwarder:
    def __init__(self, ports: set[tuple[int, int]]) -> None:
        """`ports` are families and ports of allocations."""
        self.ports = ports
        self.permits: dict[tuple[int, int, bytes], Permit] = {}
        self.forward: dict[tuple[Address, Address, int], Channel] = {}
        self.back: dict[tuple[int, Address], Channel] = {}
        self.drops: Counter[str] = Counter()

    def bind(self, channel: Channel) -> None:
        self.unbind(channel.client, channel.local, channel.number)
        self.forward[channel.client, channel.local, channel.number] = channel
        self.back[channel.port, channel.peer] = channel

    def unbind(self, client: Address, local: Address, number: int) -> bool:
        channel = self.forward.pop((client, local, number), None)
        if channel is not None:
            del self.back[channel.port, channel.peer]
        return channel is not None

    def permit(
        self, client: Address, local: Address, port: int, peer: Address, any_port: bool
    ) -> bool:
        """False if somebody else has that allocation, or the client another one."""
        present = self.permits.get((port, *peer[:2]))
        if present is not None and present[:2] != (client, local):
            return False
        if any(p != port and v[:2] == (client, local) for (p, *_), v in self.permits.items()):
            return False
        self.permits[port, *peer[:2]] = Permit(client, local, any_port)
        return True

    def forbid(self, peer: Address, port: int) -> bool:
        return self.permits.pop((port, *peer[:2]), None) is not None

    def from_client(self, client: Address, local: Address, data: bytes) -> Sent | Control | None:
        if not data or not 0x40 <= data[0] < 0x80:
            if len(data) >= 20 and data[0] < 4 and data[4:8] == MAGIC_COOKIE:
                found = self._send(client, local, data)
                if found is None and len(data) > RING_PAYLOAD:
                    return self._drop("control_overflow")
                return found or Control(local, client, data)
            return self._drop("unknown_protocol")
        if len(data) < 4:
            return self._drop("truncated")
        number, length = struct.unpack_from(">HH", data)
        if 4 + length > len(data):
            return self._drop("truncated")
        channel = self.forward.get((client, local, number))
        if channel is None:
            return self._drop("unbound_channel")
        return Sent(channel.port, channel.peer, data[4 : 4 + length])

    def from_peer(self, port: int, peer: Address, payload: bytes) -> Sent | None:
        channel = self.back.get((port, peer))
        permit = self.permits.get((port, *peer[:2]))
        if channel is None and permit is not None:
            message = Message(Class.INDICATION, Method.DATA, bytes(12))
            message = message.with_(stun.XOR_PEER_ADDRESS, endpoint(peer))
            data = message.with_(stun.DATA, payload).encode()
            return Sent(permit.local[2], permit.client, data)
        if channel is None:
            return self._drop("unbound_peer")
        header = struct.pack(">HH", channel.number, len(payload))
        return Sent(channel.local[2], channel.client, header + payload)

    def _send(self, client: Address, local: Address, data: bytes) -> Sent | None:
        try:
            message = stun.decode(data)
        except stun.DecodeError:
            return None
        if (message.class_, message.method) != (Class.INDICATION, Method.SEND):
            return None
        if message.has_fingerprint and not message.verify_fingerprint():
            return None
        if message.unknown or message.malformed is not None or message.has_integrity:
            return None
        peer, payload = message.get(stun.XOR_PEER_ADDRESS), message.get(stun.DATA)
        if peer is None or payload is None or not peer.port:
            return None
        if {attribute for attribute, _ in message.attributes} - PLAIN:
            return None
        whole = (peer.family, peer.address.packed, peer.port)
        for (port, *address), permit in self.permits.items():
            if (*address,) == whole[:2] and permit[:2] == (client, local):
                allowed = permit.any_port or (whole[0], whole[2]) in self.ports
                return Sent(port, whole, payload) if allowed else None
        return None

    def _drop(self, reason: str) -> None:
        self.drops[reason] += 1


class OnePort(Forwarder):
    """The same with one port: listening sockets are those of all allocations.

    `own` are the addresses of our own sockets on loopback, by family.
    """

    ANY, UNKNOWN_INDEX, ADDRESS, CLIENT = -1, -2, -3, -4
    HANDSHAKES: ClassVar[dict[int, int]] = {1: 148, 2: 92, 3: 64}

    def __init__(self, own: dict[int, Address]) -> None:
        super().__init__(set())
        self.own = own
        self.steers: dict[tuple[Address, int], Channel | None] = {}

    def from_anyone(self, source: Address, local: Address, data: bytes) -> Sent | Control | None:
        if source == self.own[source[0]]:
            return self._from_peer(source, local[2], data) if data else None
        if data and self._is_peers(source, local, data):
            return self._from_peer(source, local[2], data)
        result = self.from_client(source, local, data)
        if isinstance(result, Sent):
            if self._names_somebody(result.payload):
                return Control(local, source, data[: 4 + len(result.payload)])
            is_client = (result.destination, self.CLIENT) in self.steers
            if is_client and result.payload and 0x40 <= result.payload[0] < 0x80:
                return self._drop("disguised")
            if result.destination in self.own.values():
                return self.from_anyone(result.destination, local, result.payload)
        return result

    def _is_peers(self, source: Address, local: Address, data: bytes) -> bool:
        if not 0x40 <= data[0] < 0x80:
            return not (len(data) >= 20 and data[0] < 4 and data[4:8] == MAGIC_COOKIE)
        if len(data) >= 2:
            number = int.from_bytes(data[:2], "big")
            if (source, local, number) in self.forward:
                return False
        return self._is_known(source) or self._is_permitted(source)

    def _from_peer(self, peer: Address, port: int, data: bytes) -> Sent | Control | None:
        names = self._names_somebody(data)
        channel = None if names else self._addressee(peer, data)
        if channel is not None:
            header = struct.pack(">HH", channel.number, len(data))
            return Sent(port, channel.client, header + data)
        if (self._is_known(peer) and names) or (
            not self._is_known(peer) and self._is_permitted(peer)
        ):
            too_long = len(data) > RING_PAYLOAD
            return self._drop("control_overflow") if too_long else Control(peer, peer, data)
        return self._drop("ambiguous_peer" if self._is_known(peer) else "unbound_peer")

    def _addressee(self, peer: Address, data: bytes) -> Channel | None:
        found = None
        if len(data) >= 32 and data[:4] == b"\x04\0\0\0":
            index = int.from_bytes(data[4:8], "little")
            found = self.steers.get((peer, index)) or self.steers.get((peer, self.UNKNOWN_INDEX))
        return found or self.steers.get((peer, self.ANY))

    def _is_known(self, peer: Address) -> bool:
        return (peer, self.ANY) in self.steers

    def _is_permitted(self, peer: Address) -> bool:
        return ((*peer[:2], 0), self.ADDRESS) in self.steers

    def _names_somebody(self, data: bytes) -> bool:
        if len(data) >= 20 and data[0] < 4 and data[4:8] == MAGIC_COOKIE:
            return True
        return (
            len(data) >= 32 and data[1:4] == bytes(3) and self.HANDSHAKES.get(data[0]) == len(data)
        )


def endpoint(address: Address) -> Endpoint:
    return Endpoint(unpack_address(address[1]), address[2])
