from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.demux import Channels, Demux
from tests.reference.demux import Class, classify, mac1, mac2

KEY = bytes(range(32))
RELAY = (4, b"\xc0\0\2\1", 3478)
OPEN = 0x4001
SECRET = bytes(range(16, 32))
SECOND = 10**9
EPOCH = 128 * SECOND
STUN = b"\0\1\0\4\x21\x12\xa4\x42" + bytes(12) + b"abcd"
DATA = b"\4\0\0\0" + bytes(28)
COOKIE_REPLY = b"\3\0\0\0" + bytes(60)
VERDICTS = {
    Class.DATA: Verdict.PASS,
    Class.SLOW: Verdict.SLOW,
    Class.MALFORMED: Verdict.MALFORMED,
    Class.BAD_MAC1: Verdict.BAD_MAC1,
    Class.UNKNOWN_CHANNEL: Verdict.UNKNOWN_CHANNEL,
    Class.UNKNOWN_FORMAT: Verdict.UNKNOWN_FORMAT,
}


def proved(message: bytes, address: bytes, epoch: int, secret: bytes = SECRET) -> bytes:
    """The message with the mac2 that who gets its cookie there would make."""
    return message[:-16] + mac2(secret, epoch, address, message[:-16])


def handshake(kind: int) -> bytes:
    message = bytes([kind, 0, 0, 0]) + b"x" * ({1: 148, 2: 92}[kind] - 36)
    return message + mac1(KEY, message) + bytes(16)


def relayed(message: bytes, number: int = OPEN) -> bytes:
    return number.to_bytes(2, "big") + len(message).to_bytes(2, "big") + message


MESSAGES = [STUN, DATA, COOKIE_REPLY, handshake(1), handshake(2)]
MESSAGES += [relayed(m) for m in MESSAGES] + [relayed(DATA, OPEN + 1), relayed(relayed(DATA))]


@pytest.mark.parametrize("message", MESSAGES)
def test_agrees_with_its_twin_on_messages_and_every_truncation(message: bytes) -> None:
    for size in range(len(message) + 1):
        check(message[:size])
    check(message + b"\0")


@given(st.sampled_from(MESSAGES), st.integers(0), st.integers(1, 255))
def test_agrees_with_its_twin_on_mutated_messages(message: bytes, at: int, flip: int) -> None:
    mutated = bytearray(message)
    mutated[at % len(message)] ^= flip
    check(bytes(mutated))


@given(st.binary(max_size=200))
def test_agrees_with_its_twin_on_random_bytes(data: bytes) -> None:
    check(data)
    check(relayed(data))
    check(b"\1\0\0\0" + data)


def test_a_channel_is_of_one_relay() -> None:
    channels, demux = fresh()
    other = (4, b"\xc0\0\2\2", 3478)
    assert run(demux, relayed(DATA), RELAY)[0] == Verdict.PASS
    assert run(demux, relayed(DATA), other)[0] == Verdict.UNKNOWN_CHANNEL
    assert run(demux, relayed(DATA), (4, RELAY[1], 3479))[0] == Verdict.UNKNOWN_CHANNEL
    assert channels.close(RELAY, OPEN) and not channels.close(RELAY, OPEN)
    assert run(demux, relayed(DATA), RELAY)[0] == Verdict.UNKNOWN_CHANNEL


def test_a_channel_notes_when_it_was_of_use() -> None:
    channels, demux = fresh()
    run(demux, relayed(b"rubbish"), RELAY, now=5)
    assert channels.received_at(RELAY, OPEN) == 0
    run(demux, relayed(STUN), RELAY, now=6)
    assert channels.received_at(RELAY, OPEN) == 6
    run(demux, relayed(DATA), RELAY, now=7)
    assert channels.received_at(RELAY, OPEN) == 7
    assert channels.open(RELAY, OPEN)
    assert channels.received_at(RELAY, OPEN) == 7
    channels.close(RELAY, OPEN)
    assert channels.received_at(RELAY, OPEN) == 0


def test_the_channel_table_has_an_end_and_uses_places_again() -> None:
    channels = Channels(bytes(8), capacity=16)
    for _ in range(10):
        opened = [n for n in range(0x4000, 0x4020) if channels.open(RELAY, n)]
        assert len(opened) == len(channels) == 12
        assert all(channels.close(RELAY, n) for n in opened)
    assert len(channels) == 0


@pytest.mark.parametrize("number", [0x3FFF, 0x5000])
def test_channel_numbers_out_of_range(number: int) -> None:
    with pytest.raises(ValueError):
        Channels(bytes(8)).open(RELAY, number)


@pytest.mark.parametrize(
    "message, burst, per_second",
    [(handshake(1), 200, 1000), (COOKIE_REPLY, 50, 100), (STUN, 1000, 5000)],
)
def test_a_flood_ends_before_python(message: bytes, burst: int, per_second: int) -> None:
    _, demux = fresh()

    def passed(count: int, now: int) -> int:
        verdicts = [run(demux, message, RELAY, now)[0] for _ in range(count)]
        assert set(verdicts) <= {Verdict.SLOW, Verdict.OVER_BUDGET}
        return verdicts.count(Verdict.SLOW)

    assert passed(2 * burst, now=10**9) == burst
    assert passed(burst, now=10**9 + 10**7) == per_second // 100
    assert passed(1, now=10**9) in (0, 1), "a clock that steps back does no harm"


def test_the_rates_do_not_starve_each_other_nor_data() -> None:
    _, demux = fresh()
    for _ in range(300):
        run(demux, COOKIE_REPLY, RELAY)
    assert run(demux, handshake(2), RELAY)[0] == Verdict.SLOW
    assert run(demux, STUN, RELAY)[0] == Verdict.SLOW
    assert run(demux, DATA, RELAY)[0] == Verdict.PASS


@pytest.mark.parametrize(
    "late, port, is_good",
    [
        (-1, 3478, False),
        (0, 3478, True),
        (0, 9, True),
        (EPOCH - 1, 3478, True),
        (EPOCH, 3478, False),
    ],
)
def test_a_good_mac2_is_of_its_time_and_of_any_port(late: int, port: int, is_good: bool) -> None:
    message = proved(handshake(1), RELAY[1], epoch=3)
    assert passes_proved(message, (4, RELAY[1], port), 4 * EPOCH + late) is is_good


def test_a_good_mac2_is_of_its_address_and_of_every_bit() -> None:
    for wrong in (
        proved(handshake(1), b"\xc0\0\2\2", epoch=3),
        proved(handshake(1), RELAY[1], epoch=3, secret=bytes(16)),
        *(flipped(proved(handshake(1), RELAY[1], epoch=3), -1 - n) for n in range(16)),
        relayed(proved(handshake(1), RELAY[1], epoch=3)),  # whose address is the relay's
    ):
        assert not passes_proved(wrong, RELAY, 4 * EPOCH)


def test_without_a_secret_no_mac2_is_good() -> None:
    _, demux = fresh(handshake_rate=1, handshake_burst=1)
    good = proved(handshake(1), RELAY[1], epoch=0, secret=bytes(16))
    assert [run(demux, good, RELAY)[0] for _ in range(2)] == [Verdict.SLOW, Verdict.OVER_BUDGET]


def test_one_address_does_not_use_up_what_others_may() -> None:
    _, demux = fresh(cookie_secret=SECRET, source_rate=10, source_burst=5, proved_burst=8)

    def passed(address: bytes, count: int, now: int) -> int:
        message = proved(handshake(1), address, epoch=0)
        source = (4 if len(address) == 4 else 6, address, 1)
        return [run(demux, message, source, now)[0] for _ in range(count)].count(Verdict.SLOW)

    first, second = b"\xc0\0\2\7", b"\xc0\0\2\10"
    assert passed(first, 20, now=0) == 5
    assert passed(second, 20, now=0) == 3, "what all may have together"
    assert passed(first, 20, now=SECOND // 10) == 1
    drain(demux, 0)
    assert passed(second, 20, now=SECOND // 10) == 3, "the flood of those without mac2 is another's"
    network = bytes.fromhex("20010db800000001")
    now = 10 * SECOND
    assert passed(network + bytes(8), 20, now) == 5
    assert passed(network + bytes(7) + b"\1", 20, now) == 0, "the same /64"


def test_nobody_may_want_stun() -> None:
    _, demux = fresh(stun_rate=0)
    assert run(demux, STUN, RELAY)[0] == Verdict.UNKNOWN_FORMAT
    assert run(demux, relayed(STUN), RELAY)[0] == Verdict.UNKNOWN_FORMAT
    assert run(demux, handshake(1), RELAY)[0] == Verdict.SLOW


def test_what_was_dropped_before_stays_so() -> None:
    _, demux = fresh()
    batch = PacketBatch()
    batch.append(DATA)
    batch.set_verdict(0, Verdict.TOO_LONG)
    demux.classify(batch, 0)
    assert batch.verdict(0) == Verdict.TOO_LONG


def check(datagram: bytes) -> None:
    expected, rest = classify(datagram, KEY, lambda number: number == OPEN)
    assert run(fresh()[1], datagram, RELAY) == (VERDICTS[expected], rest)


def fresh(**options: Any) -> tuple[Channels, Demux]:
    channels = Channels(b"\5" * 8)
    assert channels.open(RELAY, OPEN)
    return channels, Demux(KEY, channels, **options)


def passes_proved(message: bytes, source: tuple[int, bytes, int], now: int) -> bool:
    """True if a message passes where those without a good mac2 do no more."""
    _, demux = fresh(cookie_secret=SECRET, cookies_since=EPOCH)
    drain(demux, now)
    return run(demux, message, source, now)[0] == Verdict.SLOW


def flipped(message: bytes, at: int) -> bytes:
    changed = bytearray(message)
    changed[at] ^= 1
    return bytes(changed)


def drain(demux: Demux, now: int) -> None:
    """Use up what messages without mac2 may do."""
    while run(demux, handshake(1), RELAY, now)[0] == Verdict.SLOW:
        pass


def run(
    demux: Demux, datagram: bytes, source: tuple[int, bytes, int], now: int = 0
) -> tuple[Verdict, bytes]:
    batch = PacketBatch(capacity=1, stride=2048)
    batch.append(datagram)
    batch.set_remote(0, *source)
    demux.classify(batch, now)
    return batch.verdict(0), batch.packet(0)
