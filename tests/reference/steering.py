"""The slow twin of what steers packets to workers: by flow, and by the owner of a datagram."""

from __future__ import annotations

SPREAD = 0x9E3779B1


def worker_of_packet(packet: bytes, workers: int) -> int:
    """Of an IP packet from the TUN device: all packets of a flow have the same."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        is_fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF != 0
        protocol = 44 if is_fragment else packet[9]
        words = [packet[12:16], packet[16:20], bytes([protocol])]
        ports = 20 if packet[0] & 15 == 5 else None
    elif version == 6 and len(packet) >= 40:
        words = [*(packet[place : place + 4] for place in range(8, 40, 4)), packet[6:7]]
        ports, protocol = 40, packet[6]
    else:
        return 0
    if ports is not None and protocol in (6, 17):
        if len(packet) < ports + 4:
            return 0
        words.append(packet[ports : ports + 4])
    mixed = 0
    for word in words:
        mixed = mix(mixed, int.from_bytes(word, "big"))
    return (mix(mixed, mixed >> 16) >> 16) % workers


def mix(mixed: int, word: int) -> int:
    return (mixed ^ word) * SPREAD % (1 << 32)


def worker_of_datagram(datagram: bytes, workers: int) -> int:
    """Of a datagram: transport data has an owner, the first worker has the rest."""
    if datagram[:1] != b"\4" or len(datagram) < 6:
        return 0
    return datagram[5] % workers
