"""The paths beside their slow twin: changes of Python's between batches of packets."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.paths import Paths
from firezone._ext.session import Sessions
from tests.reference import paths as slow
from tests.reference.batch import UNSET, Address

SLOTS = 4
KINDS = [(4, b"\xc0\0\2\1"), (6, bytes(range(16))), (4, bytes(16)), (0, b"")]
ends = st.builds(
    lambda kind, port: (*KINDS[kind], port),
    st.sampled_from([0, 1] * 4 + [2, 3]),
    st.sampled_from([0, 3478, 65535] * 2 + [65536]),
)
slots = st.integers(0, SLOTS + 1)
channels = st.none() | st.sampled_from([0x4000, 0x4ABC, 0x4FFF, 0x3FFF, 0x5000, 0])
peers = st.sampled_from([0, *range(1, SLOTS + 1), *range(1, SLOTS + 1), SLOTS + 1, 2**32 - 1])
packets = st.lists(st.tuples(peers, st.integers(0, 200), st.booleans()), max_size=12)


class Twins(RuleBasedStateMachine):
    @initialize(shared=st.booleans())
    def start(self, shared: bool) -> None:
        self.paths = Paths(Sessions(SLOTS) if shared else None, SLOTS)
        self.twin = slow.Paths(SLOTS)

    @rule(slot=slots, destination=ends, source=st.none() | ends, channel=channels)
    def set(
        self, slot: int, destination: Address, source: Address | None, channel: int | None
    ) -> None:
        self.both(lambda p: p.set(slot, destination, source, channel))

    @rule(slot=slots)
    def clear(self, slot: int) -> None:
        self.both(lambda p: p.clear(slot))

    @rule(slot=slots)
    def get(self, slot: int) -> None:
        self.both(lambda p: p.get(slot))

    @rule(packets=packets)
    def check(self, packets: list[tuple[int, int, bool]]) -> None:
        batch = filled(packets)
        self.paths.check(batch)
        for slot, (peer, size, decided) in enumerate(packets):
            assert batch.packet(slot) == bytes(size) and batch.remote(slot) == UNSET
            assert batch.verdict(slot) is (Verdict.REFUSED if decided else self.twin.check(peer))

    @rule(packets=packets)
    def prepend(self, packets: list[tuple[int, int, bool]]) -> None:
        batch = filled(packets)
        self.paths.prepend(batch)
        for slot, (peer, size, decided) in enumerate(packets):
            sent = None if decided else self.twin.prepend(peer, bytes(size))
            if sent is None:
                assert batch.packet(slot) == bytes(size)
                assert batch.verdict(slot) is (Verdict.REFUSED if decided else Verdict.SEND_FAILED)
                continue
            datagram, path = sent
            assert batch.verdict(slot) is Verdict.PASS and batch.packet(slot) == datagram
            assert batch.remote(slot) == path.destination
            assert batch.local(slot) == (path.source or UNSET)

    @invariant()
    def nothing_waits_where_no_thread_runs(self) -> None:
        assert self.paths.reclaim() == 0

    def both(self, act: Callable[[Paths | slow.Paths], object]) -> None:
        assert outcome(lambda: act(self.paths)) == outcome(lambda: act(self.twin))


def filled(packets: list[tuple[int, int, bool]]) -> PacketBatch:
    batch = PacketBatch(12)
    for slot, (peer, size, decided) in enumerate(packets):
        batch.append(bytes(size), peer)
        if decided:
            batch.set_verdict(slot, Verdict.REFUSED)
    return batch


def outcome(act: Callable[[], object]) -> object:
    try:
        return act()
    except ValueError:
        return ValueError


TestPaths = Twins.TestCase
TestPaths.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
