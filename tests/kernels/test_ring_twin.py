"""The ring beside its slow twin: items, what is dropped, and when its reader is woken."""

from __future__ import annotations

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from firezone._ext.ring import Ring
from tests.reference import ring as slow
from tests.reference.batch import Address

ends = st.sampled_from(
    [None, (4, b"\xc0\0\2\1", 53), (6, bytes(range(16)), 65535), (4, bytes(16), 1), (6, b"", 1)]
)
numbers = st.integers(0, 2**32 - 1)
sizes = st.integers(0, 40) | st.sampled_from([slow.LONGEST, slow.LONGEST + 1, 70000])


class Twins(RuleBasedStateMachine):
    @initialize(capacity=st.sampled_from([2, 4, 8]))
    def start(self, capacity: int) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.ring = Ring(capacity, self.fd)
        self.twin = slow.Ring(capacity)

    @rule(kind=numbers, peer=numbers, argument=numbers, size=sizes, local=ends, remote=ends)
    def push(
        self,
        kind: int,
        peer: int,
        argument: int,
        size: int,
        local: Address | None,
        remote: Address | None,
    ) -> None:
        payload = bytes([kind % 256]) * size
        pushed = [self.try_push(r, kind, payload, peer, argument, local, remote) for r in self.both]
        assert pushed[0] == pushed[1]

    def try_push(self, ring: Ring | slow.Ring, *item: object) -> bool | None:
        try:
            return ring.push(*item)  # type: ignore[arg-type]
        except ValueError:
            return None

    @rule(count=st.integers(1, 9))
    def push_many(self, count: int) -> None:
        for number in range(count):
            self.push(number, 0, 0, 1, None, None)

    @rule(count=st.integers(1, 9))
    def pop(self, count: int) -> None:
        for _ in range(count):
            assert self.ring.pop() == self.twin.pop()

    @invariant()
    def agree(self) -> None:
        assert len(self.ring) == len(self.twin)
        assert (self.ring.capacity, self.ring.dropped) == (self.twin.capacity, self.twin.dropped)
        woken, self.twin.wakes = self.twin.wakes, 0
        assert self.wakes() == woken

    def wakes(self) -> int:
        try:
            return os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0

    def teardown(self) -> None:
        os.close(self.fd)

    @property
    def both(self) -> tuple[Ring, slow.Ring]:
        return self.ring, self.twin


TestRings = Twins.TestCase
TestRings.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
