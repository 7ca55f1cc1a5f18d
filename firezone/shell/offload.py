"""What the kernel can do in bulk for the data plane, and what of it is wanted.

Without any, every packet costs a system call of its own. All are probed when something is opened,
and given up, once and for all, when the kernel refuses what it promised.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from firezone.errors import ConfigurationError


class Offload(StrEnum):
    """By the names that people switch them by."""

    TUN_TSO = "tun-tso"
    """The TUN device hands over TCP segments unsplit (Linux's TUN_F_TSO4 and TUN_F_TSO6)."""
    TUN_USO = "tun-uso"
    """The same for UDP datagrams (TUN_F_USO4 and TUN_F_USO6, Linux 6.2)."""
    TUN_COALESCE = "tun-coalesce"
    """Packets of a flow are merged before they are written to the TUN device."""
    UDP_GSO = "udp-gso"
    """Datagrams to one peer are sent as one message (UDP_SEGMENT, Linux 4.18)."""
    UDP_GRO = "udp-gro"
    """Datagrams are received merged (UDP_GRO, Linux 5.0)."""


Offloads = frozenset[Offload]

ALL: Offloads = frozenset(Offload)
NONE: Offloads = frozenset()
OF_TUN: Offloads = frozenset({Offload.TUN_TSO, Offload.TUN_USO, Offload.TUN_COALESCE})


def parse_offloads(text: str, without: Iterable[str] = ()) -> Offloads:
    """`all`, `none` or names with commas between, less those that are not wanted.

    Raises ConfigurationError for an unknown name.
    """
    match text.strip():
        case "all" | "":
            wanted = ALL
        case "none":
            wanted = NONE
        case names:
            wanted = frozenset(map(_named, names.split(",")))
    return wanted - frozenset(map(_named, without))


def describe(offloads: Offloads) -> list[str]:
    """Their names, in the order of their definition."""
    return [each.value for each in Offload if each in offloads]


def _named(name: str) -> Offload:
    try:
        return Offload(name.strip())
    except ValueError:
        raise ConfigurationError(
            "offload",
            "--offload, --no-offload or FIREZONE_OFFLOAD",
            f"there is no {name.strip()!r}",
            f"use all, none, or some of {', '.join(Offload)}",
        ) from None
