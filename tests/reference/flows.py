"""The flow table in plain Python: a dict by direction, peer and 5-tuple."""

from dataclasses import dataclass, field

DROP, FORWARD, SLOW = 0, 1, 2
Key = tuple[int, int, int, bytes, bytes, int, int]


@dataclass
class Entry:
    action: int
    slot: int
    group: int
    expires_at: int
    idle_timeout: int
    last_seen: int
    packets: int = 0
    bytes: int = 0
    tcp_flags: int = 0
    stale: bool = False
    names_closed_peer: bool = False

    def end(self) -> int | None:
        """When it ends if it is not used; None for never, and 0 if its group was revoked."""
        if self.stale:
            return 0
        ends = [self.expires_at] if self.expires_at else []
        ends += [self.last_seen + self.idle_timeout] if self.idle_timeout else []
        return min(ends, default=None)


@dataclass
class Table:
    per_group: int
    capacity: int
    entries: dict[Key, Entry] = field(default_factory=dict)

    def install(self, key: Key, entry: Entry) -> bool:
        old = self.entries.get(key)
        in_group = sum(e.group == entry.group for e in self.entries.values())
        if (old is None or old.group != entry.group) and in_group >= self.per_group:
            return False
        if old is None and len(self.entries) >= self.capacity:
            return False
        if old is not None:
            entry.packets, entry.bytes, entry.tcp_flags = old.packets, old.bytes, old.tcp_flags
        self.entries[key] = entry
        return True

    def bump(self, group: int) -> None:
        for entry in self.entries.values():
            entry.stale |= entry.group == group

    def close_slot(self, slot: int) -> None:
        for key, entry in self.entries.items():
            entry.stale |= slot == entry.group
            entry.names_closed_peer |= slot in (key[1], entry.slot)

    def lookup(self, key: Key, size: int, tcp_flags: int, now: int) -> tuple[str, int]:
        """(verdict, peer out on the way up else 0)."""
        entry = self.entries.get(key)
        if entry is None or entry.action == SLOW or is_over(entry, now):
            return "SLOW", 0
        entry.packets += 1
        entry.bytes += size
        entry.tcp_flags |= tcp_flags
        entry.last_seen = now
        if entry.action == DROP:
            return "REFUSED", 0
        return "PASS", entry.slot if key[0] == 0 else 0

    def over(self, now: int) -> set[Key]:
        return {key for key, entry in self.entries.items() if is_over(entry, now)}


def is_over(entry: Entry, now: int) -> bool:
    return (
        entry.stale
        or entry.names_closed_peer
        or bool(entry.expires_at and now >= entry.expires_at)
        or bool(entry.idle_timeout and now - entry.last_seen >= entry.idle_timeout)
    )
