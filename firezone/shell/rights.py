"""What the kernel lets this process do."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path


class Capability(IntEnum):
    """Bit numbers of capabilities(7)."""

    CAP_NET_ADMIN = 12
    CAP_SYS_ADMIN = 21


def has(capability: Capability) -> bool:
    """True if the capability is in our effective set (in our user namespace)."""
    return bool(_effective() >> capability & 1)


def _effective() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
