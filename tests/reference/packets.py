"""Builds IP packets byte by byte, right and wrong ones, without any code under test."""

from __future__ import annotations

import itertools
import struct

from tests.reference import ip as slow


def transport(protocol: int, payload: bytes, port: int) -> bytes:
    match protocol:
        case 6:
            return struct.pack(">HHIIBBHHH", port, 80, 1, 2, 0x50, 0x10, 3, 0, 0) + payload
        case 17:
            return struct.pack(">HHHH", port, 53, 8 + len(payload), 0) + payload
        case 1:
            return struct.pack(">BBHHH", 8 * (port & 1), port >> 15, 0, port, 1) + payload
        case 58:
            return struct.pack(">BBHHH", 128 + (port & 3), 0, 0, port, 1) + payload
        case 51:
            return ah(17) + transport(17, payload, port)
    return payload


def ah(protocol: int) -> bytes:
    return bytes([protocol, 4]) + bytes(22)


def v4(
    source: bytes, destination: bytes, protocol: int, body: bytes, options: bytes = b""
) -> bytes:
    header = 20 + len(options)
    fixed = struct.pack(
        ">BBHHHBBH", 0x40 | header // 4, 0, header + len(body), 7, 0, 64, protocol, 0
    )
    return fixed + source + destination + options + body


def v6(
    source: bytes, destination: bytes, protocol: int, body: bytes, extensions: list[int]
) -> bytes:
    numbers = [*extensions, protocol]
    chain = b""
    for number, following in itertools.pairwise(numbers):
        size = {44: 0, 51: 4}.get(number, 1)
        rest = 6 if number == 44 else 22 if number == 51 else 14
        chain += bytes([following, size]) + bytes(rest)
    fixed = struct.pack(">IHBB", 0x60000000, len(chain) + len(body), numbers[0], 64)
    return fixed + source + destination + chain + body


def checksummed(packet: bytes) -> bytes:
    """With every checksum right, UDP's too; a packet that does not parse comes back as it is."""
    try:
        parsed = slow.parse(packet)
    except (slow.MalformedError, slow.FragmentError):
        return packet
    filled = bytearray(packet)
    if parsed.protocol == 17:
        slow.put(filled, parsed.transport + 6, 1)
    slow.fill_checksums(filled, parsed)
    return bytes(filled)


def patch(packet: bytes, at: int, *values: int) -> bytes:
    return packet[:at] + bytes(values) + packet[at + len(values) :]
