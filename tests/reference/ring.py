"""The slow twin of the ring: a queue with a bound, and how often it woke its reader."""

from __future__ import annotations

from collections import deque

from tests.reference.batch import Address, checked

LONGEST = 2240

Item = tuple[int, int, int, bytes, Address | None, Address | None]


class Ring:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.items: deque[Item] = deque()
        self.dropped = 0
        self.wakes = 0

    def __len__(self) -> int:
        return len(self.items)

    def push(
        self,
        kind: int,
        payload: bytes,
        peer: int,
        argument: int,
        local: Address | None,
        remote: Address | None,
    ) -> bool:
        ends = [None if end is None else checked(*end) for end in (local, remote)]
        if len(self.items) == self.capacity or len(payload) > LONGEST:
            self.dropped += 1
            return False
        self.wakes += not self.items
        self.items.append((kind, peer, argument, payload, ends[0], ends[1]))
        return True

    def pop(self) -> Item | None:
        return self.items.popleft() if self.items else None
