"""How a NAT filters, told by relays of ours on a virtual network."""

from collections import Counter

import pytest
from netcheck_world import AD, EI, PORTS, SYM, World, server_of

from firezone import stun
from firezone.durations import SECOND
from firezone.model import Endpoint
from firezone.netcheck import (
    NO_CREDENTIALS,
    PROBED,
    RELAYING,
    Filtering,
    Mapping,
    Netcheck,
    Server,
    filtering_of,
    findings,
)
from firezone.turn import Credentials

ONE, TWO = ("203.0.113.1", "2001:db8:ffff::1"), ("203.0.113.2", "2001:db8:ffff::2")
KINDS = {
    EI: Filtering.ENDPOINT_INDEPENDENT,
    AD: Filtering.ADDRESS_DEPENDENT,
    SYM: Filtering.ADDRESS_AND_PORT_DEPENDENT,
}


def world_of(*relays, **options):
    world = World(**options)
    return world, [world.relay(*addresses) for addresses in relays]


def checked(*relays, **options):
    world, hosts = world_of(*relays, **options)
    return world.check(*map(server_of, hosts))


@pytest.mark.parametrize("filtering", KINDS)
@pytest.mark.parametrize("mapping", [EI, AD, SYM])
def test_the_kinds_of_nat_with_two_relays(mapping, filtering):
    report = checked(ONE, TWO, nat=mapping, filtering=filtering, families=(4, 6))
    assert [f.filtering for f in report.families] == [KINDS[filtering]] * 2
    assert [f.filtering_note for f in report.families] == [None, None]


@pytest.mark.parametrize(
    ("filtering", "expected", "note"),
    [
        (EI, Filtering.NOT_BY_PORT, "name a second relay, at another address"),
        (AD, Filtering.NOT_BY_PORT, "name a second relay, at another address"),
        (SYM, Filtering.ADDRESS_AND_PORT_DEPENDENT, None),
    ],
)
def test_one_relay_tells_what_it_can(filtering, expected, note):
    four, _ = checked(ONE, nat=EI, filtering=filtering).families
    assert (four.filtering, four.filtering_note) == (expected, note)


@pytest.mark.parametrize(
    ("nat", "filtering", "expected"),
    [
        (SYM, SYM, Mapping.ADDRESS_AND_PORT_DEPENDENT),
        (AD, SYM, Mapping.UNKNOWN),
        (EI, SYM, Mapping.UNKNOWN),
        (SYM, AD, Mapping.UNKNOWN),
    ],
)
def test_one_relay_shows_a_symmetric_nat(nat, filtering, expected):
    """To another port of its host, where the NAT lets nothing in unless that was asked."""
    families = checked(ONE, nat=nat, filtering=filtering, families=(4, 6)).families
    assert {family.mapping for family in families} == {expected}


def test_a_host_without_nat_may_stand_behind_a_firewall():
    assert checked(ONE, TWO).families[0].filtering is Filtering.ENDPOINT_INDEPENDENT
    world, hosts = world_of(ONE, TWO)
    asked = set()

    def answers_only(source, destination):
        asked.add((source, destination))
        return destination.address == probed.address and (destination, source) not in asked

    probed = Endpoint.of("192.0.2.1", PORTS[PROBED])
    world.network.blocked = answers_only
    four = world.check(*map(server_of, hosts)).families[0]
    assert four.filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT


@pytest.mark.parametrize("filtering", KINDS)
def test_each_probe_is_sent_three_times(filtering):
    """Of what goes from a relayed address or to it, the first two datagrams are lost each way."""
    world, hosts = world_of(ONE, TWO, nat=EI, filtering=filtering)
    sent = Counter()

    def lose(source, destination):
        sent[source, destination] += 1
        return 3478 not in (source.port, destination.port) and sent[source, destination] < 3

    world.network.blocked = lose
    four = world.check(*map(server_of, hosts)).families[0]
    assert (four.filtering, four.filtering_note) == (KINDS[filtering], None)


@pytest.mark.parametrize("seed", range(12))
def test_every_tenth_datagram_may_be_lost(seed):
    for filtering, expected in KINDS.items():
        world, hosts = world_of(ONE, TWO, nat=EI, filtering=filtering, seed=seed)
        world.network.blocked = lambda *_, world=world: world.random.random() < 0.1
        assert world.check(*map(server_of, hosts)).families[0].filtering is expected


def test_silence_proves_nothing_if_the_relay_sends_nothing():
    world, hosts = world_of(ONE, TWO, nat=EI, filtering=AD)
    sick = {host.host.addresses[4] for host in hosts}
    world.network.blocked = lambda source, _: source.address in sick and source.port != 3478
    four = world.check(*map(server_of, hosts)).families[0]
    assert four.filtering is Filtering.UNKNOWN
    assert "nothing comes in from 203.0.113.1:" in four.filtering_note
    assert four.filtering_note.endswith(", not even answers")


def test_a_far_relay_that_sends_nothing_leaves_open_what_it_would_tell():
    world, hosts = world_of(ONE, TWO, nat=EI, filtering=EI)
    sick = hosts[1].host.addresses[4]
    world.network.blocked = lambda source, _: source.address == sick and source.port != 3478
    four = world.check(*map(server_of, hosts)).families[0]
    assert four.filtering is Filtering.NOT_BY_PORT
    assert "nothing comes in from 203.0.113.2:" in four.filtering_note


def test_without_credentials_it_is_said_that_there_are_none():
    world = World(nat=EI)
    world.relay("203.0.113.1")
    four = world.check("203.0.113.1:3478").families[0]
    assert (four.filtering, four.filtering_note) == (Filtering.UNKNOWN, NO_CREDENTIALS)
    assert not [probe for probe in world.sent if probe.socket in (PROBED, RELAYING)]


def test_relays_that_grant_nothing_are_named():
    world, (relay,) = world_of(ONE[:1], nat=EI)
    note = world.check(server_of(relay, realm="elsewhere")).families[0].filtering_note
    assert note == "relay 203.0.113.1: has another password or realm"
    world, (relay,) = world_of(ONE[:1], nat=EI)
    note = world.check(server_of(relay, secret="wrong")).families[0].filtering_note
    assert note == "relay 203.0.113.1: has another password or realm"
    world, (relay,) = world_of(ONE[:1], nat=EI)
    relay.machine.drain()
    note = world.check(server_of(relay)).families[0].filtering_note
    assert note == "relay 203.0.113.1: refused an allocation"
    world = World(nat=EI)
    server = Server("dead", (Endpoint.parse("203.0.113.1:3478"),), Credentials("1:a", "b", "c"))
    start = world.clock.now
    note = world.check(server).families[0].filtering_note
    assert note == "relay 203.0.113.1: no answer"
    assert world.clock.now - start < 6 * SECOND


def test_a_dead_relay_does_not_stand_in_the_way_of_others():
    world, hosts = world_of(ONE, TWO, nat=EI, filtering=EI)
    dead = Server("dead", (Endpoint.parse("203.0.113.9:3478"),), Credentials("1:a", "b", "c"))
    four = world.check(dead, *map(server_of, hosts)).families[0]
    assert four.filtering is Filtering.ENDPOINT_INDEPENDENT


def test_a_relay_without_the_family_and_a_relay_that_refuses_the_peer():
    world, hosts = world_of(ONE[:1], nat=EI, families=(4, 6))
    six = world.stun_server("2001:db8:ffff::9") and "[2001:db8:ffff::9]:3478"
    report = world.check(server_of(hosts[0]), six)
    assert report.families[1].filtering_note == "no relay has an IPv6 address"
    world, hosts = world_of(ONE[:1], nat=EI)
    world.nat = world.host.nat = type(world.nat)(EI, Endpoint.of("198.18.0.1", 1).address)
    world.network.attach(world.host)
    four = world.check(server_of(hosts[0])).families[0]
    assert four.filtering is Filtering.UNKNOWN
    assert four.filtering_note == "relay 203.0.113.1 refuses to send to 198.18.0.1"


def test_nothing_is_left_on_the_relays():
    world, hosts = world_of(ONE, TWO, nat=EI, filtering=AD)
    world.check(*map(server_of, hosts))
    assert [host.machine.counters["allocate_success"] for host in hosts] == [1, 1]
    world.clock.run_for(1 * SECOND)
    assert [host.machine.allocation_count for host in hosts] == [0, 0]


def test_a_symmetric_nat_that_lets_everybody_in_is_no_obstacle():
    (finding,) = findings(checked(ONE, TWO, nat=SYM, filtering=EI))
    assert "lets everybody in" in finding


@pytest.mark.parametrize(
    ("near", "far", "expected"),
    [
        (True, True, Filtering.ENDPOINT_INDEPENDENT),
        (False, True, Filtering.ENDPOINT_INDEPENDENT),
        (None, True, Filtering.ENDPOINT_INDEPENDENT),
        (True, False, Filtering.ADDRESS_DEPENDENT),
        (True, None, Filtering.NOT_BY_PORT),
        (False, False, Filtering.ADDRESS_AND_PORT_DEPENDENT),
        (False, None, Filtering.ADDRESS_AND_PORT_DEPENDENT),
        (None, False, Filtering.DEPENDENT),
        (None, None, Filtering.UNKNOWN),
    ],
)
def test_the_verdict(near, far, expected):
    assert filtering_of(near, far) is expected


def test_strangers_at_the_sockets_are_counted():
    relay = Server("relay", (Endpoint.parse("203.0.113.1:3478"),), Credentials("1:a", "b", "c"))
    check = Netcheck([relay], entropy=bytes, now=0)
    local, stranger = Endpoint.parse("10.0.0.2:1"), Endpoint.parse("203.0.113.9:3478")
    indication = stun.Message.indication(stun.Method.BINDING, bytes).encode()
    check.handle_datagram(PROBED, local, stranger, indication, 1)
    assert check.counters["unexpected indication"] == 1
    check.handle_datagram(RELAYING, local, stranger, indication, 1)
    assert check.counters["no relay of ours"] == 1
    for length in range(len(indication)):
        check.handle_datagram(RELAYING, local, relay.addresses[0], indication[:length], 1)
        check.handle_datagram(RELAYING, local, relay.addresses[0], b"\x40" * length, 1)
    assert check.report().families[0].filtering is Filtering.UNKNOWN
