"""The kinds of NAT that the lab has, in the terms of RFC 4787.

*Mapping* (section 4.1) says what a new outer port depends on, *filtering* (section 5) who may send
to it. The old names say less, but everybody knows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Depends(Enum):
    """On what of the remote endpoint a mapping or a filter depends."""

    NOTHING = "endpoint-independent"
    ADDRESS = "address-dependent"
    ADDRESS_AND_PORT = "address-and-port-dependent"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a NAT treats UDP."""

    mapping: Depends
    filtering: Depends
    keeps_port: bool
    """Whether the outer port is the inner one (RFC 4787 section 4.2.1)."""


class Nat(Enum):
    """What stands between a site and the internet."""

    NONE = "none"
    """A plain router; the site's addresses are reachable from everywhere."""
    FULL_CONE = "full-cone"
    """Keeps the source port, and lets in everybody once it is in use."""
    RESTRICTED_CONE = "restricted-cone"
    """Keeps the source port, lets in every port of hosts that were sent to."""
    CONE = "cone"
    """Port-restricted: keeps the source port, lets in only answers."""
    SHIFTED_FULL_CONE = "shifted-full-cone"
    """Like FULL_CONE, but with another source port, the same one for all destinations."""
    SHIFTED_RESTRICTED_CONE = "shifted-restricted-cone"
    """Like RESTRICTED_CONE, with another source port."""
    SHIFTED_CONE = "shifted-cone"
    """Like CONE, with another source port."""
    ADDRESS_SYMMETRIC = "address-symmetric"
    """Another port for each remote address, lets in only answers."""
    OPEN_SYMMETRIC = "open-symmetric"
    """Another random port for each destination, and lets in everybody to each of them."""
    RESTRICTED_SYMMETRIC = "restricted-symmetric"
    """Another random port for each destination, which lets in every port of that host."""
    SYMMETRIC = "symmetric"
    """Another random port for each destination, lets in only answers; so that only a relay helps,
    unless the other side is lenient."""
    UDP_BLOCKED = "udp-blocked"
    """Lets no UDP through at all."""

    @property
    def behaviour(self) -> Behaviour:
        """What it does with UDP that it lets through."""
        return _BEHAVIOURS[self]


_ANY, _HOST, _PORT = Depends.NOTHING, Depends.ADDRESS, Depends.ADDRESS_AND_PORT
_BEHAVIOURS = {
    Nat.NONE: Behaviour(_ANY, _ANY, True),
    Nat.FULL_CONE: Behaviour(_ANY, _ANY, True),
    Nat.RESTRICTED_CONE: Behaviour(_ANY, _HOST, True),
    Nat.CONE: Behaviour(_ANY, _PORT, True),
    Nat.SHIFTED_FULL_CONE: Behaviour(_ANY, _ANY, False),
    Nat.SHIFTED_RESTRICTED_CONE: Behaviour(_ANY, _HOST, False),
    Nat.SHIFTED_CONE: Behaviour(_ANY, _PORT, False),
    Nat.ADDRESS_SYMMETRIC: Behaviour(_HOST, _PORT, False),
    Nat.OPEN_SYMMETRIC: Behaviour(_PORT, _ANY, False),
    Nat.RESTRICTED_SYMMETRIC: Behaviour(_PORT, _HOST, False),
    Nat.SYMMETRIC: Behaviour(_PORT, _PORT, False),
    Nat.UDP_BLOCKED: Behaviour(_ANY, _PORT, True),
}
