"""A packet batch beside its slow twin, whatever is done to them."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from firezone._ext.batch import PacketBatch
from tests.reference.batch import Batch, Slot

slots = st.integers(-2, 5)
addresses = st.sampled_from([b"\xc0\0\2\1", bytes(range(16)), b"", b"\xc0\0\2"])
families = st.sampled_from([4, 6, 4, 6, 0, 5])
ports = st.sampled_from([0, 1, 51820, 65535, 65536, -1])


class Twins(RuleBasedStateMachine):
    @initialize(
        capacity=st.integers(1, 5),
        stride=st.sampled_from([128, 192, 2048]),
        arena=st.sampled_from([0, 100, 1 << 14]),
    )
    def start(self, capacity: int, stride: int, arena: int) -> None:
        self.batch = PacketBatch(capacity, stride, arena)
        self.twin = Batch(capacity, stride, arena)

    @rule(size=st.integers(0, 100), peer=st.integers(0, 2**32 - 1), ecn=st.integers(0, 7))
    def append(self, size: int, peer: int, ecn: int) -> None:
        packet = bytes([peer % 256]) * size
        self.both(lambda b: b.append(packet, peer, ecn))

    @rule(size=st.integers(-2, 2))
    def append_at_the_limit(self, size: int) -> None:
        self.both(lambda b: b.append(bytes(b.stride - 96 + size)))

    @rule()
    def clear(self) -> None:
        self.both(lambda b: b.clear())

    @rule(slot=slots, verdict=st.integers(-1, 21))
    def set_verdict(self, slot: int, verdict: int) -> None:
        self.both(lambda b: b.set_verdict(slot, verdict))

    @rule(slot=slots, mark=st.integers(0, 300))
    def set_mark(self, slot: int, mark: int) -> None:
        self.both(lambda b: b.set_mark(slot, mark))

    @rule(slot=slots, family=families, address=addresses, port=ports, local=st.booleans())
    def set_end(self, slot: int, family: int, address: bytes, port: int, local: bool) -> None:
        name = "set_local" if local else "set_remote"
        self.both(lambda b: getattr(b, name)(slot, family, address, port))

    @rule(slot=slots)
    def read_a_slot_that_may_not_be_there(self, slot: int) -> None:
        self.same(lambda: columns(self.batch, slot), lambda: self.twin.columns(slot))

    @invariant()
    def agree(self) -> None:
        assert len(self.batch) == len(self.twin)
        assert self.batch.packets() == self.twin.packets()
        assert [columns(self.batch, slot) for slot in range(len(self.batch))] == self.twin.slots
        assert self.batch.arena_size == self.twin.arena_size

    def both(self, act: Callable[[PacketBatch | Batch], object]) -> None:
        self.same(lambda: act(self.batch), lambda: act(self.twin))

    def same(self, kernel: Callable[[], object], twin: Callable[[], object]) -> None:
        assert outcome(kernel) == outcome(twin)


def columns(batch: PacketBatch, slot: int) -> Slot:
    assert batch.length(slot) == len(batch.packet(slot)) and batch.flow(slot) is None
    assert batch.tuple(slot) == (0, 0, b"", b"", 0, 0, 0)
    return Slot(
        batch.packet(slot),
        batch.offset(slot),
        batch.peer(slot),
        batch.ecn(slot),
        batch.verdict(slot),
        batch.mark(slot),
        batch.local(slot),
        batch.remote(slot),
    )


def outcome(act: Callable[[], object]) -> object:
    try:
        return act()
    except (IndexError, ValueError) as error:
        return type(error)


TestBatches = Twins.TestCase
TestBatches.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
