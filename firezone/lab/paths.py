"""Which path two sites should find, by theory: RFC 4787's terms, and hole punching by RFC 5128.

Mapping says whether the port that a relay saw is the one a peer will see; filtering says who may
send there. Two sites meet directly if some packet gets through to one of them, for its answer gets
back the way it came.
"""

from __future__ import annotations

from firezone.lab.topology import Nat, Site

DIRECT, RELAYED = "direct", "relayed"

_ENDPOINT_DEPENDENT = frozenset({Nat.SYMMETRIC})
_LETS_ANY_PORT_IN = frozenset({Nat.NONE, Nat.FULL_CONE, Nat.RESTRICTED_CONE})


def expected_path(client: Site, gateway: Site) -> str:
    """`direct` or `relayed`; the latter over a stream for a site without UDP."""
    if not client.families & gateway.families:
        return RELAYED
    if Nat.UDP_BLOCKED in _nats(client) | _nats(gateway):
        return RELAYED
    is_direct = _reaches(client, gateway) or _reaches(gateway, client)
    return DIRECT if is_direct else RELAYED


def _reaches(sender: Site, receiver: Site) -> bool:
    """Whether the receiver's NATs let in what comes from the port that the sender will use: it is
    the expected one, or they do not mind the port. Both sites send to all addresses they know of,
    so of each other's hosts they are known to have been asked."""
    if _is_predictable(sender):
        return _is_predictable(receiver)
    return all(kind in _LETS_ANY_PORT_IN for kind in _nats(receiver))


def _is_predictable(site: Site) -> bool:
    return not _nats(site) & _ENDPOINT_DEPENDENT


def _nats(site: Site) -> frozenset[Nat]:
    return frozenset({site.nat} if site.carrier is None else {site.nat, site.carrier})
