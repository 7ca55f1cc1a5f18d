"""The check in a network that has IPv6 alone and a NAT64."""

from ipaddress import IPv6Network

import pytest
from netcheck_world import AD, EI, SYM, World, server_of

from firezone.cli.netcheck_text import netcheck_lines
from firezone.nat64 import Prefix
from firezone.netcheck import Mapping

PREFIX = Prefix(IPv6Network("2001:db8:64::/96"))
ONE, TWO = "203.0.113.1:3478", "203.0.113.2:3478"
DEPENDENT = Mapping.DEPENDENT


def world(kind=EI):
    made = World(families=(6,))
    made.enter_nat64(kind, PREFIX)
    made.stun_server("203.0.113.1")
    made.stun_server("203.0.113.2")
    return made


@pytest.mark.parametrize(
    ("kind", "mapping"), [(EI, Mapping.ENDPOINT_INDEPENDENT), (AD, DEPENDENT), (SYM, DEPENDENT)]
)
def test_what_it_does_is_told_as_ipv4s(kind, mapping):
    report = world(kind).check(ONE, TWO)
    four, six = report.families
    assert (four.reachable, four.mapping, four.nat64) == (True, mapping, "2001:db8:64::/96")
    assert four.local.startswith("[fd00::2]")
    assert {mapped.partition(":")[0] for mapped in four.mapped} == {"192.0.2.1"}
    assert four.hairpin is None
    assert (six.reachable, six.nat64) == (None, None)
    assert [server.address for server in report.servers] == [
        "[2001:db8:64::cb00:7101]:3478",
        "[2001:db8:64::cb00:7102]:3478",
    ]
    assert "reached at 2001:db8:64::/96" in report.findings[0]


def test_a_name_that_dns64_translated_is_the_same_server():
    report = world().check("[2001:db8:64::203.0.113.1]:3478", ONE)
    assert len(report.servers) == 1
    assert report.families[0].reachable
    assert report.families[1].reachable is None


def test_filtering_is_not_asked_through_it_and_says_so():
    made = world()
    report = made.check(server_of(made.relay("203.0.113.9")))
    assert report.families[0].reachable
    assert report.families[0].filtering_note == "not asked through a NAT64"
    assert not made.machine.counters


def test_people_are_told():
    lines = list(netcheck_lines(world().check(ONE)))
    assert lines[0] == "IPv4, through the NAT64 at 2001:db8:64::/96"
    assert "IPv6" in lines
