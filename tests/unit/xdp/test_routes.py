"""What the program is told of a channel, and what it tells."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.model import Endpoint
from firezone.xdp import Route, Settings, Way, assemble, counts, relay_program, routes
from firezone.xdp.assembler import MAX_INSTRUCTIONS, Instruction
from firezone.xdp.program import COUNTS, ROUTES

addresses = st.one_of(st.builds(IPv4Address, st.integers(0, 2**32 - 1)), st.ip_addresses(v=6))
ports = st.integers(1, 0xFFFF)


def way(address: IPv4Address | IPv6Address, port: int, other: int, channel: int) -> Way:
    local = "192.0.2.1" if address.version == 4 else "2001:db8::1"
    return Way(Endpoint.of(local, other), Endpoint(address, port), channel)


ways = st.builds(way, addresses, ports, ports, st.just(0))
ways_on_channels = st.builds(way, addresses, ports, ports, st.integers(0x4000, 0x7FFF))


def test_key_and_value_as_they_stand() -> None:
    client = Way(Endpoint.of("192.0.2.1", 3478), Endpoint.of("192.0.2.2", 4000), 0x4001)
    peer = Way(Endpoint.of("2001:db8::1", 50000), Endpoint.of("2001:db8::2", 53))
    assert client.key().hex() == (
        "00000000000000000000ffffc0000202" + "00000000000000000000ffffc0000201" + "0fa00d9640010000"
    )
    value = Route(client, peer).value()
    assert value[:40].hex() == (
        "20010db8000000000000000000000001" + "20010db8000000000000000000000002" + "c350003500000600"
    )
    assert value[routes.PACKETS :] == bytes(16)
    assert (len(client.key()), len(value)) == (routes.KEY_SIZE, routes.VALUE_SIZE)
    assert Route(client, peer).reverse() == Route(peer, client)


@given(ways_on_channels, ways)
def test_what_goes_and_comes_back_changes_nothing(client: Way, peer: Way) -> None:
    """The changes to the UDP checksum of both directions of a channel undo each other."""
    there, back = (delta(r, routes.UDP_DELTA) for r in pair(client, peer))
    assert (there + back) % 0xFFFF == 0


@given(st.tuples(ways_on_channels, ways).filter(lambda x: x[0].version == x[1].version == 4))
def test_header_checksums_differ_by_two_hops(both: tuple[Way, Way]) -> None:
    there, back = (delta(route, routes.IP_DELTA) for route in pair(*both))
    assert (there + back + 2 * 0x0100) % 0xFFFF == 0


@given(ways_on_channels, ways)
def test_sums_are_never_zero(client: Way, peer: Way) -> None:
    """The program's own sums rely on it where they tell 0 and 0xFFFF apart."""
    for route in pair(client, peer):
        assert delta(route, routes.UDP_DELTA) and delta(route, routes.PSEUDO)
        assert delta(route, routes.IP_DELTA) or route.departure.version == 6


def pair(client: Way, peer: Way) -> tuple[Route, Route]:
    route = Route(client, peer)
    return route, route.reverse()


def delta(route: Route, at: int) -> int:
    found: int = struct.unpack_from(">H", route.value(), at)[0]
    return found


def test_counts_are_added_over_cpus() -> None:
    assert counts.total(struct.pack("=6Q", 1, 10, 2, 20, 3, 30)) == (6, 60)
    assert counts.total(b"") == (0, 0)


@pytest.mark.parametrize("native", [True, False])
def test_the_program_is_of_a_size_that_kernels_take(native: bool) -> None:
    lines = relay_program(Settings(2, 3478, range(49152, 65536), native))
    code = assemble(lines, {ROUTES: 3, COUNTS: 4})
    assert 0 < len(code) // 8 <= MAX_INSTRUCTIONS


def test_ports_are_those_of_the_settings() -> None:
    """Nothing of the usual ones is left in a program for others."""
    lines = relay_program(Settings(2, 7000, range(20000, 20100)))
    numbers = {line.immediate for line in lines if isinstance(line, Instruction)}
    assert {7000, 20000, 20099} <= numbers and not {3478, 49152} & numbers
