"""What the session kernel tells of a peer besides its activity, and padding."""

import struct
import threading

import pytest

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.session import Sessions

SLOT, TUNNEL_ID = 3, 7
KEYS = bytes(range(32)), bytes(range(32, 64))
NEVER = 1 << 62

HERE = (4, bytes([192, 0, 2, 1]), 51820)
HERE_TOO = (4, bytes([192, 0, 2, 9]), 51820)
THERE = (4, bytes([192, 0, 2, 2]), 1000)
ELSEWHERE = (6, bytes(15) + b"\1", 2000)


def table(keys: tuple[bytes, bytes] = KEYS) -> Sessions:
    made = Sessions(capacity=8)
    made.add_peer(SLOT, TUNNEL_ID)
    index = TUNNEL_ID << 8 | 1
    made.install_keypair(SLOT, index, index, *keys, True, 1, NEVER, NEVER)
    return made


def sealed(sessions: Sessions, packet: bytes) -> bytes:
    batch = PacketBatch()
    batch.append(packet, peer=SLOT)
    sessions.seal(batch, 1)
    assert batch.verdict(0) == Verdict.PASS
    return batch.packet(0)


def receive(sessions: Sessions, message: bytes, remote=None, local=None) -> bytes | None:
    batch = PacketBatch()
    batch.append(message)
    if remote is not None:
        batch.set_local(0, *local)
        batch.set_remote(0, *remote)
    sessions.open(batch, 2)
    return batch.packet(0) if batch.verdict(0) == Verdict.PASS else None


def test_traffic_counts_headers_and_keepalives():
    us, them = table(), table(KEYS[::-1])
    for packet in (b"x" * 100, b""):
        receive(them, sealed(us, packet))
    assert us.traffic(SLOT) == (0, 164)
    assert them.traffic(SLOT) == (164, 0)
    receive(them, b"\4" + bytes(100))
    assert them.traffic(SLOT) == (164, 0)
    with pytest.raises(KeyError):
        us.traffic(SLOT + 1)


def test_a_peer_is_told_once_for_each_move():
    us, them = table(), table(KEYS[::-1])
    assert them.moved() == []
    for _ in range(2):
        receive(them, sealed(us, b"x"), THERE, HERE)
    assert them.moved() == [(SLOT, HERE, THERE)]
    receive(them, sealed(us, b""), THERE, HERE)
    assert them.moved() == []
    receive(them, sealed(us, b""), ELSEWHERE, HERE)
    receive(them, sealed(us, b""), THERE, HERE)
    assert them.moved() == [(SLOT, HERE, ELSEWHERE)]
    assert them.moved() == []
    receive(them, sealed(us, b""), THERE, HERE)
    assert them.moved() == [(SLOT, HERE, THERE)]
    receive(them, sealed(us, b""), THERE, HERE_TOO)
    assert them.moved() == [(SLOT, HERE_TOO, THERE)]


def test_what_does_not_authenticate_moves_nobody():
    us, them = table(), table(KEYS[::-1])
    message = sealed(us, b"hello")
    forged = message[:-1] + bytes([message[-1] ^ 1])
    assert receive(them, forged, ELSEWHERE, HERE) is None
    assert them.moved() == []
    assert receive(them, message, THERE, HERE) == b"hello"
    assert receive(them, message, ELSEWHERE, HERE) is None, "a replay"
    assert them.moved() == [(SLOT, HERE, THERE)]


def test_a_batch_without_addresses_moves_nobody():
    us, them = table(), table(KEYS[::-1])
    receive(them, sealed(us, b"x"))
    assert them.moved() == []


@pytest.mark.parametrize(
    ("mtu", "length", "padded"),
    [
        (0, 17, 17),
        (1420, 0, 0),
        (1420, 1, 16),
        (1420, 16, 16),
        (1420, 17, 32),
        (1420, 1409, 1420),
        (1420, 1420, 1420),
        (1420, 1500, 1500),
    ],
)
def test_padding(mtu: int, length: int, padded: int):
    us, them = table(), table(KEYS[::-1])
    us.pad_below(mtu)
    message = sealed(us, b"x" * length)
    assert len(message) == 32 + padded
    assert struct.unpack_from("<I", message) == (4,)
    if length:
        assert receive(them, message) == b"x" * length + bytes(padded - length)


def test_padding_tells_nothing_of_the_packets_before():
    us, them = table(), table(KEYS[::-1])
    us.pad_below(1420)
    batch = PacketBatch(1)
    batch.append(b"what another peer is told", SLOT)
    batch.clear()
    batch.append(b"x", SLOT)
    us.seal(batch, 1)
    assert receive(them, batch.packet(0)) == b"x" + bytes(15)


def test_settle_waits_for_the_batches_under_way():
    sessions = Sessions(4)
    sessions.add_peer(1, 7)
    assert sessions.settle()
    done = threading.Event()

    def seal_without_end():
        batch = PacketBatch(64)
        while not done.is_set():
            batch.clear()
            for _ in range(64):
                batch.append(bytes(1400), 1)
            sessions.seal(batch, 1)

    thread = threading.Thread(target=seal_without_end)
    thread.start()
    try:
        assert all(sessions.settle() for _ in range(200))
    finally:
        done.set()
        thread.join()
