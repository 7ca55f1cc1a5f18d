"""Where relays and peers are reached in a network that has IPv6 alone."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Network

import pytest
from node_kit import RELAY, SERVER, START, Bench, host

from firezone.ice import Candidate
from firezone.model import Endpoint
from firezone.nat64 import Prefix
from firezone.node.candidates import translated
from firezone.turn import RelayServer

PREFIX = Prefix(IPv6Network("2001:db8:64::/96"))
THERE = Endpoint.parse("[2001:db8:64::198.51.100.1]:3478")
V6 = Endpoint.parse("[2001:db8::1]:3478")


@pytest.mark.parametrize(
    ("server", "reached_at"),
    [
        (RelayServer(SERVER), RelayServer(ipv6=THERE, is_translated=True)),
        (RelayServer(SERVER, V6), RelayServer(SERVER, V6)),
        (RelayServer(ipv6=V6), RelayServer(ipv6=V6)),
        (RelayServer(Endpoint.parse("127.0.0.1:1")), RelayServer(Endpoint.parse("127.0.0.1:1"))),
    ],
)
def test_only_a_relay_without_ipv6_needs_the_translator(
    server: RelayServer, reached_at: RelayServer
) -> None:
    relays = Bench().node.transport.relays
    relays.nat64 = PREFIX
    assert relays.reached_at(replace(RELAY, server=server)) == reached_at


def test_a_relay_that_has_not_answered_is_asked_at_the_new_place() -> None:
    bench = Bench()
    bench.relay_answers = False
    bench.with_relay()
    bench.node.handle_nat64(PREFIX, START)
    bench.drain()
    assert {transmit.destination for transmit in bench.sent} == {THERE}
    bench.node.handle_nat64(PREFIX, START)
    bench.drain()
    assert len(bench.sent) == 1


def test_the_portal_that_names_the_relay_again_changes_nothing() -> None:
    bench = Bench()
    bench.relay_answers = False
    bench.node.handle_nat64(PREFIX, START)
    bench.with_relay().with_relay()
    assert [transmit.destination for transmit in bench.sent] == [THERE]


def test_a_peers_ipv4_candidate_has_a_twin() -> None:
    (twin,) = translated(host("192.0.2.7:9"), PREFIX)
    assert twin.address == twin.base == Endpoint.parse("[2001:db8:64::192.0.2.7]:9")
    assert twin.priority == host("192.0.2.7:9").priority
    assert [*translated(Candidate.host(V6), PREFIX)] == []
    assert [*translated(host("192.0.2.7:9"), None)] == []
