"""Values that every layer speaks of: addresses, datagrams to send, credentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NewType

from firezone.errors import LocalError

IPAddress = IPv4Address | IPv6Address


@lru_cache(maxsize=4096)
def unpack_address(packed: bytes) -> IPAddress:
    """The address of 4 or 16 bytes. Remembered, because the same few come with each new flow."""
    return ip_address(packed)


Entropy = Callable[[int], bytes]
"""Gives that many random bytes. `os.urandom` in programs, a seeded generator in tests."""

ClientId = NewType("ClientId", str)
GatewayId = NewType("GatewayId", str)
RelayId = NewType("RelayId", str)
ResourceId = NewType("ResourceId", str)
SiteId = NewType("SiteId", str)


@dataclass(frozen=True, order=True)
class Endpoint:
    """A transport address: IP address and UDP port. Never a v4-mapped or scoped IPv6 address."""

    address: IPAddress = field(compare=False)
    port: int
    _key: tuple[int, bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        address = self.address
        if isinstance(address, IPv6Address):
            mapped = address.ipv4_mapped
            if mapped is not None or address.scope_id is not None:
                address = mapped if mapped is not None else IPv6Address(int(address))
                object.__setattr__(self, "address", address)
        if not 0 <= self.port <= 0xFFFF:
            raise LocalError(f"port out of range: {self.port}")
        object.__setattr__(self, "_key", (address.version, address.packed))

    @classmethod
    def of(cls, host: str, port: int) -> Endpoint:
        """From text as sockets give it; a scope (`%eth0`) is dropped."""
        return cls(ip_address(host.partition("%")[0]), port)

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """From `192.0.2.1:53` or `[2001:db8::1]:53`. Raises LocalError on anything else."""
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise LocalError(f"not an IP address and port: {text!r}")
        try:
            return cls(ip_address(host), int(port))
        except ValueError:
            raise LocalError(f"not an IP address and port: {text!r}") from None

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.address.version

    @cached_property
    def sockaddr(self) -> tuple[str, int]:
        return (str(self.address), self.port)

    def __str__(self) -> str:
        host = str(self.address)
        return f"[{host}]:{self.port}" if self.address.version == 6 else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Transmit:
    """A datagram to send. `source` is the local address to send from; None lets the OS choose."""

    payload: bytes = field(repr=False)
    destination: Endpoint
    source: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class Timeout:
    """When a machine wants its `handle_timeout` next, and why."""

    deadline: int
    reason: str


def earliest(*timeouts: Timeout | None) -> Timeout | None:
    """The timeout that is due first, if any."""
    pending = [t for t in timeouts if t is not None]
    return min(pending, key=lambda t: t.deadline) if pending else None


@dataclass(frozen=True, slots=True)
class IceCredentials:
    """Username fragment and password of one ICE agent (RFC 8445 section 5.3)."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Interface:
    """The tunnel addresses of this host and what the portal says about its DNS."""

    ipv4: IPv4Address
    ipv6: IPv6Address
    upstream_dns: tuple[Endpoint, ...] = ()
    search_domain: str | None = None
