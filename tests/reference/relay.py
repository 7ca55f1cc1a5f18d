"""The slow twin of the relay kernel: dictionaries and a set, one datagram at a time."""

from __future__ import annotations

import struct
from collections import Counter
from typing import NamedTuple

Address = tuple[int, bytes, int]

RING_PAYLOAD = 2240
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


class Unasked(NamedTuple):
    """Data of a permitted peer without a channel, for the control layer, too."""

    port: int
    remote: Address
    payload: bytes


class Forwarder:
    def __init__(self) -> None:
        self.permits: set[tuple[int, int, bytes]] = set()
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

    def permit(self, family: int, address: bytes, port: int) -> None:
        self.permits.add((port, family, address))

    def forbid(self, family: int, address: bytes, port: int) -> bool:
        known = (port, family, address) in self.permits
        self.permits.discard((port, family, address))
        return known

    def from_client(self, client: Address, local: Address, data: bytes) -> Sent | Control | None:
        if not data or not 0x40 <= data[0] < 0x80:
            if len(data) >= 20 and data[0] < 4 and data[4:8] == MAGIC_COOKIE:
                return Control(local, client, data)
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

    def from_peer(self, port: int, peer: Address, payload: bytes) -> Sent | Unasked | None:
        channel = self.back.get((port, peer))
        if channel is None and (port, *peer[:2]) in self.permits:
            too_long = len(payload) > RING_PAYLOAD
            return self._drop("control_overflow") if too_long else Unasked(port, peer, payload)
        if channel is None:
            return self._drop("unbound_peer")
        header = struct.pack(">HH", channel.number, len(payload))
        return Sent(channel.local[2], channel.client, header + payload)

    def _drop(self, reason: str) -> None:
        self.drops[reason] += 1
