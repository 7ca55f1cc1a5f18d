"""What the kernel lets this process do, checked before anything is changed."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

from firezone.errors import MissingRightsError


class Capability(IntEnum):
    """Bit numbers of capabilities(7)."""

    CAP_NET_BIND_SERVICE = 10
    CAP_NET_ADMIN = 12
    CAP_NET_RAW = 13
    CAP_SYS_ADMIN = 21


def has(capability: Capability) -> bool:
    """True if the capability is in our effective set (in our user namespace)."""
    return bool(_effective() >> capability & 1)


def require(capability: Capability, purpose: str) -> None:
    """Raise MissingRightsError, which names the capability, unless we have it.

    `purpose` continues the words "is needed to".
    """
    if not has(capability):
        raise MissingRightsError(capability.name, purpose)


def _effective() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
