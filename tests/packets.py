"""Inner packets for tests, built by hand and not by the code under test."""

import struct
from ipaddress import ip_address


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """An IP packet of either family; checksums of the payload are the caller's."""
    a, b = ip_address(source).packed, ip_address(destination).packed
    if len(a) == 16:
        return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + a + b + payload
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + a + b
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def _pseudo(source: str, destination: str, protocol: int, length: int) -> bytes:
    a, b = ip_address(source).packed, ip_address(destination).packed
    tail = struct.pack(">IHBB", length, 0, 0, protocol)
    return a + b + (tail if len(a) == 16 else struct.pack(">BBH", 0, protocol, length))


def udp(
    source: str, destination: str, source_port: int, destination_port: int, data: bytes = b""
) -> bytes:
    length = 8 + len(data)
    header = struct.pack(">HHHH", source_port, destination_port, length, 0)
    total = checksum(_pseudo(source, destination, 17, length) + header + data) or 0xFFFF
    return ip(source, destination, 17, header[:6] + struct.pack(">H", total) + data)


def tcp(
    source: str,
    destination: str,
    source_port: int,
    destination_port: int,
    flags: int = 0x02,
    sequence: int = 1,
    data: bytes = b"",
    options: bytes = b"",
) -> bytes:
    offset = (20 + len(options)) // 4 << 4
    segment = struct.pack(
        ">HHIIBBHHH", source_port, destination_port, sequence, 0, offset, flags, 1024, 0, 0
    )
    segment += options + data
    total = checksum(_pseudo(source, destination, 6, len(segment)) + segment)
    return ip(source, destination, 6, segment[:16] + struct.pack(">H", total) + segment[18:])


def ping(source: str, destination: str, identifier: int = 1, data: bytes = b"") -> bytes:
    is_v6 = ":" in source
    message = struct.pack(">BBHHH", 128 if is_v6 else 8, 0, 0, identifier, 1) + data
    pseudo = _pseudo(source, destination, 58, len(message)) if is_v6 else b""
    message = message[:2] + struct.pack(">H", checksum(pseudo + message)) + message[4:]
    return ip(source, destination, 58 if is_v6 else 1, message)
