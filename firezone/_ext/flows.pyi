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

    `capacity` is the most entries of both directions together: two for a flow that passes both
    ways. `slots` counts the peers; `per_group` is the most entries that one group may hold; ends
    are noticed by `sweep` with a resolution of `tick` nanoseconds.

    An entry takes 128 bytes and 13 to 26 in the index, so a flow that passes both ways 280 to 310;
    an entry with a rewrite takes 40 more. An empty table takes 2 KiB. The index grows and shrinks
    with the entries; the memory of entries is used again, but not given back.
    """

    def __new__(
        cls,
        secret: bytes,
        sessions: Sessions | None = None,
        capacity: int = 1 << 21,
        slots: int = 16384,
        per_group: int = 1 << 16,
        tick: int = 1_000_000_000,
    ) -> Self: ...
    def __len__(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def places(self) -> int:
        """How large the index is now: 8 bytes each."""

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

        A replaced entry hands its counters on, but for packets that are being looked up at that
        moment; the same decision again only renews the entry and loses none. Raises ValueError for
        values out of range.
        """

    def remove(self, key: _Key) -> _Counters | None:
        """Forget an entry; its last counters, None if there was none."""

    def entry(self, key: _Key) -> _Entry | None:
        """The entry of a key, live or stale."""

    def bump(self, group: int) -> None:
        """Make every entry of the group stale."""

    def close_slot(self, slot: int) -> None:
        """Make every entry that names this peer, in key, decision or group, stale."""

    def sweep(self, now: int, limit: int = 4096) -> list[_Entry]:
        """Look at up to `limit` entries that may have ended by now, and remove those that have.

        Entries of revoked groups go first. Nothing else is looked at, however full the table is.
        """

    def next_sweep(self) -> int | None:
        """When `sweep` will next find something to do, in absolute ns; 0 is at once, None never.

        An entry that is used goes to a later time only when it is looked at. What a change of the
        table brings near is told from then on.
        """

    def entries(self) -> Iterator[_Entry]:
        """Every entry of both directions."""

    def lookup(self, batch: PacketBatch, direction: int, now: int) -> None:
        """Run the lookup stage over a parsed batch."""

    def rewrite(self, batch: PacketBatch) -> None:
        """Run the rewrite stage over a batch that was looked up."""
