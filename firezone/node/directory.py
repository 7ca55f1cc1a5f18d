"""All connections of a node, found by whatever a message or a packet names."""

from __future__ import annotations

from collections.abc import ValuesView
from typing import TypeVar

from firezone.commands import SLOTS
from firezone.model import Entropy
from firezone.node.connection import Connection
from firezone.node.slots import Slots
from firezone.noise import TunnelIds


class Directory:
    """`slots` is how many the data plane has, `workers` among how many it distributes peers."""

    def __init__(self, *, entropy: Entropy, slots: int = SLOTS, workers: int = 1) -> None:
        self.slots = Slots(slots)
        self.tunnel_ids = TunnelIds(entropy, workers)
        self._by_id: dict[str, Connection] = {}
        self._by_slot: dict[int, Connection] = {}
        self._by_key: dict[bytes, Connection] = {}
        self._by_username: dict[str, Connection] = {}
        self._by_tunnel_id: dict[int, Connection] = {}

    def __contains__(self, connection: object) -> bool:
        """Whether it is still the one of its id."""
        return isinstance(connection, Connection) and self.get(connection.id) is connection

    def all(self) -> ValuesView[Connection]:
        return self._by_id.values()

    def get(self, connection: str | None) -> Connection | None:
        return self._by_id.get(connection) if connection is not None else None

    def at(self, slot: int) -> Connection | None:
        return self._by_slot.get(slot)

    def of_key(self, public_key: bytes) -> Connection | None:
        """The one whose peer has this static key."""
        return self._by_key.get(public_key)

    def of_username(self, username: str) -> Connection | None:
        """The one whose peer's checks carry this USERNAME."""
        return self._by_username.get(username)

    def of_index(self, index: int) -> Connection | None:
        """The one that this receiver index of WireGuard belongs to."""
        return self._by_tunnel_id.get(index >> 8)

    def add(self, c: Connection) -> None:
        """Its slot and tunnel id were allocated here."""
        self._by_id[c.id] = self._by_slot[c.slot] = c
        self._by_key[c.keys.public_key] = self._by_username[c.keys.username] = c
        self._by_tunnel_id[c.tunnel_id] = c

    def remove(self, c: Connection) -> None:
        """Free its slot and tunnel id. What is another connection's by now stays."""
        _discard(self._by_id, c.id, c)
        _discard(self._by_slot, c.slot, c)
        _discard(self._by_key, c.keys.public_key, c)
        _discard(self._by_username, c.keys.username, c)
        _discard(self._by_tunnel_id, c.tunnel_id, c)
        self.slots.release(c.slot)
        self.tunnel_ids.release(c.tunnel_id)


K = TypeVar("K")


def _discard(table: dict[K, Connection], key: K, c: Connection) -> None:
    if table.get(key) is c:
        del table[key]
