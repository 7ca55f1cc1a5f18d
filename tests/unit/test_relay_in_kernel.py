"""The relay's data plane tells the tier in the kernel of each channel, and of each one's end."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from ipaddress import ip_address

import pytest
from unit.test_relay_dataplane import Client, Running, request, with_relay

from firezone import stun
from firezone.durations import SECOND
from firezone.model import Endpoint
from firezone.shell.clock import boottime_ns
from firezone.shell.relay_sockets import open_relay_socket, relayed_address
from firezone.stun import Method
from firezone.turn.relay_commands import FiveTuple, OpenSocket


class Tier:
    """Stands for the one in the kernel."""

    def __init__(self) -> None:
        self.bound: dict[tuple[FiveTuple, int], tuple[Endpoint, Endpoint]] = {}
        self.log: list[str] = []
        self.traffic = ((0, 0), (0, 0))
        self.counters = Counter[str](xdp_no_route=3)

    def bind(self, five_tuple: FiveTuple, number: int, relayed: Endpoint, peer: Endpoint) -> None:
        self.bound[five_tuple, number] = (relayed, peer)
        self.log.append("bind")

    def unbind(self, five_tuple: FiveTuple, number: int) -> None:
        del self.bound[five_tuple, number]
        self.log.append("unbind")

    def close(self) -> None:
        self.log.append("close")


def use(running: Running) -> Tier:
    tier = Tier()
    running.dataplane.use_xdp(tier)  # type: ignore[arg-type]
    return tier


@pytest.mark.parametrize(("family", "peer_family"), [(4, 4), (4, 6), (6, 4), (6, 6)])
def test_a_channel_until_its_allocation_ends(family: int, peer_family: int) -> None:
    tiers = []

    async def test(running: Running) -> None:
        tier = use(running)
        tiers.append(tier)
        client, peer = Client(running, family), Client(running, peer_family)
        response = await client.allocate((stun.ADDITIONAL_ADDRESS_FAMILY, 6))
        relayed = {e.family: e for e in response.get_all(stun.XOR_RELAYED_ADDRESS)}
        await client.bind(0x4001, peer.address)
        five_tuple = FiveTuple(client.address, Endpoint.of(*client.relay))
        assert tier.bound == {(five_tuple, 0x4001): (relayed[peer_family], peer.address)}
        assert running.dataplane.counters["xdp_no_route"] == 3
        await client.ask(request(Method.REFRESH, (stun.LIFETIME, 0)))
        assert tier.bound == {} and tier.log == ["bind", "unbind"]

    with_relay(test)
    assert tiers[0].log[-1] == "close"


def test_a_channel_that_is_bound_again_after_its_time() -> None:
    """In its cool-down the same pair may come back; and then it is the kernel's again."""
    ahead = 0

    async def test(running: Running) -> None:
        nonlocal ahead
        tier = use(running)
        client, peer = Client(running), Client(running)
        await client.allocate((stun.LIFETIME, 3600))
        await client.bind(0x4001, peer.address)
        ahead = 601 * SECOND
        running.role.handle_timeout(boottime_ns() + ahead)
        running.dataplane.flush()
        assert tier.bound == {}
        await client.bind(0x4001, peer.address)
        assert len(tier.bound) == 1

    with_relay(test, clock=lambda: boottime_ns() + ahead)


def test_where_fragments_are_forbidden_user_space_serves() -> None:
    async def test(running: Running) -> None:
        tier = use(running)
        client, peer = Client(running), Client(running)
        await client.allocate((stun.DONT_FRAGMENT, True))
        await client.bind(0x4001, peer.address)
        client.send(0x4001, b"data")
        assert (await peer.receive())[0] == b"data"
        assert tier.bound == {}

    with_relay(test)


def test_what_the_kernel_moves_counts_as_relayed() -> None:
    async def test(running: Running) -> None:
        tier = use(running)
        tier.traffic = ((2, 1000), (1, 500))
        running.dataplane._on_timer()
        assert running.role._relayed_bytes == 1500
        tier.traffic = ((3, 1100), (1, 500))
        running.dataplane._on_timer()
        assert running.role._relayed_bytes == 1600

    with_relay(test)


def test_allocations_of_a_host_without_the_public_address() -> None:
    """Behind a NAT sockets are bound to all addresses: the source is what routes make it."""
    with closing(open_relay_socket(OpenSocket(20007, 4), ip_address("203.0.113.1"))) as opened:
        assert relayed_address(opened, Endpoint.of("127.0.0.9", 9)) == Endpoint.of(
            "127.0.0.1", 20007
        )
