"""Traffic filters of a resource: which protocols and ports the policy lets through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Protocol(IntEnum):
    """IP protocol numbers that a filter can name."""

    ICMP = 1
    TCP = 6
    UDP = 17
    ICMPV6 = 58


@dataclass(frozen=True, slots=True)
class Filter:
    """Permits one protocol, TCP and UDP on an inclusive range of ports, ICMP of both versions."""

    protocol: Protocol
    first_port: int = 0
    last_port: int = 0xFFFF

    def permits(self, protocol: int, port: int) -> bool:
        if self.protocol is Protocol.ICMP:
            return protocol in (Protocol.ICMP, Protocol.ICMPV6)
        return protocol == self.protocol and self.first_port <= port <= self.last_port


def permitted(filters: Iterable[Filter], protocol: int, port: int) -> bool:
    """Whether any filter permits it. No filters at all permit everything."""
    filters = tuple(filters)
    return not filters or any(f.permits(protocol, port) for f in filters)
