"""Runs by its path in a namespace: `wg_ping.py SECONDS ADDRESS[/SIZE]...`.

Fails unless each answers. SIZE is how many bytes a request carries.
"""

import socket
import struct
import sys
import time

ECHO = {4: (8, 0), 6: (128, 129)}


def ping(target: str, seconds: float) -> bool:
    address, _, size = target.partition("/")
    payload = b"payload!" * (int(size or 8) // 8)
    version = 6 if ":" in address else 4
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP)
        if version == 4
        else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    request, answer = ECHO[version]
    deadline = time.monotonic() + seconds
    with socket.socket(family, socket.SOCK_RAW, protocol) as s:
        sequence = 0
        while time.monotonic() < deadline:
            sequence += 1
            message = struct.pack("!BBHHH", request, 0, 0, 4711, sequence) + payload
            checksum = ~sum_of(message) & 0xFFFF  # the kernel fills in that of ICMPv6
            s.sendto(message[:2] + struct.pack("!H", checksum) + message[4:], (address, 0))
            if answered(s, answer, version, len(message)):
                return True
    return False


def answered(s: socket.socket, answer: int, version: int, size: int) -> bool:
    end = time.monotonic() + 0.3
    while (left := end - time.monotonic()) > 0:
        s.settimeout(left)
        try:
            data = s.recv(65535)
        except TimeoutError:
            return False
        body = data[20:] if version == 4 else data
        if body[0] == answer and body[4:6] == struct.pack("!H", 4711) and len(body) == size:
            return True
    return False


def sum_of(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


if __name__ == "__main__":
    _, longest, *addresses = sys.argv
    silent = [address for address in addresses if not ping(address, float(longest))]
    sys.exit(f"no answer from {', '.join(silent)}" if silent else 0)
