"""The XDP program in plain Python: parses a whole frame, and builds a whole one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from firezone.model import Endpoint, IPAddress
from firezone.xdp import Count, Settings, Verdict, Way

NextHop = Callable[[IPAddress, int], "tuple[bytes, bytes] | Count"]
"""To an address with a packet of that length: its link address and ours, or why there is none."""


class PassError(Exception):
    """The frame is user space's; `reason` is what is counted, if anything."""

    def __init__(self, reason: Count | None = None) -> None:
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Packet:
    """A UDP datagram and what its IP header says beside addresses."""

    source: Endpoint
    destination: Endpoint
    tos: int
    hops: int
    identity: bytes
    """The second word of an IPv4 header, or the low 20 bits of the first one of IPv6."""
    ip_residue: int
    udp_length: int
    udp_checksum: int
    udp_residue: int
    payload: bytes


def relay(
    frame: bytes, ways: Mapping[Way, Way], settings: Settings, next_hop: NextHop
) -> tuple[Verdict, bytes, Count | None]:
    """What becomes of a frame, and what is counted."""
    try:
        packet = parse(frame, settings)
        sent, reason = forward(packet, ways, settings, next_hop)
        if sent[6:12] != frame[:6]:
            raise PassError(Count.OTHER_HOST)
        padding = frame[14 + ip_length(packet) :]
        return Verdict.TX, sent + padding, reason
    except PassError as error:
        return Verdict.PASS, frame, error.reason


def parse(frame: bytes, settings: Settings) -> Packet:
    port = settings.listen_port
    if len(frame) < 42:
        raise PassError
    kind, ip = frame[12:14], frame[14:]
    if kind == b"\x08\x00":
        if ip[0] != 0x45 or ip[6] & 0x3F or ip[7] or ip[9] != 17:
            raise PassError
        size, length = 20, int.from_bytes(ip[2:4], "big") - 20
        addresses, tos, hops, identity = ip[12:20], ip[1], ip[8], ip[4:8]
    elif kind == b"\x86\xdd":
        if len(ip) < 48 or ip[0] >> 4 != 6 or ip[6] != 17:
            raise PassError
        size, length = 40, int.from_bytes(ip[4:6], "big")
        tos, hops = ip[0] << 4 & 0xF0 | ip[1] >> 4, ip[7]
        addresses, identity = ip[8:40], bytes([0, ip[1] & 15, *ip[2:4]])
    else:
        raise PassError
    half = len(addresses) // 2
    udp = ip[size : size + length] if length > 0 else b""
    source, destination, udp_length, checksum = struct.unpack(">4H", ip[size : size + 8])
    if destination == port:
        if len(ip) < size + 12 or ip[size + 8] & 0xC0 != 0x40:
            raise PassError
    elif destination not in settings.ports:
        raise PassError
    if length != udp_length or length < 8 or len(udp) < length:
        raise PassError(Count.MALFORMED)
    pseudo = addresses + struct.pack(">HH", 17, length)
    if destination == port and (length < 12 or int.from_bytes(udp[10:12], "big") != length - 12):
        raise PassError(Count.MALFORMED)
    return Packet(
        Endpoint(ip_address(addresses[:half]), source),
        Endpoint(ip_address(addresses[half:]), destination),
        *(tos, hops, identity, residue(ip[:size]), length, checksum),
        *(residue(pseudo + udp), udp[8:]),
    )


def forward(
    packet: Packet, ways: Mapping[Way, Way], settings: Settings, next_hop: NextHop
) -> tuple[bytes, Count]:
    from_client = packet.destination.port == settings.listen_port
    number = int.from_bytes(packet.payload[:2], "big") if from_client else 0
    way = ways.get(Way(packet.destination, packet.source, number))
    if way is None:
        raise PassError(Count.NO_ROUTE)
    if packet.hops <= 1:
        raise PassError(Count.HOP_LIMIT)
    new_version, old_version = way.version, packet.source.family
    if packet.udp_checksum == 0 and (new_version, old_version) != (4, 4):
        raise PassError(Count.MALFORMED)
    udp_residue = packet.udp_residue
    if packet.udp_checksum in (0, pseudo_sum(packet)):
        if not settings.native or (packet.udp_checksum and packet.udp_length > 4096):
            raise PassError(Count.UNFINISHED_CHECKSUM)
        udp_residue = 0
    payload = packet.payload[4:] if from_client else packet.payload
    if way.channel:
        payload = struct.pack(">HH", way.channel, len(payload)) + payload
    length = 8 + len(payload)
    link = next_hop(way.remote.address, length + (20 if new_version == 4 else 40))
    if isinstance(link, Count):
        raise PassError(link)
    both = way.local.address.packed + way.remote.address.packed
    head = struct.pack(">HHH", way.local.port, way.remote.port, length)
    pseudo = both + struct.pack(">HH", 17, length)
    # What was wrong with the sum stays wrong by as much.
    checksum = (udp_residue - residue(pseudo + head + bytes(2) + payload)) % 0xFFFF
    udp = head + struct.pack(">H", checksum or 0xFFFF if packet.udp_checksum else 0) + payload
    ip = ip_header(packet, new_version, both, len(udp))
    kind = b"\x08\x00" if new_version == 4 else b"\x86\xdd"
    count = Count.TO_PEER if from_client else Count.TO_CLIENT
    if from_client and way.channel:
        count = Count.ACROSS
    return link[0] + link[1] + kind + ip + udp, count


def ip_header(packet: Packet, version: int, addresses: bytes, size: int) -> bytes:
    same = packet.source.family == version
    if version == 6:
        word = 6 << 28 | packet.tos << 20 | (int.from_bytes(packet.identity, "big") if same else 0)
        return struct.pack(">IHBB", word, size, 17, packet.hops - 1) + addresses
    identity = packet.identity if same else b"\0\0\x40\0"
    start = struct.pack(">BBH", 0x45, packet.tos, 20 + size) + identity
    start += struct.pack(">BB", packet.hops - 1, 17)
    wrong_by = packet.ip_residue if same else 0
    checksum = (wrong_by - residue(start + addresses)) % 0xFFFF
    return start + struct.pack(">H", checksum) + addresses


def pseudo_sum(packet: Packet) -> int:
    """Of a sender that leaves the rest of the sum to a device."""
    addresses = packet.source.address.packed + packet.destination.address.packed
    total = residue(addresses + struct.pack(">HH", 17, packet.udp_length))
    return total or 0xFFFF


def residue(data: bytes) -> int:
    """The one's complement sum of 16-bit words: 0 where a checksum in them is right."""
    padded = data + bytes(len(data) % 2)
    return sum(struct.unpack(f">{len(padded) // 2}H", padded)) % 0xFFFF


def ip_length(packet: Packet) -> int:
    return packet.udp_length + (20 if isinstance(packet.source.address, IPv4Address) else 40)
