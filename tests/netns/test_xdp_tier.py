"""The tier's table in the kernel: what stands in it, and when."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from netns import xdp_kit as kit

from firezone.errors import ConfigurationError
from firezone.model import Endpoint
from firezone.shell import xdp
from firezone.shell.bpf import Map
from firezone.shell.loopback_forwarding import LoopbackForwarding
from firezone.shell.state import RUNTIME_DIRECTORY
from firezone.shell.xdp import XdpSettings, XdpTier
from firezone.turn.relay_commands import FiveTuple
from firezone.xdp import Way, routes

CLIENT = FiveTuple(Endpoint(kit.NEAR[4], 4000), Endpoint(kit.US[4], 3478))
RELAYED = Endpoint(kit.US[4], 50000)
PEER, OTHER = Endpoint(kit.FAR[4], 5000), Endpoint(kit.FAR[4], 5001)
FORWARD = Way(Endpoint(kit.US[4], 3478), CLIENT.client, 0x4000)


@pytest.fixture
def with_tier(fresh_netns: ThreadPoolExecutor) -> Iterator[Callable[..., None]]:
    """Runs a function with a tier, in a namespace that has its interface."""
    kit.need_bpf()

    def run(check: Callable[[XdpTier], None]) -> None:
        def inside() -> None:
            kit.build()
            with closing(tier()) as made:
                check(made)

        fresh_netns.submit(inside).result(60)

    yield run


def tier(journal_directory: Path = RUNTIME_DIRECTORY) -> XdpTier:
    return XdpTier(
        XdpSettings("x0", "generic"),
        listen_port=3478,
        ports=kit.PORTS,
        journal_directory=journal_directory,
    )


def found(tier: XdpTier, way: Way) -> bytes | None:
    table: Map = tier._table
    return table.lookup(way.key())


def test_both_routes_come_and_go(with_tier: Callable[..., None]) -> None:
    def check(tier: XdpTier) -> None:
        tier.bind(CLIENT, 0x4000, RELAYED, PEER)
        tier.bind(CLIENT, 0x4001, RELAYED, OTHER)
        assert found(tier, FORWARD) and found(tier, Way(RELAYED, PEER))
        assert tier.channels == 2
        for _ in range(2):
            tier.unbind(CLIENT, 0x4000)
            assert found(tier, FORWARD) is found(tier, Way(RELAYED, PEER)) is None
        assert found(tier, Way(RELAYED, OTHER)) and tier.channels == 1
        assert tier.counters == {}

    with_tier(check)


def test_binding_again_keeps_what_was_counted(with_tier: Callable[..., None]) -> None:
    """Unless the peer is another one: then nothing leads to the former."""

    def check(tier: XdpTier) -> None:
        tier.bind(CLIENT, 0x4000, RELAYED, PEER)
        value = found(tier, FORWARD) or b""
        marked = value[: routes.PACKETS] + (7).to_bytes(8, "little") + value[routes.BYTES :]
        tier._table.update(FORWARD.key(), marked)
        tier.bind(CLIENT, 0x4000, RELAYED, PEER)
        assert found(tier, FORWARD) == marked
        tier.bind(CLIENT, 0x4000, RELAYED, OTHER)
        assert found(tier, FORWARD) not in (None, marked)
        assert found(tier, Way(RELAYED, PEER)) is None and found(tier, Way(RELAYED, OTHER))
        assert tier.channels == 1

    with_tier(check)


def test_what_a_channel_has_moved_is_told_at_its_end(
    with_tier: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    def check(tier: XdpTier) -> None:
        tier.bind(CLIENT, 0x4000, RELAYED, PEER)
        value = found(tier, FORWARD) or b""
        counted = (3).to_bytes(8, "little") + (300).to_bytes(8, "little")
        tier._table.update(FORWARD.key(), value[: routes.PACKETS] + counted)
        with caplog.at_level(logging.DEBUG, "firezone.relay"):
            tier.unbind(CLIENT, 0x4000)

    with_tier(check)
    record = caplog.records[-1]
    assert (record.to_peer, record.to_client) == ((3, 300), [(0, 0)])  # type: ignore[attr-defined]


def test_a_full_table(with_tier: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both routes or none; the channel is user space's then."""
    monkeypatch.setattr(xdp, "MAX_CHANNELS", 1)

    def check(tier: XdpTier) -> None:
        tier.bind(CLIENT, 0x4000, RELAYED, PEER)
        tier.bind(CLIENT, 0x4001, RELAYED, OTHER)
        assert tier.channels == 1 and found(tier, Way(RELAYED, OTHER)) is None
        assert tier.counters == {"xdp_table_E2BIG": 1}
        tier.unbind(CLIENT, 0x4000)
        tier.bind(CLIENT, 0x4001, RELAYED, OTHER)
        assert tier.channels == 1 and found(tier, Way(RELAYED, OTHER))

    with_tier(check)


@pytest.mark.parametrize(
    ("five_tuple", "peer"),
    [
        (FiveTuple(Endpoint.of("127.0.0.1", 4000), Endpoint.of("127.0.0.1", 3478)), PEER),
        (CLIENT, Endpoint(kit.US[4], 50001)),
    ],
    ids=["stream", "other allocation"],
)
def test_ends_on_this_host_are_left_out(
    with_tier: Callable[..., None], five_tuple: FiveTuple, peer: Endpoint
) -> None:
    """Frames that claim to come from there are forged. A lone channel to another allocation is no
    exception."""

    def check(tier: XdpTier) -> None:
        tier.bind(five_tuple, 0x4000, RELAYED, peer)
        assert tier.channels == 0 and found(tier, Way(RELAYED, peer)) is None
        tier.unbind(five_tuple, 0x4000)

    with_tier(check)


def test_two_clients_that_are_each_others_peer(with_tier: Callable[..., None]) -> None:
    """Straight from one to the other once both have a channel, and no longer than both have."""
    other = FiveTuple(Endpoint(kit.FAR[4], 4000), CLIENT.local)
    theirs = Endpoint(kit.US[4], 50001)
    back = Way(Endpoint(kit.US[4], 3478), other.client, 0x4007)

    def check(tier: XdpTier) -> None:
        def bound() -> tuple[bool, bool]:
            assert found(tier, Way(RELAYED, theirs)) is found(tier, Way(theirs, RELAYED)) is None
            return found(tier, FORWARD) is not None, found(tier, back) is not None

        tier.bind(CLIENT, 0x4000, RELAYED, theirs)
        assert bound() == (False, False)
        for _ in range(2):
            tier.bind(other, 0x4007, theirs, RELAYED)
            assert bound() == (True, True) and tier.channels == 2
        for which, number in ((CLIENT, 0x4000), (other, 0x4007)):
            tier.unbind(which, number)
            assert bound() == (False, False) and tier.channels == 0
            tier.bind(which, number, *((RELAYED, theirs) if which is CLIENT else (theirs, RELAYED)))
            assert bound() == (True, True)
        tier.bind(CLIENT, 0x4000, RELAYED, PEER)
        assert bound() == (True, False)

    with_tier(check)


def test_parameters_that_cannot_be_written(
    fresh_netns: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container. The message names the one; and nothing stays attached."""
    kit.need_bpf()

    def refuse(path: Path, text: str) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def run() -> None:
        kit.build()
        lo = Path("/proc/sys/net/ipv4/conf/lo/forwarding")
        lo.write_text("0")
        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_text", refuse)
            with pytest.raises(ConfigurationError, match=str(lo)):
                tier()
        with closing(tier()):
            assert lo.read_text().strip() == "1"
        assert lo.read_text().strip() == "0"

    fresh_netns.submit(run).result(60)


def test_parameters_are_given_back_by_the_last(
    fresh_netns: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """And by nobody while the one that changed them, or another one, is at work."""
    kit.need_bpf()

    def run() -> None:
        kit.build()
        paths = [Path(f"/proc/sys/net/ipv{v}/conf/lo/forwarding") for v in (4, 6)]

        def values() -> list[str]:
            return [path.read_text().strip() for path in paths]

        paths[0].write_text("0")
        paths[1].write_text("1")
        with closing(LoopbackForwarding(tmp_path)) as elsewhere:
            with closing(tier(tmp_path)):
                with pytest.raises(ConfigurationError, match="another program"):
                    tier(tmp_path)
                assert values() == ["1", "1"]
                elsewhere.close()
                assert values() == ["1", "1"]
            assert values() == ["0", "1"]
        assert not list(tmp_path.iterdir())

    fresh_netns.submit(run).result(60)


def test_one_program_on_an_interface(with_tier: Callable[..., None]) -> None:
    def check(first: XdpTier) -> None:
        with pytest.raises(ConfigurationError, match="another program"):
            tier()

    with_tier(check)
