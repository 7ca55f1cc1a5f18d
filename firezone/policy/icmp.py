"""ICMP answers to packets that may not pass (RFC 792, RFC 4443)."""

from __future__ import annotations

from itertools import chain

_TTL = 20
_MAX_PACKET = 1280
_ICMP, _ICMPV6 = 1, 58


def prohibited(packet: bytes) -> bytes | None:
    """`Communication administratively prohibited` in the name of the packet's destination.

    None for what must not be answered (RFC 1122 section 3.2.2, RFC 4443 section 2.4): an ICMP
    error, a fragment, a multicast; and for anything that is no IP packet.
    """
    match packet[0] >> 4 if packet else 0:
        case 4 if len(packet) >= 20:
            return _prohibited_v4(packet)
        case 6 if len(packet) >= 40:
            return _prohibited_v6(packet)
    return None


def _prohibited_v4(packet: bytes) -> bytes | None:
    header = (packet[0] & 0x0F) * 4
    is_fragment = int.from_bytes(packet[6:8], "big") & 0x1FFF
    is_error = packet[9] == _ICMP and packet[header : header + 1] not in (b"\x08", b"\x00")
    is_multicast = packet[16] >= 0xE0
    if is_fragment or is_error or is_multicast or len(packet) < header:
        return None
    quoted = packet[: header + 8]
    message = _with_checksum(b"\x03\x0d" + bytes(6) + quoted, 2, 0)
    length = (20 + len(message)).to_bytes(2, "big")
    ip = b"\x45\x00" + length + bytes(4) + bytes([_TTL, _ICMP]) + bytes(2)
    return _with_checksum(ip + packet[16:20] + packet[12:16], 10, 0) + message


def _prohibited_v6(packet: bytes) -> bytes | None:
    is_error = packet[6] == _ICMPV6 and packet[40:41] < b"\x80"
    is_multicast = packet[24] == 0xFF
    if is_error or is_multicast:
        return None
    quoted = packet[: _MAX_PACKET - 48]
    message = b"\x01\x01" + bytes(6) + quoted
    length = len(message).to_bytes(2, "big")
    addresses = packet[24:40] + packet[8:24]
    pseudo = _sum(addresses + bytes(2) + length + bytes(3) + bytes([_ICMPV6]))
    header = b"\x60" + bytes(3) + length + bytes([_ICMPV6, _TTL]) + addresses
    return header + _with_checksum(message, 2, pseudo)


def _with_checksum(data: bytes, offset: int, initial: int) -> bytes:
    """`data` with its 16-bit checksum field at `offset` filled in."""
    checksum = ~_fold(initial + _sum(data)) & 0xFFFF
    return data[:offset] + checksum.to_bytes(2, "big") + data[offset + 2 :]


def _sum(data: bytes) -> int:
    padded = chain(data, b"\0") if len(data) % 2 else iter(data)
    return sum((high << 8) + low for high, low in zip(padded, padded, strict=True))


def _fold(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
