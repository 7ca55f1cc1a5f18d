"""The slow twin of segmentation: super-packets to packets, every checksum made anew."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tests.reference import ip as slow

HEADER = struct.Struct("=BBHHHH")
NEEDS_CHECKSUM = 1
PLAIN, TCP4, TCP6, UDP, ECN = 0, 1, 4, 5, 0x80
FIN, PSH, CWR = 1, 8, 0x80


@dataclass(frozen=True)
class Vnet:
    """A virtio header (virtio specification 1.2, section 5.1.6)."""

    flags: int = 0
    type: int = PLAIN
    headers: int = 0
    size: int = 0
    start: int = 0
    offset: int = 0

    def encode(self) -> bytes:
        return HEADER.pack(self.flags, self.type, self.headers, self.size, self.start, self.offset)


def decode(data: bytes) -> tuple[Vnet, bytes]:
    return Vnet(*HEADER.unpack_from(data)), data[HEADER.size :]


def super_packet(packet: bytes, size: int) -> bytes:
    """As a kernel hands it over: the checksum field holds the sum of the pseudo-header."""
    parsed = slow.parse(packet)
    start, field = parsed.transport, field_of(parsed)
    changed = bytearray(packet)
    slow.put(changed, field, pseudo_sum(packet, parsed))
    kind = {(4, slow.TCP): TCP4, (6, slow.TCP): TCP6}.get((parsed.family, parsed.protocol), UDP)
    vnet = Vnet(NEEDS_CHECKSUM, kind, headers_of(packet, parsed), size, start, field - start)
    return vnet.encode() + bytes(changed)


def split(data: bytes) -> list[bytes]:
    """The packets that follow from one with its virtio header, all checksums right.

    AssertionError for what no kernel would take.
    """
    vnet, packet = decode(data)
    if vnet.type == PLAIN:
        assert vnet == Vnet()
        return [packet]
    parsed = slow.parse(packet)
    headers, field = headers_of(packet, parsed), field_of(parsed)
    assert vnet.flags == NEEDS_CHECKSUM and vnet.size > 0 and vnet.headers == headers
    assert vnet.start == parsed.transport and vnet.start + vnet.offset == field
    assert slow.word(packet, field) == pseudo_sum(packet, parsed)
    assert parsed.family == 6 or slow.checksum(packet[: parsed.transport]) == 0
    starts = range(headers, parsed.length, vnet.size)
    return [segment(packet, parsed, headers, at, vnet.size) for at in starts]


def segment(packet: bytes, parsed: slow.Parsed, headers: int, start: int, size: int) -> bytes:
    out = bytearray(packet[:headers] + packet[start : start + size])
    transport = parsed.transport
    if parsed.family == 4:
        slow.put(out, 2, len(out))
        slow.put(out, 4, (slow.word(packet, 4) + (start - headers) // size) % 2**16)
    else:
        slow.put(out, 4, len(out) - 40)
    if parsed.protocol == slow.TCP:
        sequence = int.from_bytes(packet[transport + 4 : transport + 8]) + start - headers
        out[transport + 4 : transport + 8] = (sequence % 2**32).to_bytes(4)
        if start > headers:
            out[transport + 13] &= 0xFF ^ CWR
        if start + size < parsed.length:
            out[transport + 13] &= 0xFF ^ (FIN | PSH)
    else:
        slow.put(out, transport + 4, len(out) - transport)
        slow.put(out, transport + 6, 1)
    slow.fill_checksums(out, slow.parse(bytes(out)))
    return bytes(out)


def headers_of(packet: bytes, parsed: slow.Parsed) -> int:
    if parsed.protocol == slow.UDP:
        return parsed.transport + 8
    return parsed.transport + (packet[parsed.transport + 12] >> 4) * 4


def field_of(parsed: slow.Parsed) -> int:
    field = slow.checksum_field(parsed)
    assert field is not None
    return field


def pseudo_sum(packet: bytes, parsed: slow.Parsed) -> int:
    """Folded, not complemented (RFC 9293 section 3.1, RFC 8200 section 8.1)."""
    addresses = packet[12:20] if parsed.family == 4 else packet[8:40]
    length = parsed.length - parsed.transport
    return slow.checksum(addresses + struct.pack(">II", parsed.protocol, length)) ^ 0xFFFF
