"""The IP kernel against its slow twin, and tables of the cases that matter."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone._ext import ip
from firezone._ext.batch import PacketBatch, Verdict
from tests.reference import ip as slow
from tests.reference.packets import ah, checksummed, patch, transport, v4, v6

V4 = [bytes([100, 64, 0, 1]), bytes([192, 0, 2, 7]), bytes(4), b"\xff" * 4]
V6 = [bytes.fromhex("fd002021111100000000000000000001"), b"\xff" * 16, bytes(16), bytes(range(16))]


def parse_one(packet: bytes, fragments: bool = False) -> tuple[PacketBatch, Verdict]:
    batch = PacketBatch(1)
    batch.append(packet)
    ip.parse(batch, fragments)
    return batch, batch.verdict(0)


def agrees(packet: bytes) -> None:
    batch, verdict = parse_one(packet)
    assert ip.five_tuple(packet) == (batch.tuple(0)[1:6] if verdict == Verdict.PASS else None)
    try:
        expected = slow.parse(packet)
    except slow.MalformedError:
        assert verdict == Verdict.MALFORMED
    except slow.FragmentError:
        assert verdict == Verdict.FRAGMENT
    else:
        assert verdict == Verdict.PASS
        assert batch.tuple(0) == expected.columns
        assert batch.packet(0) == packet[: expected.length]
    agrees_with_fragments(packet)


def agrees_with_fragments(packet: bytes) -> None:
    batch, verdict = parse_one(packet, fragments=True)
    try:
        expected = slow.parse_whole_or_fragment(packet)
    except slow.MalformedError:
        assert verdict == Verdict.MALFORMED
        assert ip.five_tuple(packet, fragments=True) is None
    else:
        assert verdict == Verdict.PASS
        assert batch.tuple(0) == expected.columns
        assert batch.packet(0) == packet[: expected.length]
        assert ip.five_tuple(packet, fragments=True) == expected.columns[1:6]


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    family = draw(st.sampled_from([4, 6]))
    addresses = V4 if family == 4 else V6
    source, destination = draw(st.sampled_from(addresses)), draw(st.sampled_from(addresses))
    protocol = draw(st.sampled_from([1, 6, 17, 58, 255, 50, 51]))
    body = transport(protocol, draw(st.binary(max_size=40)), draw(st.integers(0, 0xFFFF)))
    if family == 4:
        options = draw(st.sampled_from([b"", b"\x01" * 4, b"\0" * 40]))
        packet = v4(source, destination, protocol, body, options)
    else:
        extensions = draw(st.lists(st.sampled_from([43, 44, 51, 60, 135, 139, 140]), max_size=4))
        if draw(st.booleans()):
            extensions.insert(0, 0)
        packet = v6(source, destination, protocol, body, extensions)
    return checksummed(packet)


@given(packets())
def test_parse_agrees_with_the_twin(packet: bytes) -> None:
    agrees(packet)


@given(packets(), st.data())
def test_parse_agrees_on_mutated_packets(packet: bytes, data: st.DataObject) -> None:
    mutated = bytearray(packet)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(packet), 80) - 1))
        mutated[at] = data.draw(st.integers(0, 255))
    agrees(bytes(mutated) + data.draw(st.binary(max_size=8)))


@given(packets())
def test_parse_agrees_on_every_truncation(packet: bytes) -> None:
    for size in range(len(packet)):
        agrees(packet[:size])


@given(st.binary(max_size=120), st.sampled_from([0x45, 0x4F, 0x60, None]))
def test_parse_agrees_on_random_bytes(noise: bytes, first: int | None) -> None:
    agrees(noise if first is None else bytes([first]) + noise)


@given(packets(), st.data())
def test_rewrite_agrees_with_the_twin(packet: bytes, data: st.DataObject) -> None:
    try:
        parsed = slow.parse(packet)
    except (slow.MalformedError, slow.FragmentError):
        with pytest.raises(ValueError):
            ip.rewrite(packet)
        return
    address = st.none() | st.sampled_from(V4 if parsed.family == 4 else V6)
    has_ports = parsed.protocol in (6, 17) or is_echo(packet, parsed)
    port = st.none() | st.sampled_from([0, 1, 0xFFFF]) | st.integers(0, 0xFFFF)
    change = data.draw(st.tuples(address, address, *[port if has_ports else st.none()] * 2))
    changed = ip.rewrite(packet, *change)
    expected = slow.rewrite(packet, *change)
    assert slow.verifies(changed)
    assert without_checksums(changed) == without_checksums(expected)


@given(packets(), st.binary(min_size=2, max_size=2))
def test_rewrite_keeps_a_wrong_checksum_wrong(packet: bytes, noise: bytes) -> None:
    try:
        parsed = slow.parse(packet)
    except (slow.MalformedError, slow.FragmentError):
        return
    field = slow.checksum_field(parsed)
    if field is None or noise == bytes(2):
        return
    damaged = bytearray(packet)
    damaged[field : field + 2] = noise
    if slow.verifies(bytes(damaged)):
        return
    pool = V4 if parsed.family == 4 else V6
    assert not slow.verifies(ip.rewrite(bytes(damaged), pool[0], pool[1]))


@given(st.binary(max_size=100), st.sampled_from([0x45, 0x60]))
def test_rewrite_of_random_bytes_raises_only_value_error(noise: bytes, first: int) -> None:
    with contextlib.suppress(ValueError):
        ip.rewrite(bytes([first]) + noise, destination_port=7)


# Names of cases: what, packet, verdict.
MALFORMED, FRAGMENT, PASS = Verdict.MALFORMED, Verdict.FRAGMENT, Verdict.PASS


def cases() -> list[tuple[str, bytes, Verdict]]:
    udp = transport(17, b"data", 0)
    four = v4(V4[0], V4[1], 17, udp)
    six = v6(V6[0], V6[3], 17, udp, [])
    return [
        ("empty", b"", MALFORMED),
        ("version 5", b"\x55" + four[1:], MALFORMED),
        ("header shorter than 20", b"\x44" + four[1:], MALFORMED),
        ("total length over the packet", patch(four, 2, 0, 200), MALFORMED),
        ("total length under the header", patch(four, 2, 0, 19), MALFORMED),
        ("don't fragment", patch(four, 6, 0x40, 0), PASS),
        ("more fragments", patch(four, 6, 0x20, 0), FRAGMENT),
        ("fragment offset", patch(four, 6, 0, 1), FRAGMENT),
        ("v6 longer than it is", patch(six, 4, 0, 200), MALFORMED),
        ("UDP length under 8", patch(four, 24, 0, 7), MALFORMED),
        ("UDP length over the packet", patch(four, 24, 0, 13), MALFORMED),
        ("UDP length under the packet", patch(four, 24, 0, 9), PASS),
        ("TCP offset under 5", v4(V4[0], V4[1], 6, bytes(12) + b"\x40" + bytes(7)), MALFORMED),
        ("TCP offset over", v4(V4[0], V4[1], 6, bytes(12) + b"\x60" + bytes(7)), MALFORMED),
        ("ICMPv6 on v4 is opaque", v4(V4[0], V4[1], 58, b""), PASS),
        ("ICMPv4 on v6 is opaque", v6(V6[0], V6[1], 1, b"", []), PASS),
        ("no next header", v6(V6[0], V6[1], 59, b"", [60]), PASS),
        ("our control protocol", v6(V6[0], V6[1], 255, b"\x01\x02", []), PASS),
        ("hop-by-hop in second place", v6(V6[0], V6[1], 17, udp, [60, 0]), MALFORMED),
        ("16 extensions", v6(V6[0], V6[1], 17, udp, [60] * 16), PASS),
        ("17 extensions", v6(V6[0], V6[1], 17, udp, [60] * 17), MALFORMED),
        ("atomic fragment", v6(V6[0], V6[1], 17, udp, [44]), PASS),
        ("v6 fragment", patch(v6(V6[0], V6[1], 17, udp, [44]), 42, 0, 1), FRAGMENT),
        ("authentication header on v4", v4(V4[0], V4[1], 51, ah(17) + udp), PASS),
    ]


@pytest.mark.parametrize(("packet", "verdict"), [pytest.param(*c[1:], id=c[0]) for c in cases()])
def test_verdicts(packet: bytes, verdict: Verdict) -> None:
    assert parse_one(packet)[1] == verdict
    agrees(packet)


def test_parse_leaves_decided_slots_alone() -> None:
    batch = PacketBatch(2)
    batch.append(b"not a packet")
    batch.set_verdict(0, Verdict.SLOW)
    ip.parse(batch)
    assert batch.verdict(0) == Verdict.SLOW and batch.packet(0) == b"not a packet"


def test_icmp_error_has_no_ports() -> None:
    unreachable = v4(V4[0], V4[1], 1, b"\x03\x01" + bytes(2) + b"\x12\x34\x56\x78" + bytes(28))
    batch, verdict = parse_one(unreachable)
    assert verdict == Verdict.PASS
    assert batch.tuple(0) == (4, 1, V4[0], V4[1], 0, 0, 0)
    with pytest.raises(ValueError, match="no ports"):
        ip.rewrite(unreachable, source_port=1)


def test_tcp_flags_are_a_column() -> None:
    syn = v4(V4[0], V4[1], 6, struct.pack(">HHIIBBHHH", 4000, 443, 0, 0, 0x50, 2, 0, 0, 0))
    assert parse_one(syn)[0].tuple(0) == (4, 6, V4[0], V4[1], 4000, 443, 2)


def test_rewrite_refuses_the_other_family() -> None:
    packet = v4(V4[0], V4[1], 17, transport(17, b"", 5))
    with pytest.raises(ValueError, match="family"):
        ip.rewrite(packet, source=V6[0])
    with pytest.raises(ValueError, match="two families"):
        ip.rewrite(packet, source=V4[0], destination=V6[0])


def test_udp_without_checksum_stays_without() -> None:
    packet = v4(V4[0], V4[1], 17, transport(17, b"abc", 5))
    changed = ip.rewrite(packet, source=V4[1], source_port=9)
    assert changed[26:28] == bytes(2)


def test_udp_checksum_that_comes_out_as_zero_is_sent_as_ones() -> None:
    # RFC 768. Choose the port that makes the sum come out as zero.
    packet = checksummed(v6(V6[0], V6[3], 17, transport(17, b"abcd", 5), []))
    port = slow.word(packet, 40) + slow.word(packet, 46)
    port = (port & 0xFFFF) + (port >> 16)
    changed = ip.rewrite(packet, source_port=port)
    assert changed[46:48] == b"\xff\xff" and slow.verifies(changed)


def test_echo_reply_of_zeros_verifies() -> None:
    packet = checksummed(v4(V4[0], V4[1], 1, struct.pack(">BBHHH", 0, 0, 0, 5, 0)))
    changed = ip.rewrite(packet, destination_port=0)
    assert changed[20:28] == b"\0\0\xff\xff\0\0\0\0" and slow.verifies(changed)


def test_rewrite_batch_marks_what_it_cannot_change() -> None:
    batch = PacketBatch(3)
    batch.append(checksummed(v4(V4[0], V4[1], 17, transport(17, b"one", 5))))
    batch.append(checksummed(v6(V6[0], V6[1], 17, transport(17, b"two", 5), [])))
    batch.append(b"junk")
    ip.rewrite_batch(batch, destination=V4[0])
    assert [batch.verdict(i) for i in range(3)] == [PASS, MALFORMED, MALFORMED]
    assert batch.packet(0)[16:20] == V4[0] and slow.verifies(batch.packet(0))


# RFC 6040 section 4.2, reduced: the inner bits change only from ECT to CE.
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("inner", range(4))
@pytest.mark.parametrize("outer", range(4))
def test_ecn(family: int, inner: int, outer: int) -> None:
    packet = bytearray(sample(family))
    packet[1] |= inner if family == 4 else inner << 4
    before = checksummed(bytes(packet))
    batch = PacketBatch(1)
    batch.append(before, ecn=outer)
    ip.apply_ecn(batch)
    after = batch.packet(0)
    ip.read_ecn(batch)
    assert batch.ecn(0) == (3 if outer == 3 and inner else inner)
    assert slow.verifies(after)
    assert (after == before) == (batch.ecn(0) == inner)


def sample(family: int) -> bytes:
    body = transport(17, b"data", 5)
    return v4(V4[0], V4[1], 17, body) if family == 4 else v6(V6[0], V6[3], 17, body, [])


def without_checksums(packet: bytes) -> bytes:
    """Zero has two forms in one's complement, so checksums are compared by verifying them."""
    blank = bytearray(packet)
    parsed = slow.parse(packet)
    field = slow.checksum_field(parsed)
    if field is not None:
        slow.put(blank, field, 0)
    if parsed.family == 4:
        slow.put(blank, 10, 0)
    return bytes(blank)


def is_echo(packet: bytes, parsed: slow.Parsed) -> bool:
    kinds = {(4, 1): (0, 8), (6, 58): (128, 129)}.get((parsed.family, parsed.protocol), ())
    return (
        packet[parsed.transport] in kinds and packet[parsed.transport + 1] == 0 if kinds else False
    )
