"""The TUN kernel beside its slow twin, over a socket pair in the device's place."""

from __future__ import annotations

import socket
from collections import defaultdict

import packets
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from firezone._ext.batch import PacketBatch, Verdict
from firezone._ext.tun import Tun
from tests.reference import ip as slow_ip
from tests.reference import offload
from tests.reference import tun as slow

HOSTS = {4: ("10.0.0.1", "10.0.0.2"), 6: ("fd00::1", "fd00::2")}
VERDICTS = [Verdict.PASS] * 6 + [Verdict.REFUSED, Verdict.TOO_LONG]

families = st.sampled_from([4, 6])
protocols = st.sampled_from(["tcp", "udp", "ping"])
sizes = st.sampled_from([0, 1, 100, 100, 1200, 1220, 1240, 1252, 1253, 1900, 1952, 3000])
large = st.sampled_from([1, 1300, 4000, 20_000])


def packet(protocol: str, family: int, size: int, port: int = 1, sequence: int = 1) -> bytes:
    data = bytes((sequence + i) % 251 for i in range(size))
    if protocol == "tcp":
        return packets.tcp(*HOSTS[family], port, 80, 0x10, sequence, data)
    if protocol == "udp":
        return packets.udp(*HOSTS[family], port, 53, data)
    return packets.ping(*HOSTS[family], port, data)


def without_checksum(protocol: str, family: int, size: int) -> bytes:
    """As a host gives a packet whose checksum is left to the hardware."""
    vnet, partial = offload.decode(offload.super_packet(packet(protocol, family, size), 1))
    return offload.Vnet(1, offload.PLAIN, 0, 0, vnet.start, vnet.offset).encode() + partial


plain = st.builds(packet, protocols, families, sizes)
frames = st.one_of(
    plain.map(lambda p: offload.Vnet().encode() + p),
    st.builds(without_checksum, st.sampled_from(["tcp", "udp"]), families, sizes),
    st.builds(
        lambda protocol, family, size, segment: offload.super_packet(
            packet(protocol, family, size), segment
        ),
        *(st.sampled_from(["tcp", "udp"]), families, large),
        st.sampled_from([100, 1000, 1220, 1240, 1252, 1300, 3000]),
    ),
    st.binary(min_size=1, max_size=9),
    plain.map(lambda p: offload.Vnet(1, 9, 0, 100).encode() + p),
    plain.map(lambda p: offload.Vnet(1, offload.PLAIN, 0, 0, 20, len(p) - 21).encode() + p),
)


class Twins(RuleBasedStateMachine):
    """Frames wait, and are read by batches of any capacity; batches are written between."""

    @initialize(
        has_header=st.sampled_from([False, True, True]),
        merges=st.tuples(st.booleans(), st.booleans()),
        mtu=st.sampled_from([1280, 1500, 9000]),
    )
    def start(self, has_header: bool, merges: tuple[bool, bool], mtu: int) -> None:
        self.host, self.device = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self.host, self.device):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        tcp, udp = (wanted and has_header for wanted in merges)
        self.kernel = Tun(
            self.device.fileno(), mtu, has_header=has_header, merge_tcp=tcp, merge_udp=udp
        )
        self.twin = slow.Tun(mtu, has_header)
        self.merges = tcp or udp
        self.waiting: list[slow.Read] = []
        self.sequence: dict[tuple[str, int, int], int] = defaultdict(lambda: 1)

    @rule(some=st.lists(frames, min_size=1, max_size=3))
    def wait(self, some: list[bytes]) -> None:
        for frame in some:
            sent = frame if self.twin.has_header else frame[offload.HEADER.size :]
            if sent:
                try:
                    self.host.send(sent)
                except BlockingIOError:
                    return
                self.waiting += self.twin.read(sent)

    @rule(capacity=st.integers(1, 30), already=st.integers(0, 2))
    def read(self, capacity: int, already: int) -> None:
        batch = PacketBatch(capacity + already)
        for _ in range(already):
            batch.append(b"before")
        count = min(capacity, len(self.waiting))
        assert self.kernel.read(batch) == count == len(batch) - already
        for slot, (verdict, packet) in enumerate(self.waiting[:count], already):
            assert batch.verdict(slot) is verdict
            assert packet is None or batch.packet(slot) == packet
        assert all(batch.packet(slot) == b"before" for slot in range(already))
        del self.waiting[:count]

    @rule(
        rows=st.lists(
            st.tuples(
                protocols,
                families,
                st.integers(1, 2),
                st.sampled_from([0, 1, 100, 1000, 1240]),
                st.sampled_from(VERDICTS),
                st.integers(1, 6),
            ),
            max_size=6,
        )
    )
    def write(self, rows: list[tuple[str, int, int, int, Verdict, int]]) -> None:
        batch, slots = PacketBatch(), list[tuple[Verdict, bytes]]()
        for protocol, family, port, size, verdict, times in rows:
            for _ in range(times):
                slots.append((verdict, self.next_packet(protocol, family, port, size)))
                batch.set_verdict(batch.append(slots[-1][1]), verdict)
        expected = self.twin.write(slots)
        assert self.kernel.write(batch) == len(expected)
        assert [batch.verdict(i) for i in range(len(batch))] == [v for v, _ in slots]
        written = [self.twin.written(frame) for frame in self.written()]
        got = [packet for frame in written for packet in frame]
        if self.merges:
            assert by_flow(got) == by_flow(expected)
        else:
            assert got == expected and all(len(frame) == 1 for frame in written)
        assert self.kernel.refused == 0

    def next_packet(self, protocol: str, family: int, port: int, size: int) -> bytes:
        """Of one flow after the other; what is IPv4 says Don't Fragment, and may be merged."""
        flow = protocol, family, port
        made = bytearray(packet(protocol, family, size, port, self.sequence[flow]))
        self.sequence[flow] += size
        if family == 4:
            made[6] = 0x40
            slow_ip.fill_checksums(made, slow_ip.parse(bytes(made)))
        return bytes(made)

    def written(self) -> list[bytes]:
        frames = []
        while True:
            try:
                frames.append(self.host.recv(70_000))
            except BlockingIOError:
                return frames

    def teardown(self) -> None:
        if hasattr(self, "host"):
            self.host.close()
            self.device.close()


def by_flow(some: list[bytes]) -> dict[object, list[bytes]]:
    """In the order of each; an IPv4 identification means nothing where nothing is fragmented."""
    flows: dict[object, list[bytes]] = defaultdict(list)
    for each in some:
        parsed = slow_ip.parse(each)
        flows[parsed.columns[:6]].append(each)
        if parsed.family == 4:
            plain = bytearray(each)
            slow_ip.put(plain, 4, 0)
            slow_ip.fill_checksums(plain, parsed)
            flows[parsed.columns[:6]][-1] = bytes(plain)
    return flows


TestDevices = Twins.TestCase
TestDevices.settings = settings(max_examples=80, stateful_step_count=20, deadline=None)
