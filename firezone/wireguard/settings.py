"""What can be set on a WireGuard interface, and what it shows of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from firezone.commands import SLOTS, Traffic, WorkerStatus
from firezone.errors import LocalError
from firezone.model import Endpoint
from firezone.noise import NoiseError, StaticKeypair
from firezone.wireguard.allowed_ips import IPNetwork

KEY_SIZE = 32
NO_KEY = bytes(KEY_SIZE)
"""All zeros stand for no private or no pre-shared key."""

MAX_PEERS = SLOTS - 1  # slot 0 is nobody's
"""As many as the data plane has slots."""


class SettingsError(LocalError):
    """A change cannot be made; nothing of it was."""


def is_usable(public_key: bytes) -> bool:
    """False for a key of small order, with which no tunnel could be made."""
    try:
        _PROBE.dh(public_key)
    except NoiseError:
        return False
    return True


_PROBE = StaticKeypair.from_private(b"\x40" * KEY_SIZE)


@dataclass(frozen=True, slots=True)
class AllowedIP:
    """Give a network to a peer, or take it away."""

    network: IPNetwork
    remove: bool = False


@dataclass(frozen=True, slots=True)
class PeerChange:
    """What becomes of one peer; None leaves a setting as it is."""

    public_key: bytes
    remove: bool = False
    update_only: bool = False
    """Change the peer if it is there, but do not make it."""
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: Endpoint | None = None
    persistent_keepalive: int | None = None
    """Seconds, 0 for none."""
    replace_allowed_ips: bool = False
    allowed_ips: tuple[AllowedIP, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """What becomes of the interface; None leaves a setting as it is. Peers change in order."""

    private_key: bytes | None = field(default=None, repr=False)
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers: bool = False
    peers: tuple[PeerChange, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A peer as it is now."""

    public_key: bytes
    preshared_key: bytes | None = field(repr=False)
    endpoint: Endpoint | None
    last_handshake: int
    """Wall time in nanoseconds, 0 = never."""
    traffic: Traffic
    persistent_keepalive: int
    allowed_ips: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """An interface as it is now."""

    private_key: bytes | None = field(repr=False)
    listen_port: int
    fwmark: int
    peers: tuple[PeerStatus, ...]


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """How an interface of ours is served, beyond what any WireGuard shows."""

    workers: tuple[WorkerStatus, ...] = ()
    offloads: tuple[str, ...] = ()
    """What the kernel does in bulk."""
    drops: Mapping[str, int] = field(default_factory=dict)
    """What was dropped or went wrong: `part: reason`, the most frequent first."""
