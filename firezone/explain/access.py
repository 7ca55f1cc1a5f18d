"""How relays let a client or gateway in: for a check of the network on its host, and nobody else.

This is the one answer with a secret. Whoever may ask for it may read the program's memory, too; the
credentials allocate on the relays until the portal's expiry, and nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from firezone.node.relays import REALM
from firezone.roles import Role


@dataclass(frozen=True, slots=True)
class RelayAccess:
    """One relay: who we are there."""

    id: str
    username: str
    password: str = field(repr=False)
    realm: str = REALM


def relay_access(role: Role) -> tuple[RelayAccess, ...]:
    """Of all relays that the program has."""
    links = role.node.transport.relays.links()
    return tuple(RelayAccess(i, k.relay.username, k.relay.password) for i, k in links)
