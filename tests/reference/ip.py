"""The slow twin of the IP kernel: one header after the other, checksums computed from scratch."""

from __future__ import annotations

from dataclasses import dataclass

TCP, UDP = 6, 17
SIZED_IN_EIGHTS = {0, 43, 60, 135, 139, 140}
FRAGMENT_HEADER, AH = 44, 51


class MalformedError(Exception):
    pass


class FragmentError(Exception):
    pass


@dataclass(frozen=True)
class Parsed:
    """What the kernel puts into the tuple column, and where the transport header is."""

    family: int
    protocol: int
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    tcp_flags: int
    transport: int
    length: int

    @property
    def columns(self) -> tuple[int, int, bytes, bytes, int, int, int]:
        return (
            self.family,
            self.protocol,
            self.source,
            self.destination,
            self.source_port,
            self.destination_port,
            self.tcp_flags,
        )


def parse_whole_or_fragment(packet: bytes) -> Parsed:
    """A fragment is of a flow without ports that has the protocol of RFC 8200's header for them."""
    try:
        return parse(packet)
    except FragmentError:
        four = packet[0] >> 4 == 4
        at, size = (12, 4) if four else (8, 16)
        return Parsed(
            family=4 if four else 6,
            protocol=FRAGMENT_HEADER,
            source=packet[at : at + size],
            destination=packet[at + size : at + 2 * size],
            source_port=0,
            destination_port=0,
            tcp_flags=0,
            transport=0,
            length=word(packet, 2) if four else 40 + word(packet, 4),
        )


def parse(packet: bytes) -> Parsed:
    """Raises MalformedError or FragmentError for what must not pass."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return parse_v4(packet)
    if version == 6:
        return parse_v6(packet)
    raise MalformedError("version")


def parse_v4(packet: bytes) -> Parsed:
    need(len(packet) >= 20)
    header, total = (packet[0] & 15) * 4, word(packet, 2)
    need(20 <= header <= total <= len(packet))
    packet = packet[:total]
    if word(packet, 6) & 0x2000 or word(packet, 6) & 0x1FFF:
        raise FragmentError
    protocol, transport = packet[9], header
    if protocol == AH:
        protocol, transport = skip(packet, transport, protocol)
    return parse_transport(packet, 4, protocol, transport)


def parse_v6(packet: bytes) -> Parsed:
    need(len(packet) >= 40)
    total = 40 + word(packet, 4)
    need(total <= len(packet))
    packet = packet[:total]
    protocol, transport, count = packet[6], 40, 0
    while protocol in SIZED_IN_EIGHTS or protocol in (FRAGMENT_HEADER, AH):
        count += 1
        need(count <= 16 and (protocol != 0 or count == 1))
        if protocol == FRAGMENT_HEADER:
            need(len(packet) >= transport + 8)
            offset_and_more = word(packet, transport + 2)
            if offset_and_more >> 3 or offset_and_more & 1:
                raise FragmentError
        protocol, transport = skip(packet, transport, protocol)
    return parse_transport(packet, 6, protocol, transport)


def skip(packet: bytes, at: int, protocol: int) -> tuple[int, int]:
    need(len(packet) >= at + 8)
    if protocol == FRAGMENT_HEADER:
        size = 8
    elif protocol == AH:
        size = (packet[at + 1] + 2) * 4
    else:
        size = (packet[at + 1] + 1) * 8
    need(len(packet) >= at + size)
    return packet[at], at + size


def parse_transport(packet: bytes, family: int, protocol: int, at: int) -> Parsed:
    rest = packet[at:]
    source_port = destination_port = flags = 0
    if protocol == TCP:
        need(len(rest) >= 20)
        need(20 <= (rest[12] >> 4) * 4 <= len(rest))
        source_port, destination_port, flags = word(rest, 0), word(rest, 2), rest[13]
    elif protocol == UDP:
        need(len(rest) >= 8)
        need(8 <= word(rest, 4) <= len(rest))
        source_port, destination_port = word(rest, 0), word(rest, 2)
    elif (family, protocol) in ((4, 1), (6, 58)):
        need(len(rest) >= 8)
        if rest[0] in ((0, 8) if family == 4 else (128, 129)) and rest[1] == 0:
            source_port = destination_port = word(rest, 4)
    source = packet[12:16] if family == 4 else packet[8:24]
    destination = packet[16:20] if family == 4 else packet[24:40]
    return Parsed(
        family, protocol, source, destination, source_port, destination_port, flags, at, len(packet)
    )


def rewrite(
    packet: bytes,
    source: bytes | None = None,
    destination: bytes | None = None,
    source_port: int | None = None,
    destination_port: int | None = None,
) -> bytes:
    """For packets that parse, addresses of their family, and ports only where there are any."""
    parsed = parse(packet)
    changed = bytearray(packet)
    at, size = (12, 4) if parsed.family == 4 else (8, 16)
    if source is not None:
        changed[at : at + size] = source
    if destination is not None:
        changed[at + size : at + 2 * size] = destination
    if parsed.protocol in (TCP, UDP):
        put(changed, parsed.transport, source_port)
        put(changed, parsed.transport + 2, destination_port)
    else:
        put(changed, parsed.transport + 4, destination_port if source_port is None else source_port)
    fill_checksums(changed, parsed)
    return bytes(changed)


def fill_checksums(packet: bytearray, parsed: Parsed) -> None:
    """Compute all checksums of a packet anew, except those of UDP packets that have none."""
    if parsed.family == 4:
        put(packet, 10, 0)
        put(packet, 10, checksum(packet[: (packet[0] & 15) * 4]))
    field = checksum_field(parsed)
    if field is None or (parsed.protocol == UDP and word(packet, field) == 0):
        return
    put(packet, field, 0)
    value = checksum(covered(packet, parsed))
    put(packet, field, 0xFFFF if parsed.protocol == UDP and value == 0 else value)


def verifies(packet: bytes) -> bool:
    """True if a receiver would accept every checksum of the packet."""
    parsed = parse(packet)
    if parsed.family == 4 and checksum(packet[: (packet[0] & 15) * 4]) != 0:
        return False
    field = checksum_field(parsed)
    if field is None or (parsed.protocol == UDP and word(packet, field) == 0):
        return True
    return checksum(covered(packet, parsed)) == 0


def checksum_field(parsed: Parsed) -> int | None:
    within = {(4, 1): 2, (6, 58): 2, (4, TCP): 16, (6, TCP): 16, (4, UDP): 6, (6, UDP): 6}
    offset = within.get((parsed.family, parsed.protocol))
    return None if offset is None else parsed.transport + offset


def covered(packet: bytes | bytearray, parsed: Parsed) -> bytes:
    body = bytes(packet[parsed.transport : parsed.length])
    if parsed.protocol == UDP:
        body = body[: word(body, 4)]
    if (parsed.family, parsed.protocol) == (4, 1):
        return body
    addresses = packet[12:20] if parsed.family == 4 else packet[8:40]
    return bytes(addresses) + parsed.protocol.to_bytes(4) + len(body).to_bytes(4) + body


def checksum(data: bytes | bytearray) -> int:
    """RFC 1071."""
    total = sum(word(bytes(data) + b"\0", i) for i in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def word(data: bytes | bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 2])


def put(data: bytearray, at: int, value: int | None) -> None:
    if value is not None:
        data[at : at + 2] = value.to_bytes(2)


def need(condition: bool) -> None:
    if not condition:
        raise MalformedError
