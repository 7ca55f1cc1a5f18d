"""Several workers: who opens what, what is handed over, and nonces that several take at once."""

from __future__ import annotations

import threading

import packets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.demux import Channels, Demux
from firezone._ext.flows import Flows
from firezone._ext.paths import Paths
from firezone._ext.pipeline import WORKERS, Pipeline, worker_of
from firezone._ext.session import REJECT_AFTER_MESSAGES, Sessions

UP, DOWN, FORWARD, UDP = 0, 1, 1, 17
HERE, THERE = (4, bytes([192, 0, 2, 9]), 51820), (4, bytes([192, 0, 2, 1]), 3478)
MOVED = (4, bytes([192, 0, 2, 77]), 7)
SLOTS, FOREVER = 8, 1 << 62
TUNNELS = {1: 0x300, 2: 0x301, 3: 0x302}  # slot: tunnel id, each of another of three workers
PACKET = packets.udp("10.0.0.1", "10.0.0.2", 1, 2, b"data")


class Node:
    """Both ends of each peer have the same indices; `initiator` says which end this is."""

    def __init__(self, initiator: bool, workers: int) -> None:
        self.sessions = Sessions(SLOTS)
        self.flows = Flows(bytes(16), self.sessions, 1024, SLOTS)
        self.paths = Paths(self.sessions, SLOTS)
        channels = Channels(bytes(8), self.sessions, 16)
        demuxes = [Demux(bytes(32), channels) for _ in range(workers)]
        self.pipeline = Pipeline(self.sessions, self.flows, self.paths, *demuxes)
        for slot, tunnel_id in TUNNELS.items():
            self.sessions.add_peer(slot, tunnel_id)
            keys = (bytes([slot]) * 32, bytes([slot + 100]) * 32)
            send, receive = keys if initiator else keys[::-1]
            index = tunnel_id << 8 | 1
            self.sessions.install_keypair(
                slot, index, index, send, receive, initiator, 1, FOREVER, FOREVER
            )
            self.paths.set(slot, THERE)
            key = (DOWN, slot, UDP, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), 1, 2)
            assert self.flows.install(key, FORWARD, slot, slot, 0, 0, None, 0)

    def sealed(self, slot: int, packet: bytes = PACKET) -> bytes:
        assert self.pipeline.seal(slot, packet)
        batch = PacketBatch()
        worker = TUNNELS[slot] % self.pipeline.workers
        assert self.pipeline.injected_up(batch, 1, worker)
        return batch.packet(0)

    def receive(self, worker: int, datagrams: list[bytes], remote=THERE) -> PacketBatch:  # type: ignore[no-untyped-def]
        batch = PacketBatch(1024)
        for datagram in datagrams:
            slot = batch.append(datagram, ecn=3)
            batch.set_remote(slot, *remote)
            batch.set_local(slot, *HERE)
        self.pipeline.inbound(batch, 1, worker)
        return batch

    def take_over(self, worker: int) -> PacketBatch:
        batch = PacketBatch(1024)
        self.pipeline.taken_over(batch, 1, worker)
        return batch


def numbered(number: int) -> bytes:
    return packets.udp("10.0.0.1", "10.0.0.2", 1, 2, bytes([number]))


def test_what_came_to_another_worker_goes_on_with_its_owner() -> None:
    client, gateway = Node(True, 1), Node(False, 3)
    sent = [(slot, numbered(number)) for number in range(10) for slot in TUNNELS]
    got = gateway.receive(0, [client.sealed(*each) for each in sent], MOVED)
    assert got.packets() == [packet for slot, packet in sent if slot == 1]
    assert [got.verdict(i) for i in range(3)] == [
        Verdict.PASS, Verdict.HANDED_OVER, Verdict.HANDED_OVER,
    ]  # fmt: skip
    for worker, slot in ((1, 2), (2, 3)):
        taken = gateway.take_over(worker)
        assert taken.packets() == [numbered(number) for number in range(10)]
        assert {taken.peer(i) for i in range(10)} == {slot}
        assert taken.remote(0) == MOVED and taken.local(0) == HERE and taken.ecn(0) == 3
        assert not gateway.pipeline.taken_over(PacketBatch(), 1, worker)
    counted = [gateway.pipeline.counters_of(worker) for worker in range(3)]
    assert [each["udp_received_packets"] for each in counted] == [30, 0, 0]
    assert [each["tun_written_packets"] for each in counted] == [10, 10, 10]
    assert gateway.pipeline.counters()["handed_over"] == 20
    # They have roamed together.
    assert [slot for slot, _, _ in gateway.sessions.moved()] == [1, 2, 3]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(sorted(TUNNELS)), st.integers(0, 2), st.booleans())))
def test_wherever_it_comes_the_same_comes_out(arrivals: list[tuple[int, int, bool]]) -> None:
    """As with one worker: what is delivered, and in what order, and what is refused."""
    client, one, several = Node(True, 1), Node(False, 1), Node(False, 3)
    last = {slot: client.sealed(slot, numbered(0)) for slot in TUNNELS}
    for number, (slot, worker, repeats) in enumerate(arrivals):
        if not repeats:
            last[slot] = client.sealed(slot, numbered(number & 0xFF))
        expected = one.receive(0, [last[slot]])
        got = several.receive(worker, [last[slot]])
        if got.verdict(0) == Verdict.HANDED_OVER:
            got = several.take_over(TUNNELS[slot] % 3)
        assert (got.verdict(0), got.packets()) == (expected.verdict(0), expected.packets())
    assert several.sessions.moved() == one.sessions.moved()
    for slot in TUNNELS:
        assert several.sessions.traffic(slot) == one.sessions.traffic(slot)


def test_a_counter_is_accepted_once_wherever_it_comes() -> None:
    client, gateway = Node(True, 1), Node(False, 3)
    datagram = client.sealed(2)
    assert gateway.receive(1, [datagram]).verdict(0) == Verdict.PASS
    for worker in (0, 2):
        assert gateway.receive(worker, [datagram]).verdict(0) == Verdict.HANDED_OVER
        assert gateway.take_over(1).verdict(0) == Verdict.REPLAYED


def test_no_more_is_handed_over_than_there_is_room_for() -> None:
    client, gateway = Node(True, 1), Node(False, 3)
    datagrams = [client.sealed(2) for _ in range(600)]
    got = gateway.receive(0, datagrams)
    assert [got.verdict(i) for i in range(600)] == (
        [Verdict.HANDED_OVER] * 512 + [Verdict.RING_FULL] * 88
    )
    assert len(gateway.take_over(1).packets()) == 512
    assert gateway.receive(0, [client.sealed(2)]).verdict(0) == Verdict.HANDED_OVER


def test_injected_packets_go_where_their_flow_and_peer_are() -> None:
    node = Node(True, 3)
    key = (UP, 0, UDP, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), 1, 2)
    assert node.flows.install(key, FORWARD, 2, 2, 0, 0, None, 0)
    assert node.pipeline.reinject(UP, 0, PACKET)
    assert taker(node.pipeline.injected_up) == worker_of(PACKET, 3)
    for slot, tunnel_id in TUNNELS.items():
        assert node.pipeline.reinject(DOWN, slot, PACKET)
        assert taker(node.pipeline.injected_down) == tunnel_id % 3
    assert node.pipeline.deliver(PACKET)
    assert taker(node.pipeline.injected_down) == 0


def taker(take) -> int:  # type: ignore[no-untyped-def]
    (worker,) = [worker for worker in range(3) if take(PacketBatch(), 1, worker)]
    return worker  # type: ignore[no-any-return]


def test_several_may_seal_for_one_peer() -> None:
    """No nonce twice; all that was sealed can be opened."""
    sender, receiver = Node(True, 4), Node(False, 1)
    key = (UP, 0, UDP, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), 1, 2)
    assert sender.flows.install(key, FORWARD, 2, 2, 0, 0, None, 0)
    sealed: list[list[bytes]] = [[] for _ in range(4)]
    barrier = threading.Barrier(4)

    def seal(worker: int) -> None:
        batch = PacketBatch(96)
        barrier.wait()
        for _ in range(40):
            batch.clear()
            for _ in range(96):
                batch.append(PACKET)
            sender.pipeline.outbound(batch, 1, worker)
            sealed[worker] += batch.packets()

    threads = [threading.Thread(target=seal, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    messages = [message for each in sealed for message in each]
    counters = [int.from_bytes(message[8:16], "little") for message in messages]
    assert sorted(counters) == list(range(4 * 40 * 96))
    for own in sealed:
        own_counters = [int.from_bytes(message[8:16], "little") for message in own]
        assert own_counters == sorted(own_counters)
    messages.sort(key=lambda message: message[8:16][::-1])
    for start in range(0, len(messages), 1024):
        got = receiver.receive(0, messages[start : start + 1024])
        assert len(got.packets()) == len(messages[start : start + 1024])
    _, sent = sender.sessions.traffic(2)
    assert sent == sum(map(len, messages))


@pytest.mark.parametrize("workers", [1, 2, WORKERS])
def test_no_nonce_is_taken_beyond_the_last(workers: int) -> None:
    node = Node(True, workers)
    key = (UP, 0, UDP, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), 1, 2)
    assert node.flows.install(key, FORWARD, 2, 2, 0, 0, None, 0)
    node.sessions.advance_send_counter(2, REJECT_AFTER_MESSAGES - 10)
    passed = []
    for turn in range(40):
        batch = PacketBatch(7)
        for _ in range(7):
            batch.append(PACKET)
        node.pipeline.outbound(batch, 1, turn % workers)
        passed += [int.from_bytes(each[8:16], "little") for each in batch.packets()]
    assert passed == list(range(REJECT_AFTER_MESSAGES - 10, REJECT_AFTER_MESSAGES))


def test_as_many_workers_as_there_can_be() -> None:
    assert Node(True, WORKERS).pipeline.workers == WORKERS
    for workers in (0, WORKERS + 1):
        with pytest.raises(ValueError, match="workers"):
            Node(True, workers)
    with pytest.raises(ValueError, match="no such worker"):
        Node(True, 2).pipeline.counters_of(2)
