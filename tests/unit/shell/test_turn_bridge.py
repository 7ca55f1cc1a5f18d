"""The bridge's way from a stream to datagrams: what goes together, and that all of it arrives."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.model import Endpoint
from firezone.shell import turn_bridge
from firezone.shell.turn_bridge import Bridge, runs

sizes = st.lists(st.sampled_from([1, 20, 100, 1204, 1204, 1204, 60_000]), max_size=200)


def channel_data(size: int, mark: int) -> bytes:
    return struct.pack(">HH", 0x4000, size) + bytes([mark % 256]) * size


@given(sizes)
def test_runs_are_what_the_kernel_cuts_up(wanted: list[int]) -> None:
    messages = [bytes([i % 256]) * size for i, size in enumerate(wanted)]
    found = [*runs(messages)]
    assert [message for run in found for message in run] == messages
    for run in found:
        lengths = [len(message) for message in run]
        assert set(lengths[:-1]) <= {lengths[0]} and lengths[-1] <= lengths[0]
        assert len(run) <= 64 and (len(run) == 1 or sum(lengths) <= 65_487)


def test_equal_ones_go_together() -> None:
    assert [len(run) for run in runs([bytes(1204)] * 60 + [bytes(8)] + [bytes(20)])] == [54, 7, 1]


class Stream(asyncio.Transport):
    """One that is there, and takes everything."""

    def __init__(self, opened: socket.socket) -> None:
        super().__init__({"socket": opened, "peername": ("127.0.0.1", 1)})

    def abort(self) -> None:
        pass


@pytest.mark.parametrize("option", [turn_bridge._UDP_SEGMENT, 9999])
def test_all_arrives_in_order(monkeypatch: pytest.MonkeyPatch, option: int) -> None:
    """With an option that the kernel does not know, too: one by one."""
    monkeypatch.setattr(turn_bridge, "_UDP_SEGMENT", option)
    lengths = [1200] * 70 + [40, 1200, 1200, 0, 3, 3, 2, 9000, 9000]
    sent = [channel_data(size, mark) for mark, size in enumerate(lengths)]
    padded = [message + bytes(-len(message) % 4) for message in sent]

    async def test() -> None:
        with closing(udp_socket()) as partner, closing(socket.socket()) as tcp:
            where = Endpoint.of(*partner.getsockname())
            bridge = Bridge(where, clock=lambda: 0, on_closed=lambda *_: None)
            bridge.connection_made(Stream(tcp))
            bridge.data_received(b"".join(padded))
            assert [partner.recv(0x10000) for _ in sent] == sent
            assert not bridge.counters
            partner.close()
            for _ in range(2):  # the first one brings the news
                bridge.data_received(padded[0] * 3)
            bridge.connection_lost(None)
            assert 0 < bridge.counters["datagram_not_taken"] <= 6

    asyncio.run(test())


def udp_socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    made.settimeout(5)
    made.bind(("127.0.0.1", 0))
    return made
