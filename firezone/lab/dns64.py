"""The DNS of a lab site that has IPv6 alone. Runs by path, as `dns64.py LISTEN PREFIX NAME=A...`

A name with an IPv6 address has just that; for one with IPv4 alone it makes an address up, at a
PREFIX of 96 bits (RFC 6147). It knows the names it is given and `ipv4only.arpa`, and says of all
others that they do not exist.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address

PORT = 53
TTL_SECONDS = 60

_A, _AAAA, _IN = 1, 28, 1
_NO_ERROR, _NO_SUCH_NAME = 0, 3
_RESPONSE_FLAGS = 0x8180  # a response, recursion desired and available
_HEADER = struct.Struct("!HHHHHH")
_IPV4_ONLY = {"ipv4only.arpa": [IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171")]}

Names = Mapping[str, Iterable[Address]]


def answer(query: bytes, names: Names, prefix: IPv6Address) -> bytes | None:
    """The response to a query, None to what is none."""
    try:
        number, flags, questions, *_ = _HEADER.unpack_from(query)
        name, end = _read_name(query, _HEADER.size)
        kind, class_ = struct.unpack_from("!HH", query, end)
    except (struct.error, IndexError):
        return None
    if flags & 0x8000 or questions != 1 or class_ != _IN:
        return None
    known = {**_IPV4_ONLY, **names}.get(name)
    found = [] if known is None else list(_records(kind, list(known), prefix))
    code = _NO_SUCH_NAME if known is None else _NO_ERROR
    header = _HEADER.pack(number, _RESPONSE_FLAGS | code, 1, len(found), 0, 0)
    answers = (
        struct.pack("!HHHIH", 0xC000 | _HEADER.size, kind, _IN, TTL_SECONDS, len(packed)) + packed
        for packed in found
    )
    return b"".join((header, query[_HEADER.size : end + 4], *answers))


def _read_name(query: bytes, at: int) -> tuple[str, int]:
    """A name without pointers, and where it ends."""
    labels = []
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += 1 + length
    return ".".join(labels), at + 1


def _records(kind: int, known: list[Address], prefix: IPv6Address) -> Iterable[bytes]:
    v4 = [a for a in known if isinstance(a, IPv4Address)]
    v6 = [a for a in known if isinstance(a, IPv6Address)]
    if kind == _A:
        return [a.packed for a in v4]
    if kind == _AAAA:
        return [a.packed for a in v6] or [prefix.packed[:12] + a.packed for a in v4]
    return []


def serve(listen: str, names: Names, prefix: IPv6Address) -> None:
    """Answer until the process ends."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as opened:
        opened.bind((listen, PORT))
        print('{"event": "ready"}', flush=True)
        while True:
            query, source = opened.recvfrom(4096)
            response = answer(query, names, prefix)
            if response is not None:
                opened.sendto(response, source)


def read_names(arguments: Iterable[str]) -> dict[str, list[Address]]:
    """From `NAME=ADDRESS`, one for each address."""
    names: dict[str, list[Address]] = {}
    for argument in arguments:
        name, _, address = argument.partition("=")
        names.setdefault(name.lower(), []).append(ip_address(address))
    return names


if __name__ == "__main__":
    serve(sys.argv[1], read_names(sys.argv[3:]), IPv6Address(sys.argv[2]))
