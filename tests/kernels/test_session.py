"""The session kernel: vectors, tables of verdicts, and its slow twin step by step."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.session import REJECT_AFTER_MESSAGES, WINDOW, Sessions
from firezone.commands import Activity
from firezone.durations import SECOND
from tests.reference import session as slow

TUNNEL, SLOT = 0xABCDEF, 3
LOCAL, REMOTE = TUNNEL << 8 | 1, 0x201
FOREVER = 10**18
K1, K2 = bytes(range(32)), bytes(range(32, 64))
NOW = 1000 * SECOND
CONFIRMED = 1


def sessions(**overrides: object) -> Sessions:
    """One peer with one keypair of ours as initiator, which sends with K1 and receives with K2."""
    table = Sessions()
    table.add_peer(SLOT, TUNNEL)
    install(table, **overrides)
    return table


def install(table: Sessions, **overrides: object) -> None:
    keypair = {
        "local_index": LOCAL,
        "remote_index": REMOTE,
        "send_key": K1,
        "receive_key": K2,
        "initiator": True,
        "created_at": NOW,
        "send_until": FOREVER,
        "receive_until": FOREVER,
    }
    table.install_keypair(SLOT, **(keypair | overrides))  # type: ignore[arg-type]


def seal(table: Sessions, packet: bytes, now: int = NOW, peer: int = SLOT) -> PacketBatch:
    batch = PacketBatch(1)
    batch.append(packet, peer)
    table.seal(batch, now)
    return batch


def open_all(table: Sessions, messages: list[bytes], now: int = NOW) -> PacketBatch:
    batch = PacketBatch(len(messages))
    for message in messages:
        batch.append(message)
    table.open(batch, now)
    return batch


def verdict_of(table: Sessions, message: bytes, now: int = NOW) -> Verdict:
    return open_all(table, [message], now).verdict(0)


def message(counter: int, packet: bytes = b"packet", index: int = LOCAL, key: bytes = K2) -> bytes:
    """What the other side sends us, made without the kernel."""
    other = slow.Sessions()
    other.add_peer(1, 0)
    keypair = slow.Keypair(1, index, key, key, True, 0, FOREVER, FOREVER, counter)
    other.install_keypair(1, keypair)
    return other.seal(1, packet, 0).packet


def test_first_keepalive_of_a_known_handshake() -> None:
    # Checked against an independent Noise library.
    key = bytes.fromhex("a007faf842d83f5bd3be20a14e0ffcec34c84867b78b051980602713205922de")
    expected = bytes.fromhex("04000000010200000000000000000000f1bce9fd9651b3f6b50c00179cbd1e01")
    assert seal(sessions(send_key=key), b"").packet(0) == expected
    responder = Sessions()
    responder.add_peer(1, 2)
    responder.install_keypair(1, REMOTE, 0x101, K1, key, False, NOW, FOREVER, FOREVER)
    assert verdict_of(responder, expected) == Verdict.CONSUMED
    assert responder.current_index(1) == REMOTE


def test_sealed_packet_stays_in_its_slot_and_is_not_padded() -> None:
    batch = seal(sessions(), b"seven b")
    assert batch.offset(0) == 48 and batch.length(0) == 7 + 32
    assert batch.packet(0)[:16] == b"\x04\0\0\0" + REMOTE.to_bytes(4, "little") + bytes(8)


def test_opened_packet_knows_its_peer() -> None:
    batch = open_all(sessions(), [message(5, b"inner")])
    assert (batch.verdict(0), batch.peer(0), batch.packet(0)) == (Verdict.PASS, SLOT, b"inner")
    assert batch.offset(0) == 64 + 16


def test_keepalive_is_consumed() -> None:
    batch = open_all(sessions(), [message(0, b"")])
    assert (batch.verdict(0), batch.peer(0)) == (Verdict.CONSUMED, SLOT)


def changed(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


def numbered(counter: int) -> bytes:
    return GOOD[:8] + counter.to_bytes(8, "little") + GOOD[16:]


GOOD = message(0)
RECEIVE_VERDICTS = {
    "good": (GOOD, Verdict.PASS),
    "31 bytes": (message(0, b"")[:31], Verdict.MALFORMED),
    "empty": (b"", Verdict.MALFORMED),
    "another type": (changed(GOOD, 0, 3), Verdict.MALFORMED),
    "reserved bytes set": (changed(GOOD, 3, 1), Verdict.MALFORMED),
    "nobody's tunnel": (changed(GOOD, 7, 0), Verdict.NO_PEER),
    "tunnel id next to ours": (changed(GOOD, 5, 0xEE), Verdict.NO_PEER),
    "empty place": (changed(GOOD, 4, 2), Verdict.WRONG_INDEX),
    "same place, other index": (changed(GOOD, 4, 9), Verdict.WRONG_INDEX),
    "counter changed": (changed(GOOD, 8, 1), Verdict.BAD_TAG),
    "ciphertext changed": (changed(GOOD, 16, GOOD[16] ^ 1), Verdict.BAD_TAG),
    "tag changed": (changed(GOOD, -1 + len(GOOD), GOOD[-1] ^ 1), Verdict.BAD_TAG),
    "last counter but one": (message(REJECT_AFTER_MESSAGES - 1), Verdict.PASS),
    "past the last counter": (numbered(REJECT_AFTER_MESSAGES), Verdict.EXPIRED),
    "greatest counter": (numbered(2**64 - 1), Verdict.EXPIRED),
}


@pytest.mark.parametrize("case", RECEIVE_VERDICTS)
def test_receive_verdicts(case: str) -> None:
    data, expected = RECEIVE_VERDICTS[case]
    assert verdict_of(sessions(), data) == expected


def test_every_truncation_is_dropped() -> None:
    for size in range(len(GOOD)):
        assert verdict_of(sessions(), GOOD[:size]) in (Verdict.MALFORMED, Verdict.BAD_TAG)


@given(st.binary(max_size=100))
def test_random_bytes_are_dropped(noise: bytes) -> None:
    table = sessions()
    assert verdict_of(table, noise) != Verdict.PASS
    assert verdict_of(table, b"\x04\0\0\0" + LOCAL.to_bytes(4, "little") + noise) != Verdict.PASS


def test_expiry_is_exact() -> None:
    table = sessions(send_until=NOW + 10, receive_until=NOW + 20)
    assert seal(table, b"x", NOW + 9).verdict(0) == Verdict.PASS
    assert seal(table, b"x", NOW + 10).verdict(0) == Verdict.UNROUTABLE
    assert verdict_of(table, message(0), NOW + 19) == Verdict.PASS
    assert verdict_of(table, message(1), NOW + 20) == Verdict.EXPIRED


def test_unroutable_packet_is_untouched() -> None:
    table = sessions(initiator=False)
    for peer in (0, SLOT, SLOT + 1, 2**32 - 1):
        batch = seal(table, b"plain", peer=peer)
        assert (batch.verdict(0), batch.packet(0)) == (Verdict.UNROUTABLE, b"plain")
    assert table.activity(SLOT) == dataclasses.astuple(Activity())


def test_nonces_end() -> None:
    table = sessions()
    table.advance_send_counter(SLOT, REJECT_AFTER_MESSAGES - 1)
    last = seal(table, b"x").packet(0)
    assert int.from_bytes(last[8:16], "little") == REJECT_AFTER_MESSAGES - 1
    assert seal(table, b"x").verdict(0) == Verdict.UNROUTABLE
    with pytest.raises(ValueError, match="nonce"):
        table.advance_send_counter(SLOT, 0)


def test_forged_packet_does_not_use_its_counter_up() -> None:
    table = sessions()
    assert verdict_of(table, changed(message(9), 20, 0)) == Verdict.BAD_TAG
    assert verdict_of(table, message(9)) == Verdict.PASS
    assert verdict_of(table, message(9)) == Verdict.REPLAYED


def test_duplicates_within_a_batch() -> None:
    batch = open_all(sessions(), [message(1), message(1), message(0), message(0)])
    verdicts = [batch.verdict(i) for i in range(4)]
    assert verdicts == [Verdict.PASS, Verdict.REPLAYED, Verdict.PASS, Verdict.REPLAYED]


# Counter by counter: is it accepted? The window is 8128 wide.
WINDOW_CASES = {
    "in order": [(0, True), (1, True), (2, True)],
    "again": [(0, True), (0, False), (1, True), (1, False), (0, False)],
    "out of order": [(9, True), (0, True), (8, True), (0, False), (8, False), (9, False)],
    "oldest that fits": [(WINDOW - 1, True), (1, True), (0, True), (1, False)],
    "too old": [(WINDOW, True), (1, True), (0, False)],
    "within the ring, but not the window": [(8191, True), (1, False), (63, False), (64, True)],
    "a jump clears": [(5, True), (8197, True), (69, False), (70, True), (70, False)],
    "a far jump clears all": [(5, True), (10**15 + 5, True), (10**15 - 8000, True)],
    "the ends": [(REJECT_AFTER_MESSAGES - 1, True), (REJECT_AFTER_MESSAGES - 1, False)],
}


@pytest.mark.parametrize("case", WINDOW_CASES)
def test_replay_window(case: str) -> None:
    table = sessions()
    for counter, accepted in WINDOW_CASES[case]:
        expected = Verdict.PASS if accepted else Verdict.REPLAYED
        assert verdict_of(table, message(counter)) == expected, counter


steps = st.one_of(
    st.integers(-70, 70), st.sampled_from([-8129, -8128, -8127, -64, 64, 8127, 8128, 8192, 20000])
)


@given(st.lists(steps, max_size=60))
@settings(deadline=None)
def test_replay_window_agrees_with_a_set(moves: list[int]) -> None:
    table, window, counter = sessions(), slow.Window(), 0
    for move in moves:
        counter = max(0, counter + move)
        expected = Verdict.PASS if window.allows(counter) else Verdict.REPLAYED
        assert verdict_of(table, message(counter)) == expected
        window.mark(counter)


def test_responder_sends_only_after_the_first_packet() -> None:
    table = sessions(initiator=False)
    assert seal(table, b"x").verdict(0) == Verdict.UNROUTABLE
    batch = open_all(table, [message(0, b""), message(1)])
    assert [batch.mark(0), batch.mark(1)] == [CONFIRMED, 0]
    assert table.current_index(SLOT) == LOCAL
    assert seal(table, b"x").verdict(0) == Verdict.PASS


def test_send_slot_never_goes_back() -> None:
    table = sessions(created_at=NOW)
    install(table, local_index=LOCAL + 1, created_at=NOW - 1)
    assert table.current_index(SLOT) == LOCAL
    install(table, local_index=LOCAL + 2, initiator=False, created_at=NOW - 1)
    late = open_all(table, [message(0, index=LOCAL + 2)])
    assert (late.verdict(0), late.mark(0)) == (Verdict.PASS, 0)
    install(table, local_index=LOCAL + 3, created_at=NOW + 1)
    assert table.current_index(SLOT) == LOCAL + 3
    assert verdict_of(table, message(0)) == Verdict.PASS


def test_ninth_keypair_takes_the_place_of_the_first() -> None:
    table = sessions()
    install(table, local_index=LOCAL + 8, initiator=False)
    assert table.local_indices(SLOT) == [LOCAL + 8] and table.current_index(SLOT) == 0
    assert verdict_of(table, message(0)) == Verdict.WRONG_INDEX
    assert verdict_of(table, message(0, index=LOCAL + 8)) == Verdict.PASS


def test_removed_keypair_neither_sends_nor_receives() -> None:
    table = sessions()
    table.remove_keypair(SLOT, LOCAL + 8)
    assert table.current_index(SLOT) == LOCAL
    table.remove_keypair(SLOT, LOCAL)
    assert seal(table, b"x").verdict(0) == Verdict.UNROUTABLE
    assert verdict_of(table, message(0)) == Verdict.WRONG_INDEX


def test_activity_columns() -> None:
    table = sessions()

    def stamps() -> Activity:
        return Activity(*table.activity(SLOT))

    seal(table, b"", NOW)
    assert stamps() == Activity(sent_any=NOW, current_index=LOCAL, send_counter=1)
    seal(table, b"data", NOW + 1)
    seal(table, b"data", NOW + 2)
    assert (stamps().sent_data, stamps().unanswered_since) == (NOW + 2, NOW + 1)
    open_all(table, [message(0, b"")], NOW + 3)
    assert (stamps().received_any, stamps().received_data) == (NOW + 3, 0)
    assert stamps().unanswered_since < stamps().received_any
    open_all(table, [message(1)], NOW + 4)
    open_all(table, [message(2)], NOW + 5)
    assert (stamps().received_data, stamps().unacknowledged_since) == (NOW + 5, NOW + 4)
    seal(table, b"", NOW + 6)
    assert stamps().unacknowledged_since < stamps().sent_any
    open_all(table, [changed(message(3), 20, 0), message(1)], NOW + 7)
    assert stamps().received_any == NOW + 5


def test_within_one_nanosecond_the_later_call_is_later() -> None:
    table = sessions()
    open_all(table, [message(0)], NOW)
    seal(table, b"answer", NOW)
    stamps = Activity(*table.activity(SLOT))
    assert stamps.unanswered_since > stamps.received_any
    assert stamps.unacknowledged_since <= stamps.sent_any
    open_all(table, [message(1)], NOW)
    stamps = Activity(*table.activity(SLOT))
    assert stamps.unanswered_since <= stamps.received_any
    assert stamps.unacknowledged_since > stamps.sent_any


def test_wrong_calls() -> None:
    table = sessions()
    for slot, tunnel_id in [(0, 1), (16385, 1), (1, 1 << 24), (SLOT, 1), (1, TUNNEL)]:
        with pytest.raises(ValueError):
            table.add_peer(slot, tunnel_id)
    for overrides in ({"local_index": 1}, {"send_key": b"short"}, {"receive_key": bytes(33)}):
        with pytest.raises(ValueError):
            install(table, **overrides)
    for method in (table.remove_peer, table.activity, table.current_index, table.local_indices):
        with pytest.raises(KeyError):
            method(SLOT + 1)
    with pytest.raises(ValueError):
        Sessions(0)


def test_memory_is_small_and_comes_back() -> None:
    table = Sessions(capacity=2000)
    for slot in range(1, 2001):
        table.add_peer(slot, slot * 8000 % (1 << 24))
    assert len(table) == 2000 and table.memory < 2000 * 1500
    for slot in range(1, 2001):
        table.remove_peer(slot)
    assert len(table) == table.memory == table.reclaim() == 0


def test_churn_does_not_grow() -> None:
    table = Sessions()
    for n in range(300):
        table.add_peer(SLOT, n * 1000)
        for place in range(20):
            index = n * 1000 << 8 | place
            table.install_keypair(SLOT, index, 7, K1, K2, True, NOW, FOREVER, FOREVER)
        assert len(table.local_indices(SLOT)) == 8
        assert table.memory < 16000
        table.remove_peer(SLOT)
    assert table.memory == 0


def test_nothing_is_freed_under_a_running_thread() -> None:
    batch = PacketBatch(4096)
    waited = 0
    while waited == 0:
        table = sessions()
        batch.clear()
        for _ in range(4096):
            batch.append(bytes(1400), SLOT)
        thread = threading.Thread(target=table.seal, args=(batch, NOW))
        thread.start()
        while table.activity(SLOT)[-1] == 0:
            pass
        table.remove_peer(SLOT)
        waited = table.reclaim()
        assert (table.memory > 0) == (waited > 0)
        thread.join()
        assert table.reclaim() == table.memory == 0
    # What it had found before the removal it went on to use; the rest had nobody to go to.
    verdicts = {batch.verdict(i) for i in range(4096)}
    assert Verdict.PASS in verdicts and verdicts <= {Verdict.PASS, Verdict.UNROUTABLE}


@pytest.fixture
def fast_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_threads_read_while_python_changes(fast_switches: None) -> None:
    """TX and RX run against a table in which peers and keypairs come and go."""
    table = Sessions(capacity=8)
    stop = threading.Event()
    seen: set[Verdict] = set()

    def tx() -> None:
        while not stop.is_set():
            batch = PacketBatch(64)
            for i in range(64):
                batch.append(bytes(64), i % 4 + 1)
            table.seal(batch, NOW)
            seen.update(map(batch.verdict, range(64)))

    messages = [
        message(counter, index=slot << 8 | place)
        for counter in range(4)
        for slot in range(1, 5)
        for place in range(4)
    ]

    def rx() -> None:
        while not stop.is_set():
            seen.update(map(open_all(table, messages).verdict, range(64)))

    threads = [threading.Thread(target=tx), threading.Thread(target=rx)]
    for thread in threads:
        thread.start()
    n = 0
    while n < 24000 or (Verdict.PASS not in seen and n < 600000):
        slot = n % 4 + 1
        if n % 12 < 4:
            table.add_peer(slot, slot)
        elif n % 12 < 8:
            for place in range(4):
                responder = n % 8 >= 6
                table.install_keypair(
                    slot, slot << 8 | place, 1, K1, K2, not responder, n, FOREVER, FOREVER
                )
            table.remove_keypair(slot, slot << 8 | 3)
        else:
            table.remove_peer(slot)
        n += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert table.reclaim() == table.memory == 0
    assert Verdict.PASS in seen and Verdict.BAD_TAG not in seen and Verdict.MALFORMED not in seen


class KernelAndTwin(RuleBasedStateMachine):
    """Random steps on one end of two tunnels; messages come from the other ends' nonces."""

    tunnels: ClassVar = {1: 0x000007, 2: 0xFFFFFF}
    slots = st.sampled_from([1, 2])
    places = st.integers(0, 17)

    @initialize()
    def start(self) -> None:
        self.kernel, self.twin = Sessions(capacity=2), slow.Sessions()
        self.now, self.made = NOW, 0
        self.indices: list[tuple[int, int, bytes]] = []

    @rule(slot=slots)
    def open_or_close_a_peer(self, slot: int) -> None:
        if slot in self.twin.peers:
            self.kernel.remove_peer(slot)
            self.twin.remove_peer(slot)
        else:
            self.kernel.add_peer(slot, self.tunnels[slot])
            self.twin.add_peer(slot, self.tunnels[slot])

    @rule(slot=slots, place=places, initiator=st.booleans(), age=st.integers(-3, 3))
    def install(self, slot: int, place: int, initiator: bool, age: int) -> None:
        if slot not in self.twin.peers:
            return
        self.made += 1
        key = self.made.to_bytes(32)
        keypair = slow.Keypair(
            local_index=self.tunnels[slot] << 8 | place,
            remote_index=self.made,
            send_key=key,
            receive_key=key[::-1],
            initiator=initiator,
            created_at=self.now - age,
            send_until=self.now + 6,
            receive_until=self.now + 9,
        )
        fields = [getattr(keypair, f.name) for f in dataclasses.fields(keypair)][:8]
        self.kernel.install_keypair(slot, *fields)
        self.twin.install_keypair(slot, keypair)
        self.indices.append((slot, keypair.local_index, keypair.receive_key))

    @rule(slot=slots, place=places)
    def remove_keypair(self, slot: int, place: int) -> None:
        if slot in self.twin.peers:
            self.kernel.remove_keypair(slot, self.tunnels[slot] << 8 | place)
            self.twin.remove_keypair(slot, self.tunnels[slot] << 8 | place)

    @rule(step=st.integers(0, 3))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule(packets=st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=20)), max_size=70))
    def seal(self, packets: list[tuple[int, bytes]]) -> None:
        batch = PacketBatch(80)
        for peer, packet in packets:
            batch.append(packet, peer)
        self.kernel.seal(batch, self.now)
        for slot, (peer, packet) in enumerate(packets):
            expected = self.twin.seal(peer, packet, self.now)
            assert batch.verdict(slot) == expected.verdict
            assert batch.packet(slot) == expected.packet

    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        if not self.indices:
            return
        newest = len(self.indices) - 1
        choice = st.tuples(
            st.integers(max(0, newest - 5), newest),
            st.integers(0, 300),
            st.sampled_from([b"", b"data"]),
            st.booleans(),
        )
        messages = []
        for number, counter, packet, wrong in data.draw(st.lists(choice, max_size=6)):
            _, index, key = self.indices[number]
            messages.append(message(counter, packet, index, bytes(32) if wrong else key))
        batch = PacketBatch(8)
        for sealed in messages:
            batch.append(sealed)
        self.kernel.open(batch, self.now)
        for slot, sealed in enumerate(messages):
            expected = self.twin.open(sealed, self.now)
            assert batch.verdict(slot) == expected.verdict
            assert batch.mark(slot) == expected.confirmed
            if expected.verdict in (Verdict.PASS, Verdict.CONSUMED):
                assert (batch.peer(slot), batch.packet(slot)) == (expected.peer, expected.packet)

    @invariant()
    def same_state(self) -> None:
        for slot, peer in self.twin.peers.items():
            assert Activity(*self.kernel.activity(slot)) == self.twin.activity(slot)
            indices = {keypair.local_index for keypair in peer.keypairs.values()}
            assert set(self.kernel.local_indices(slot)) == indices
        assert self.kernel.reclaim() == 0


KernelAndTwin.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestKernelAndTwin = KernelAndTwin.TestCase
