"""Finds the peer that an operator means, and tells all that is known of it."""

from __future__ import annotations

from ipaddress import ip_address

from firezone.errors import LocalError
from firezone.explain.pairs import candidate_statuses, pair_statuses
from firezone.explain.status import (
    Surroundings,
    connection_status,
    lost_statuses,
    path_status,
    relay_statuses,
)
from firezone.explain.values import Explanation, PortalStatus, RelayStatus
from firezone.model import IPAddress
from firezone.node import Connection
from firezone.roles import Role

_MAX_NAMED = 10


class UnknownPeerError(LocalError):
    """No peer, or more than one, is meant. The message names those there are."""


def explain(role: Role, peer: str, around: Surroundings, now: int) -> Explanation:
    """What is known of a peer: the id, its unambiguous beginning, or an address.

    An address is the peer's in the tunnel, or on a client that of a resource behind it. Raises
    UnknownPeerError.
    """
    found = _find(role, peer.strip(), around.portal)
    c = next((c for c in role.node.connections() if c.id == found), None)
    lost = lost_statuses((gone for gone in role.node.lost if gone.id == found), now)
    if c is None:
        controlling = role.peer == "gateway"
        return Explanation(found, role.peer, None, None, controlling, (), (), (), (), lost)
    return Explanation(
        peer=c.id,
        kind=role.peer,
        connection=connection_status(role, c, around, now),
        ice_state=c.agent.state.name.lower(),
        controlling=c.agent.controlling,
        candidates=candidate_statuses(c.agent),
        pairs=pair_statuses(c.agent, now, c.preliminary, role.node.transport.refuses),
        paths=tuple(path_status(path, now) for path in c.paths),
        relays=_own_relay(role, c, now),
        lost=lost,
    )


def _own_relay(role: Role, c: Connection, now: int) -> tuple[RelayStatus, ...]:
    return tuple(relay for relay in relay_statuses(role, now) if relay.id == c.relay)


def _find(role: Role, text: str, portal: PortalStatus) -> str:
    address = _address(text)
    if address is not None:
        found = role.peer_at(address)
        if found is None:
            away = (
                "" if portal.connected else "; the portal, which would know one, is not connected"
            )
            raise UnknownPeerError(f"{role.why_nobody(address)}{away}")
        return found
    known = dict.fromkeys([c.id for c in role.node.connections()])
    past = dict.fromkeys(gone.id for gone in reversed(role.node.lost))
    matching = [peer for peer in known | past if peer.startswith(text)]
    if text in matching or (text and len(matching) == 1):
        return text if text in matching else matching[0]
    problem = f"more than one {role.peer}" if text and matching else f"no {role.peer}"
    raise UnknownPeerError(f"{problem} has an id that begins with {text!r}; {_named(role, known)}")


def _address(text: str) -> IPAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _named(role: Role, known: dict[str, None]) -> str:
    if not known:
        return f"there is no connection to any {role.peer}"
    more = ", ..." if len(known) > _MAX_NAMED else ""
    return f"connected: {', '.join([*known][:_MAX_NAMED])}{more}"
