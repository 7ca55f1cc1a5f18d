"""The XDP program in the kernel, run on frames beside its twin in Python."""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from netns import xdp_kit as kit
from netns.xdp_kit import LISTEN_PORT, PORTS, Loaded, channel
from reference import xdp as twin

from firezone.model import Endpoint
from firezone.xdp import Count, Settings, Verdict, Way

PLACES = {"near": kit.NEAR, "far": kit.FAR, "silent": kit.SILENT, "nowhere": kit.NOWHERE}
PLACES |= {"aside": kit.ASIDE, "ourselves": kit.US}


def every_channel() -> dict[Way, Way]:
    """From everywhere to everywhere."""
    ways: dict[Way, Way] = {}
    ends = [place[version] for place in PLACES.values() for version in (4, 6)]
    for index, (client, peer) in enumerate(product(ends, ends)):
        number = 0x4000 + index if index % 2 else 0x7FFF - index
        ways |= channel(Endpoint(client, 4000), Endpoint(peer, 5000 + index), number, 50000 + index)
        one, other = (
            Way(Endpoint(kit.US[host.version], LISTEN_PORT), Endpoint(host, port), 0x5000 + index)
            for host, port in ((client, 4001), (peer, 4002))
        )
        ways |= {one: other, other: one}
    return ways


WAYS = every_channel()


def frame(way: Way, payload: bytes, **changes: int) -> bytes:
    """As it would come that way. `changes` are fields that are not as usual."""
    both = way.remote.address.packed + way.local.address.packed
    if way.channel:
        payload = struct.pack(">HH", way.channel, changes.get("claimed", len(payload))) + payload
    length = 8 + len(payload) + changes.get("longer", 0)
    head = struct.pack(">HHH", way.remote.port, way.local.port, length)
    pseudo = twin.residue(both + struct.pack(">HH", 17, length))
    right = (-(pseudo + twin.residue(head + bytes(2) + payload))) % 0xFFFF or 0xFFFF
    checksum = {0: right, 1: 0, 2: pseudo or 0xFFFF, 3: right ^ 0x1234}[changes.get("sum", 0)]
    udp = head + struct.pack(">H", checksum) + payload
    tos, hops = changes.get("tos", 0), changes.get("hops", 64)
    if way.version == 4:
        words = (changes.get("first", 0x45), tos, 20 + len(udp), 0x1234, changes.get("fragment", 0))
        start = struct.pack(">BBHHHBB", *words, hops, changes.get("protocol", 17))
        ip = start + struct.pack(">H", 0xFFFF - twin.residue(start + both)) + both
    else:
        start = struct.pack(">IHB", 6 << 28 | tos << 20 | 0xABCDE, len(udp), 17)
        ip = start + bytes([hops]) + both
    kind = b"\x08\x00" if way.version == 4 else b"\x86\xdd"
    to = (kit.OUR_MAC, kit.NEXT_MAC, kit.OUR_MAC[:5] + b"\0", b"\0" + kit.OUR_MAC[1:])
    ethernet = to[changes.get("to", 0)] + b"\xbb" * 6 + kind
    return ethernet + ip + udp + bytes(changes.get("padding", 0))


def expected(data: bytes, native: bool = True) -> tuple[Verdict, bytes, Count | None]:
    return twin.relay(data, WAYS, Settings(0, LISTEN_PORT, PORTS, native), kit.next_hop)


InKernel = Callable[..., None]


@pytest.fixture
def in_kernel(fresh_netns: ThreadPoolExecutor) -> InKernel:
    """Runs a function with the program, in its network."""
    kit.need_bpf()

    def run(check: Callable[[Loaded], None], native: bool = True) -> None:
        def inside() -> None:
            loaded = Loaded(kit.build(), native)
            loaded.bind(WAYS)
            check(loaded)
            loaded.close()

        fresh_netns.submit(inside).result(120)

    return run


def test_both_directions_by_hand(in_kernel: InKernel) -> None:
    """What leaves is right in itself, not only what the twin says."""

    def check(loaded: Loaded) -> None:
        for client, peer in product((4, 6), (4, 6)):
            ends = Endpoint(kit.NEAR[client], 999), Endpoint(kit.FAR[peer], 777)
            ways = channel(*ends, 0x4321, 60000)
            loaded.bind(ways)
            for arrival, departure in ways.items():
                verdict, sent, counted = loaded.run(frame(arrival, b"payload", tos=2))
                assert verdict is Verdict.TX
                assert counted is (Count.TO_PEER if arrival.channel else Count.TO_CLIENT)
                usual = frame(Way(departure.remote, departure.local, departure.channel), b"payload")
                # As it would come to the other side, but for one hop and the rest of the header.
                assert sent[:12] == kit.NEXT_MAC + kit.OUR_MAC
                size = 14 + (20 if departure.version == 4 else 40)
                assert sent[12:14] + sent[size:] == usual[12:14] + usual[size:]
                if departure.version == 4:
                    assert twin.residue(sent[14:34]) == 0
                    assert (sent[15], sent[22], sent[26:34]) == (2, 63, usual[26:34])
                else:
                    assert (sent[14:16][0], sent[21]) == (0x60, 63)
                    assert sent[15] >> 4 == 2 and sent[22:54] == usual[22:54]
                packets, volume = loaded.count()[counted]
                assert volume == 7 * packets
                found = loaded.routes.lookup(arrival.key()) or b""
                assert struct.unpack_from("=QQ", found, 48) == (1, 7)

    in_kernel(check)


@pytest.mark.parametrize("reason", Count)
def test_every_reason_is_met(reason: Count) -> None:
    """By the frames that the next test is made of: or it would show little."""
    met = (expected(each, native=False)[2] for each in known_frames())
    assert reason in met or reason is Count.NO_ROOM


def known_frames() -> list[bytes]:
    changes: list[dict[str, int]] = [{}, {"hops": 1}, {"sum": 1}, {"sum": 2}, {"sum": 3}]
    changes += [{"longer": 1}, {"longer": -1}, {"claimed": 9}, {"first": 0x46}, {"padding": 9}]
    changes += [{"to": 1}, {"to": 2}, {"to": 3}]
    changes += [{"fragment": 0x2000}, {"fragment": 1}, {"fragment": 0x4000}, {"protocol": 6}]
    frames = [frame(way, b"12345", **each) for way in WAYS for each in changes[:5]]
    some = [*WAYS][::7]
    frames += [frame(way, bytes(size)) for way in some for size in (0, 1, 1452, 1472, 2000)]
    frames += [frame(way, b"12345", **each) for way in some for each in changes]
    strange = Way(Endpoint(kit.US[4], LISTEN_PORT), Endpoint(kit.NEAR[4], 9), 0x5000)
    return [*frames, frame(strange, b"")]


@pytest.mark.parametrize("native", [True, False], ids=["native", "generic"])
def test_known_frames(in_kernel: InKernel, native: bool) -> None:
    def check(loaded: Loaded) -> None:
        for each in known_frames():
            assert loaded.run(each) == expected(each, native), each.hex()

    in_kernel(check, native)


def test_unfinished_checksums(in_kernel: InKernel) -> None:
    """Of datagrams of every length up to some, and of the longest."""

    def check(loaded: Loaded) -> None:
        for way in [*WAYS][:4]:
            for size in [*range(100), *range(1400, 1440)]:
                data = frame(way, bytes(at % 251 for at in range(size)), sum=2)
                assert loaded.run(data) == expected(data)

    in_kernel(check)


def test_every_truncation(in_kernel: InKernel) -> None:
    def check(loaded: Loaded) -> None:
        for way in [*WAYS][:8]:
            whole = frame(way, b"12345")
            for size in range(14, len(whole)):
                assert loaded.run(whole[:size]) == expected(whole[:size])

    in_kernel(check)


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "to": st.integers(0, 3),
        "hops": st.integers(0, 255),
        "tos": st.integers(0, 255),
        "sum": st.integers(0, 3),
        "longer": st.integers(-3, 3),
        "claimed": st.integers(0, 0xFFFF),
        "padding": st.integers(0, 30),
        "fragment": st.integers(0, 0xFFFF),
    },
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Mostly of a channel; a few bytes may be anything."""
    changes = draw(CHANGES)
    whole = bytearray(
        frame(draw(st.sampled_from([*WAYS])), draw(st.binary(max_size=80)), **changes)
    )
    for _ in range(draw(st.integers(0, 2))):
        whole[draw(st.integers(12, len(whole) - 1))] = draw(st.integers(0, 255))
    return bytes(whole)


def test_random_frames(in_kernel: InKernel) -> None:
    def check(loaded: Loaded) -> None:
        @settings(max_examples=1000)
        @given(st.one_of(frames(), frames(), st.binary(min_size=14, max_size=100)))
        def agree(data: bytes) -> None:
            result = loaded.run(data)
            event(f"{result[0].name} {result[2] and result[2].name}")
            assert result == expected(data)

        agree()

    in_kernel(check)
