"""Super-packets split by the kernel and by its slow twin."""

from __future__ import annotations

import itertools

import packets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone._ext import segments
from firezone._ext.batch import PacketBatch, Verdict
from tests.reference import ip as slow
from tests.reference import offload as twin

ENDS = {4: ("10.0.0.1", "192.0.2.7"), 6: ("fd00::1", "2001:db8::7")}
CWR_ACK_PSH_FIN = 0x80 | 0x10 | 0x08 | 0x01

families = st.sampled_from([4, 6])


def tcp(family: int, size: int, flags: int = 0x10, sequence: int = 1, options: int = 0) -> bytes:
    data = bytes(i * 7 % 251 for i in range(size))
    return packets.tcp(*ENDS[family], 5000, 80, flags, sequence, data, b"\1" * options)


def udp(family: int, size: int) -> bytes:
    return packets.udp(*ENDS[family], 5000, 443, bytes(i * 7 % 251 for i in range(size)))


def split(data: bytes, capacity: int = 2048, limit: int = 0) -> list[bytes]:
    batch = PacketBatch(capacity, stride=2048)
    verdict, is_left = segments.split(data, batch, limit)
    assert (verdict, is_left) == (Verdict.PASS, False)
    return batch.packets()


@given(
    families,
    st.integers(1, 20_000),
    st.integers(20, 1400),
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 12, 40]),
)
def test_tcp_like_the_twin(
    family: int, size: int, segment: int, flags: int, sequence: int, options: int
) -> None:
    data = twin.super_packet(tcp(family, size, flags, sequence, options), segment)
    assert split(data) == twin.split(data)


@given(families, st.integers(1, 20_000), st.integers(20, 1400), st.binary(min_size=2, max_size=2))
def test_udp_like_the_twin(family: int, size: int, segment: int, identification: bytes) -> None:
    packet = bytearray(udp(family, size))
    if family == 4:
        packet[4:6] = identification
        slow.fill_checksums(packet, slow.parse(bytes(packet)))
    data = twin.super_packet(bytes(packet), segment)
    assert split(data) == twin.split(data)


@pytest.mark.parametrize("family", [4, 6])
def test_flags_stay_where_they_belong(family: int) -> None:
    data = twin.super_packet(tcp(family, 30, CWR_ACK_PSH_FIN), 10)
    transport = 20 if family == 4 else 40
    flags = [packet[transport + 13] for packet in split(data)]
    assert flags == [0x90, 0x10, 0x19]


@given(families, st.integers(1, 3000), st.integers(0, 3))
def test_every_segment_verifies(family: int, size: int, odd: int) -> None:
    for packet in (tcp(family, size), udp(family, size)):
        assert all(slow.verifies(p) for p in split(twin.super_packet(packet, 100 + odd)))


def test_segmentation_goes_on_where_the_batch_was_full() -> None:
    data = twin.super_packet(tcp(4, 1000), 100)
    batch = PacketBatch(4)
    assert segments.split(data, batch) == (Verdict.PASS, True)
    assert batch.packets() == twin.split(data)[:4]


def test_packets_before_are_left_alone() -> None:
    data = twin.super_packet(tcp(6, 5000), 1000)
    batch = PacketBatch(16, stride=2048)
    batch.append(b"\xaa" * 1952)
    segments.split(data, batch)
    assert batch.packets() == [b"\xaa" * 1952, *twin.split(data)]
    ends = [(batch.offset(i) - 64, batch.offset(i) + batch.length(i) + 32) for i in range(6)]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))


def test_segments_longer_than_the_limit() -> None:
    data = twin.super_packet(tcp(4, 3000), 1240)
    batch = PacketBatch()
    assert segments.split(data, batch, 1279) == (Verdict.TOO_LONG, False)
    assert len(batch) == 0
    assert segments.split(data, batch, 1280) == (Verdict.PASS, False)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", [tcp, udp])
def test_truncated(family: int, kind: object) -> None:
    assert callable(kind)
    data = twin.super_packet(kind(family, 300), 100)
    for size in range(11, len(data)):
        # Shorter than its own IP header says is not for us to see: only where headers end.
        verdict, _ = segments.split(data[:size], PacketBatch())
        assert verdict == (Verdict.PASS if size > len(data) - 300 else Verdict.MALFORMED)


@given(st.binary(min_size=11, max_size=400))
def test_any_bytes_are_survived(data: bytes) -> None:
    verdict, _ = segments.split(data, PacketBatch())
    assert verdict in (Verdict.PASS, Verdict.MALFORMED, Verdict.TOO_LONG)
    segments.finish_checksum(data)


@given(families, st.lists(st.tuples(st.integers(0, 100), st.integers(0, 255)), max_size=4))
def test_mutations_are_survived(family: int, changes: list[tuple[int, int]]) -> None:
    for packet in (tcp(family, 300, options=12), udp(family, 300)):
        data = bytearray(twin.super_packet(packet, 100))
        for at, value in changes:
            data[at % len(data)] = value
        batch = PacketBatch()
        verdict, _ = segments.split(bytes(data), batch)
        assert verdict == Verdict.PASS or len(batch) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"type": 9},
        {"type": twin.TCP6},
        {"type": twin.UDP | twin.ECN},
        {"flags": 0},
        {"size": 0},
        {"start": 24},
        {"start": 0},
        {"start": 0xFFFF},
    ],
)
def test_headers_that_do_not_fit(change: dict[str, int]) -> None:
    vnet, packet = twin.decode(twin.super_packet(tcp(4, 300), 100))
    values = {name: getattr(vnet, name) for name in vnet.__dataclass_fields__} | change
    data = twin.Vnet(**values).encode() + packet
    assert segments.split(data, PacketBatch())[0] == Verdict.MALFORMED


@given(families, st.integers(0, 1300))
def test_a_checksum_is_finished(family: int, size: int) -> None:
    for packet in (tcp(family, size), udp(family, size)):
        vnet, partial = twin.decode(twin.super_packet(packet, 1))
        plain = twin.Vnet(1, 0, 0, 0, vnet.start, vnet.offset).encode()
        finished = segments.finish_checksum(plain + partial)
        assert finished is not None and slow.verifies(finished)
        assert segments.finish_checksum(bytes(10) + packet) == packet


def test_a_checksum_outside_of_the_packet() -> None:
    packet = udp(4, 10)
    for start, offset in ((38, 0), (20, 17), (20, 0xFFFF), (0xFFFF, 0xFFFF), (20, 18)):
        data = twin.Vnet(1, 0, 0, 0, start, offset).encode() + packet
        assert segments.finish_checksum(data) is None


def test_more_or_less_than_a_packet_is_refused() -> None:
    for size in (0, 10, 10 + 0x10000):
        with pytest.raises(ValueError):
            segments.split(bytes(size), PacketBatch())
