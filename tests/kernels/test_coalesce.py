"""What is merged for the TUN device, and that splitting it again gives what was there."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import packets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone._ext import coalesce
from firezone._ext.batch import PacketBatch, Verdict
from tests.reference import ip as slow
from tests.reference import offload as twin

ACK, PSH, FIN, SYN, CWR = 0x10, 0x08, 0x01, 0x02, 0x80
DF = 0x40


@dataclass(frozen=True)
class Made:
    """One packet of a flow, with all that may keep it from being merged."""

    port: int = 1000
    family: int = 4
    protocol: int = slow.TCP
    size: int = 100
    flags: int = ACK
    sequence: int = 1
    options: bytes = b""
    identification: int = 0
    fragment: int = DF
    ttl: int = 64
    tos: int = 0
    damage: int = 0

    def encode(self) -> bytes:
        ends = ("10.0.0.1", "10.0.0.2") if self.family == 4 else ("fd00::1", "fd00::2")
        data = bytes((i + self.sequence) % 251 for i in range(self.size))
        if self.protocol == slow.UDP:
            packet = bytearray(packets.udp(*ends, self.port, 443, data))
        else:
            made = packets.tcp(
                *ends, self.port, 80, self.flags, self.sequence % 2**32, data, self.options
            )
            packet = bytearray(made)
        if self.family == 4:
            packet[1], packet[6], packet[8] = self.tos, self.fragment, self.ttl
            packet[4:6] = (self.identification % 2**16).to_bytes(2)
            slow.put(packet, 10, 0)
            slow.put(packet, 10, slow.checksum(packet[:20]))
        else:
            packet[1], packet[7] = self.tos << 4 & 0xF0, self.ttl
        if self.damage:
            packet[-1] ^= self.damage
        return bytes(packet)


def merge(made: list[Made], tcp: bool = True, udp: bool = True) -> list[bytes]:
    batch = PacketBatch(max(1, len(made)))
    for packet in made:
        batch.append(packet.encode())
    return coalesce.merge(batch, tcp, udp)


def row(count: int, first: Made | None = None) -> list[Made]:
    """Packets that follow on each other."""
    first = first or Made()
    return [
        replace(
            first,
            sequence=first.sequence + i * first.size,
            identification=first.identification + i,
        )
        for i in range(count)
    ]


def counts(made: list[Made]) -> list[int]:
    return [len(twin.split(data)) for data in merge(made)]


both = pytest.mark.parametrize("family", [4, 6])


@both
@pytest.mark.parametrize("protocol", [slow.TCP, slow.UDP])
def test_a_row_becomes_one(family: int, protocol: int) -> None:
    made = row(10, Made(family=family, protocol=protocol))
    (data,) = merge(made)
    assert twin.split(data) == [packet.encode() for packet in made]
    vnet, packet = twin.decode(data)
    assert vnet.size == 100 and len(packet) == vnet.headers + 1000


@both
def test_a_shorter_one_ends_it(family: int) -> None:
    made = row(3, Made(family=family))
    last = replace(made[2], size=50)
    more = replace(last, sequence=last.sequence + 50, identification=3)
    assert counts([*made[:2], last, more]) == [3, 1]
    longer = replace(made[1], size=101)
    assert counts([made[0], longer]) == [1, 1]


def test_psh_ends_it_and_shows() -> None:
    made = row(4)
    made[1] = replace(made[1], flags=ACK | PSH)
    first, second = merge(made)
    assert [p[33] for p in twin.split(first)] == [ACK, ACK | PSH]
    assert [p[33] for p in twin.split(second)] == [ACK, ACK]
    assert counts([replace(made[0], flags=ACK | PSH), made[2]]) == [1, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"flags": ACK | FIN},
        {"flags": ACK | CWR},
        {"flags": SYN},
        {"sequence": 102},
        {"sequence": 1},
        {"options": b"\1\1\1\1"},
        {"ttl": 63},
        {"tos": 2},
        {"size": 0},
        {"damage": 1},
        {"port": 1001},
    ],
)
@both
def test_what_must_not_be_merged(family: int, change: dict[str, int]) -> None:
    one, two = row(2, Made(family=family))
    assert counts([one, two]) == [2]
    assert counts([one, replace(two, **change)]) == [1, 1]  # type: ignore[arg-type]


def test_options_must_be_equal() -> None:
    one, two = row(2, Made(options=b"\1\1\x08\x0a" + b"\0\0\0\1" * 2))
    assert counts([one, two]) == [2]
    assert counts([one, replace(two, options=b"\1\1\x08\x0a" + b"\0\0\0\2" * 2)]) == [1, 1]


def test_window_and_acknowledgment_must_be_equal() -> None:
    for at in (28, 34):
        batch = PacketBatch(2)
        for index, made in enumerate(row(2)):
            packet = bytearray(made.encode())
            packet[at] += index
            slow.fill_checksums(packet, slow.parse(bytes(packet)))
            batch.append(packet)
        assert len(coalesce.merge(batch)) == 2


def test_identifications_count_up_or_mean_nothing() -> None:
    one, two, three = row(3)
    stands = [replace(p, identification=0) for p in (one, two, three)]
    assert counts(stands) == [3]
    assert counts([replace(p, fragment=0) for p in stands]) == [1, 1, 1]
    assert counts([replace(p, fragment=0) for p in (one, two, three)]) == [3]
    assert counts([one, two, replace(three, identification=1)]) == [2, 1]
    assert counts([one, replace(two, identification=7)]) == [1, 1]
    assert counts([one, replace(two, fragment=0)]) == [1, 1]


def test_the_identification_wraps() -> None:
    assert counts(row(3, Made(identification=0xFFFE))) == [3]
    assert counts(row(3, Made(sequence=2**32 - 150))) == [3]


def test_a_damaged_packet_stays_damaged() -> None:
    one, two, three = row(3)
    for made in (
        [replace(one, damage=1), two, three],
        [one, replace(two, damage=1), three],
        [one, two, replace(three, damage=1)],
    ):
        written = [p for data in merge(made) for p in twin.split(data)]
        assert written == [packet.encode() for packet in made]
    batch = PacketBatch(2)
    batch.append(one.encode())
    packet = bytearray(two.encode())
    packet[10] ^= 1
    batch.append(packet)
    assert len(coalesce.merge(batch)) == 2


def test_flows_may_interleave() -> None:
    a, b = row(4, Made(port=1)), row(4, Made(port=2, protocol=slow.UDP))
    mixed = [p for pair in zip(a, b, strict=True) for p in pair]
    assert counts(mixed) == [4, 4]


def test_only_the_newest_of_a_flow_is_continued() -> None:
    one, two, three = row(3)
    gap = replace(one, sequence=9999)
    assert counts([one, gap, two, three]) == [1, 1, 2]


def test_a_fragment_may_belong_to_any_flow() -> None:
    one, two = row(2)
    fragment = replace(one, protocol=slow.UDP, port=9, fragment=0x20)
    assert counts([one, two]) == [2]
    batch = PacketBatch(3)
    for made in (one, fragment, two):
        batch.append(made.encode())
    assert len(coalesce.merge(batch)) == 3


def test_icmp_belongs_to_none() -> None:
    one, two = row(2)
    batch = PacketBatch(3)
    for packet in (one.encode(), packets.ping("10.0.0.1", "10.0.0.2"), two.encode()):
        batch.append(packet)
    assert len(coalesce.merge(batch)) == 2


def test_datagrams_without_checksum_stay_alone() -> None:
    batch = PacketBatch(2)
    for made in row(2, Made(protocol=slow.UDP)):
        packet = bytearray(made.encode())
        packet[26:28] = bytes(2)
        batch.append(packet)
    assert len(coalesce.merge(batch)) == 2


def test_limits_of_a_super_packet() -> None:
    assert counts(row(50, Made(size=1400))) == [46, 4], "65,535 bytes with headers"
    assert counts(row(100, Made(size=10, protocol=slow.UDP))) == [64, 36]
    assert counts(row(600, Made(size=10))) == [512, 88]


def test_each_protocol_can_be_left_out() -> None:
    for protocol, tcp, udp in ((slow.TCP, False, True), (slow.UDP, True, False)):
        assert len(merge(row(3, Made(protocol=protocol)), tcp, udp)) == 3
        assert len(merge(row(3, Made(protocol=protocol)), udp, tcp)) == 1


def test_only_what_passes() -> None:
    batch = PacketBatch(3)
    for made in row(3):
        batch.append(made.encode())
    batch.set_verdict(1, Verdict.REFUSED)
    assert [len(twin.split(d)) for d in coalesce.merge(batch)] == [1, 1]


@st.composite
def traffic(draw: st.DrawFn) -> list[Made]:
    """Flows that mostly go on, and now and then do something else."""
    flows: dict[int, Made] = {
        port: Made(
            port=port,
            family=draw(st.sampled_from([4, 6])),
            protocol=draw(st.sampled_from([slow.TCP, slow.TCP, slow.UDP])),
            size=draw(st.sampled_from([1, 99, 100])),
            sequence=draw(st.sampled_from([1, 2**32 - 150])),
        )
        for port in (1, 2, 3)
    }
    sent = []
    for _ in range(draw(st.integers(0, 40))):
        made = flows[draw(st.sampled_from([1, 1, 2, 3]))]
        change = draw(
            st.sampled_from(
                [{}] * 8
                + [
                    {"size": 50},
                    {"size": 0},
                    {"flags": ACK | PSH},
                    {"flags": ACK | FIN},
                    {"sequence": made.sequence + 1},
                    {"identification": made.identification + 5},
                    {"fragment": 0},
                    {"ttl": 9},
                    {"damage": 4},
                    {"options": b"\1\1\1\1"},
                ]
            )
        )
        this = replace(made, **change)  # type: ignore[arg-type]
        sent.append(this)
        following = {"sequence": this.sequence + this.size}
        following["identification"] = this.identification + 1
        flows[made.port] = replace(made, **following)  # type: ignore[arg-type]
    return sent


@given(traffic())
def test_every_flow_keeps_its_packets_and_their_order(made: list[Made]) -> None:
    assert by_flow([p for data in merge(made) for p in twin.split(data)]) == by_flow(
        [packet.encode() for packet in made]
    )


def by_flow(sent: list[bytes]) -> dict[object, list[bytes]]:
    flows: dict[object, list[bytes]] = defaultdict(list)
    for packet in sent:
        parsed = slow.parse(packet)
        key = (parsed.protocol, parsed.source, parsed.source_port)
        flows[key].append(without_atomic_id(packet))
    return flows


def without_atomic_id(packet: bytes) -> bytes:
    """RFC 6864 section 4.1: the identification of a packet with DF has no meaning."""
    if packet[0] >> 4 == 6 or not packet[6] & DF:
        return packet
    return packet[:4] + bytes(2) + packet[6:10] + bytes(2) + packet[12:]


@given(st.lists(st.binary(max_size=120), max_size=10))
def test_any_bytes_are_written_as_they_are(sent: list[bytes]) -> None:
    batch = PacketBatch(max(1, len(sent)))
    for packet in sent:
        batch.append(packet)
    assert coalesce.merge(batch) == [bytes(10) + packet for packet in sent]


@given(traffic(), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=20))
def test_mutations_are_survived(made: list[Made], changes: list[tuple[int, int]]) -> None:
    sent = [bytearray(packet.encode()) for packet in made]
    for index, (at, value) in enumerate(changes):
        if sent:
            packet = sent[index % len(sent)]
            packet[at % len(packet)] = value
    batch = PacketBatch(max(1, len(sent)))
    for packet in sent:
        batch.append(packet)
    written = coalesce.merge(batch)
    payload = sum(len(p) for data in written for p in twin.split(data))
    assert payload == sum(map(len, sent))
