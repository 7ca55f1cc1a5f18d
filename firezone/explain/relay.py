"""The report on a relay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from firezone.explain.values import PortalStatus


@dataclass(frozen=True, slots=True)
class DirectionStatus:
    """Data that went in one direction."""

    packets: int
    bytes: int
    """Of payload."""


@dataclass(frozen=True, slots=True)
class XdpStatus:
    """The tier in the kernel. What it moves, user space does not see."""

    interface: str
    mode: str
    """`native`, in the driver, or `generic`."""
    channels: int
    to_peers: DirectionStatus
    to_clients: DirectionStatus
    passed: Mapping[str, int]
    """Datagrams on the relay's ports that it left to user space, by reason."""


@dataclass(frozen=True, slots=True)
class RelayReport:
    """The whole program. `portal` is None for a relay without one, `xdp` where it is off."""

    uptime_seconds: float
    public: tuple[str, ...]
    listen_port: int
    mode: str
    """`ports`, or `one port` where all allocations have the one that we listen on."""
    ports: str
    """Of allocations."""
    state: str
    portal: PortalStatus | None
    allocations: int
    capacity: int
    """Allocations there can be."""
    users: int
    """Who have one."""
    reservations: int
    """Ports that wait for who has their token; they count as allocations, too."""
    channels: int
    permissions: int
    streams: int
    """Clients over TCP and TLS."""
    to_peers: DirectionStatus
    """Moved by user space, but for what Python sends itself."""
    to_clients: DirectionStatus
    indication_bytes: int
    """What Send and Data carried, in both directions."""
    workers: tuple[int, ...]
    """Datagrams that each has moved: the kernel spreads clients over them by chance."""
    xdp: XdpStatus | None
    counters: Mapping[str, int]
    """Requests by outcome, and what was dropped or failed, by reason."""
