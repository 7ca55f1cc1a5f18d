"""Which path two sites should find, by theory: RFC 4787's terms, and hole punching by RFC 5128.

Mapping says whether the port that a relay saw is the one a peer will see; filtering says who may
send there. Two sites meet directly if some packet gets through to one of them, for its answer gets
back the way it came.
"""

from __future__ import annotations

from firezone.lab.nat_kinds import Depends, Nat
from firezone.lab.topology import Plan, Site

DIRECT, RELAYED = "direct", "relayed"


def path_of(plan: Plan) -> str:
    """The path to expect in a lab laid out so."""
    if plan.shared_nat:
        return shared_path(plan.client.site)
    return expected_path(plan.client.site, plan.gateway.site)


def shared_path(site: Site) -> str:
    """Between two networks behind one NAT that does not join them: by its outer address, if it is
    the outermost, or not at all. A plain router joins them."""
    turns_round = site.hairpin and site.carrier is None
    return DIRECT if site.nat is Nat.NONE or turns_round else RELAYED


def expected_path(client: Site, gateway: Site) -> str:
    """`direct` or `relayed`; the latter over a stream for a site without UDP."""
    if not client.outside_families & gateway.outside_families:
        return RELAYED
    if Nat.UDP_BLOCKED in (*_nats(client), *_nats(gateway)):
        return RELAYED
    is_direct = _reaches(client, gateway) or _reaches(gateway, client)
    return DIRECT if is_direct else RELAYED


def _reaches(sender: Site, receiver: Site) -> bool:
    """Whether what the sender sends to the port that a relay saw gets through to the receiver.

    Both sites send to all addresses they know of each other. So from that port the receiver has
    sent to the sender's address, and to its very port if that is the one the relay saw, as far as
    its NATs map to the same port again. A filter that minds the remote end asks for just that.
    """
    maps_alike = True
    for kind in _nats(receiver):
        mapping, filtering = kind.behaviour.mapping, kind.behaviour.filtering
        maps_alike = maps_alike and mapping is Depends.NOTHING
        was_asked = filtering is Depends.ADDRESS or _is_predictable(sender)
        if filtering is not Depends.NOTHING and not (maps_alike and was_asked):
            return False
    return True


def _is_predictable(site: Site) -> bool:
    return all(kind.behaviour.mapping is Depends.NOTHING for kind in _nats(site))


def _nats(site: Site) -> tuple[Nat, ...]:
    """From the inside out."""
    return (site.nat,) if site.carrier is None else (site.nat, site.carrier)
