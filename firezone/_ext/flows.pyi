from collections.abc import Iterator
from typing import Self, final

from firezone._ext.batch import PacketBatch
from firezone._ext.session import Sessions

_Key = tuple[int, int, int, bytes, bytes, int, int]
"""(direction, slot, protocol, source, destination, source port, destination port)"""
_Rewrite = tuple[bytes | None, bytes | None, int | None, int | None]
"""(source, destination, source port, destination port), None = unchanged"""
_Counters = tuple[int, int, int, int]
"""(packets, bytes, last seen in absolute ns, TCP flags seen)"""
_Entry = tuple[_Key, int, int, int, int, int, _Rewrite | None, _Counters]
"""(key, action, slot, group, expires_at, idle_timeout, rewrite, counters)"""

@final
class Flows:
    """The flow table. `secret` (16 random bytes) keys its hash.

    It frees by the epoch of `sessions`; without one it is for a single thread.

    `capacity` counts the entries of each direction, `slots` the peers, `per_group` the most
    entries that one group may hold in both directions together.
    """

    def __new__(
        cls,
        secret: bytes,
        sessions: Sessions | None = None,
        capacity: int = 65536,
        slots: int = 16384,
        per_group: int = 16384,
    ) -> Self: ...
    def __len__(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    def install(
        self,
        key: _Key,
        action: int,
        slot: int,
        group: int,
        expires_at: int,
        idle_timeout: int,
        rewrite: _Rewrite | None,
        now: int,
    ) -> bool:
        """Add or replace an entry; False when the table or the group is full.

        A replaced entry hands its counters on. Raises ValueError for values out of range.
        """

    def remove(self, key: _Key) -> _Counters | None:
        """Forget an entry; its last counters, None if there was none."""

    def entry(self, key: _Key) -> _Entry | None:
        """The entry of a key, live or stale."""

    def bump(self, group: int) -> None:
        """Make every entry of the group stale."""

    def close_slot(self, slot: int) -> None:
        """Make every entry that names this peer, in key or decision, stale."""

    def sweep(self, now: int, limit: int = 4096) -> list[_Entry]:
        """Look at the next `limit` places of each direction and remove what is stale there."""

    def entries(self) -> Iterator[_Entry]:
        """Every entry of both directions."""

    def lookup(self, batch: PacketBatch, direction: int, now: int) -> None:
        """Run the lookup stage over a parsed batch."""

    def rewrite(self, batch: PacketBatch, direction: int) -> None:
        """Run the rewrite stage over a batch that was looked up."""
