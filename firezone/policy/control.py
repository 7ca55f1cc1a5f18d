"""In-tunnel control packets, between client and gateway only.

An IPv6 packet from `::` to `::` with next header 0xFF, an 8-byte header whose first byte is the
kind, and a body. It never reaches a TUN device. Kinds that a peer does not know are ignored.
"""

from __future__ import annotations

from enum import IntEnum

_NEXT_HEADER = 0xFF
_HEADER = 8
_ADDRESSES = bytes(32)


class ControlKind(IntEnum):
    """Those that we know. 0 and 1 are other implementations', for DNS resources."""

    GOODBYE = 2


def control_packet(kind: ControlKind, body: bytes = b"") -> bytes:
    """A control packet, to be sealed to a peer."""
    payload = bytes([kind]) + bytes(_HEADER - 1) + body
    length = len(payload).to_bytes(2, "big")
    return b"\x60" + bytes(3) + length + bytes([_NEXT_HEADER, 0]) + _ADDRESSES + payload


def control_kind(packet: bytes) -> int | None:
    """The kind of a control packet, None if it is none."""
    if len(packet) < 48 or packet[0] >> 4 != 6 or packet[6] != _NEXT_HEADER:
        return None
    return packet[40] if packet[8:40] == _ADDRESSES else None
