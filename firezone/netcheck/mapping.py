"""How a NAT maps (RFC 4787 section 4.1), from what servers saw of one socket of ours.

A mapping is *endpoint-independent* if all destinations see one address of ours, *address-dependent*
if only those of one IP address do, and *address-and-port-dependent* if each sees another. Only two
servers with different IP addresses can show the first, and only two ports of one IP address can
tell the other two apart. What was not shown stays unknown.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from enum import StrEnum

from firezone.model import Endpoint


class Mapping(StrEnum):
    """The verdict; the value is for people."""

    NO_NAT = "no NAT"
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
    DEPENDENT = "address-dependent or address-and-port-dependent"
    """Servers of different IP addresses saw us differently; no two ports of one were asked."""
    UNKNOWN = "unknown"

    @property
    def is_symmetric(self) -> bool:
        """Whether a peer sees us at another address than the servers do."""
        return self in (self.ADDRESS_DEPENDENT, self.ADDRESS_AND_PORT_DEPENDENT, self.DEPENDENT)


def mapping_of(local: Endpoint, seen: MappingOf[Endpoint, Endpoint]) -> Mapping:
    """`seen` tells as whom each server saw the socket that is bound to `local`.

    Servers on our side of the NAT say nothing about it.
    """
    if not seen:
        return Mapping.UNKNOWN
    outside = {server: mapped for server, mapped in seen.items() if mapped != local}
    if not outside:
        return Mapping.NO_NAT
    by_address: dict[object, list[Endpoint]] = {}
    for server, mapped in outside.items():
        by_address.setdefault(server.address, []).append(mapped)
    if any(len(set(group)) > 1 for group in by_address.values()):
        return Mapping.ADDRESS_AND_PORT_DEPENDENT
    if len(by_address) == 1:
        return Mapping.UNKNOWN
    if len(set(outside.values())) == 1:
        return Mapping.ENDPOINT_INDEPENDENT
    asked_two_ports = any(len(group) > 1 for group in by_address.values())
    return Mapping.ADDRESS_DEPENDENT if asked_two_ports else Mapping.DEPENDENT
