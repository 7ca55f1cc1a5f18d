"""How a NAT or firewall filters (RFC 4787 section 5), from what got in from two senders.

The *near* one has the address of a server that our socket had sent to, but another port; the *far*
one has an address that the socket had never sent to. Filtering is *endpoint-independent* if the far
one gets in, *address-dependent* if only the near one does, and *address-and-port-dependent* if
neither does. What was not shown stays unknown.
"""

from __future__ import annotations

from enum import StrEnum


class Filtering(StrEnum):
    """The verdict; the value is for people."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
    NOT_BY_PORT = "endpoint-independent or address-dependent"
    """The near sender got in; there was no far one."""
    DEPENDENT = "address-dependent or address-and-port-dependent"
    """The far sender did not get in; there was no near one."""
    UNKNOWN = "unknown"


def filtering_of(near: bool | None, far: bool | None) -> Filtering:
    """Each tells whether that sender got in; None is not known."""
    if far:
        return Filtering.ENDPOINT_INDEPENDENT
    if near is None:
        return Filtering.UNKNOWN if far is None else Filtering.DEPENDENT
    if not near:
        return Filtering.ADDRESS_AND_PORT_DEPENDENT
    return Filtering.NOT_BY_PORT if far is None else Filtering.ADDRESS_DEPENDENT
