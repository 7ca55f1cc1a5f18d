"""The check of the network, against simulated NATs, servers and paths."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netcheck_world import AD, EI, SYM, World

from firezone import stun
from firezone.durations import MILLISECOND, SECOND
from firezone.model import Endpoint, Transmit
from firezone.netcheck import (
    MAIN,
    Mapping,
    Netcheck,
    NetcheckReport,
    PortalReport,
    Server,
    StreamReport,
    findings,
    mapping_of,
    works,
)
from firezone.netcheck import (
    SECOND as SECOND_SOCKET,
)

ONE, ONE_OTHER_PORT, TWO = "203.0.113.1:3478", "203.0.113.1:3479", "203.0.113.2:3478"
SIX = "[2001:db8:ffff::1]:3478"


def checked(*servers, **options):
    world = World(**options)
    world.stun_server("203.0.113.1", "2001:db8:ffff::1")
    world.stun_server("203.0.113.2")
    return world.check(*servers)


@pytest.mark.parametrize(
    ("nat", "servers", "expected"),
    [
        (None, [ONE], Mapping.NO_NAT),
        (None, [ONE, ONE_OTHER_PORT, TWO], Mapping.NO_NAT),
        (EI, [ONE], Mapping.UNKNOWN),
        (EI, [ONE, ONE_OTHER_PORT], Mapping.UNKNOWN),
        (EI, [ONE, TWO], Mapping.ENDPOINT_INDEPENDENT),
        (EI, [ONE, ONE_OTHER_PORT, TWO], Mapping.ENDPOINT_INDEPENDENT),
        (AD, [ONE, TWO], Mapping.DEPENDENT),
        (AD, [ONE, ONE_OTHER_PORT], Mapping.UNKNOWN),
        (AD, [ONE, ONE_OTHER_PORT, TWO], Mapping.ADDRESS_DEPENDENT),
        (SYM, [ONE, TWO], Mapping.DEPENDENT),
        (SYM, [ONE, ONE_OTHER_PORT], Mapping.ADDRESS_AND_PORT_DEPENDENT),
        (SYM, [ONE, ONE_OTHER_PORT, TWO], Mapping.ADDRESS_AND_PORT_DEPENDENT),
    ],
)
def test_the_nat_is_judged_by_what_was_asked(nat, servers, expected):
    report = checked(*servers, nat=nat)
    four, six = report.families
    assert four.mapping is expected
    assert four.reachable
    assert (six.reachable, six.mapping) == (None, Mapping.UNKNOWN)


def test_a_server_on_our_side_of_the_nat_says_nothing_about_it():
    local, outer = Endpoint.parse("10.0.0.2:1"), Endpoint.parse("192.0.2.1:1")
    inside, one, two = map(Endpoint.parse, ("10.0.0.1:3478", ONE, TWO))
    assert mapping_of(local, {inside: local, one: outer, two: outer}) == (
        Mapping.ENDPOINT_INDEPENDENT
    )
    assert mapping_of(local, {inside: local, one: outer}) is Mapping.UNKNOWN
    assert mapping_of(local, {}) is Mapping.UNKNOWN


def test_addresses_ports_and_round_trips():
    report = checked(ONE, TWO, nat=EI)
    four = report.families[0]
    assert four.local == "10.0.0.2:40000"
    assert four.mapped == ("192.0.2.1:40000",)
    assert four.port_preserved is True
    for server in report.servers:
        assert (server.sent, server.answered, server.error) == (5, 5, None)
        assert server.round_trip_min_ms == server.round_trip_median_ms == 20
        assert server.mapped == "192.0.2.1:40000"


def test_a_port_that_is_not_kept():
    assert checked(ONE, TWO, nat=SYM).families[0].port_preserved is False
    assert checked(ONE, nat=None).families[0].port_preserved is None


@pytest.mark.parametrize("turns_around", [True, False])
def test_hairpinning(turns_around):
    world = World(nat=EI)
    world.stun_server("203.0.113.1")
    if not turns_around:
        world.network.blocked = lambda source, destination: source.address == destination.address
    assert world.check(ONE).families[0].hairpin is turns_around


def test_without_nat_nothing_is_to_be_turned_around():
    world = World()
    world.stun_server("203.0.113.1")
    assert world.check(ONE).families[0].hairpin is None
    assert not [probe for probe in world.sent if probe.socket == SECOND_SOCKET]


def test_hairpinning_is_unknown_if_the_second_socket_gets_no_answer():
    world = World(nat=EI)
    server = world.stun_server("203.0.113.1")
    answer = server.handle
    server.host.handler = lambda local, source, payload: (
        answer(local, source, payload) if source.port == 40_000 else None
    )
    assert world.check(ONE).families[0].hairpin is None


@pytest.mark.parametrize("mtu", [576, 580, 1000, 1276, 1280, 1340, 1344, 1420, 1492, 1496, 1500])
def test_the_path_mtu_is_found_exactly(mtu):
    report = checked(ONE, mtu=mtu)
    assert report.servers[0].path_mtu == mtu
    assert checked(ONE, mtu=mtu + 3).servers[0].path_mtu == min(mtu, 1500)


def test_the_path_mtu_of_ipv6_and_below_the_smallest():
    assert checked(SIX, families=(4, 6), mtu=1404).servers[0].path_mtu == 1404
    assert checked(SIX, families=(4, 6), mtu=1276).servers[0].path_mtu is None
    assert checked(ONE, mtu=400).servers[0].path_mtu is None


def test_what_the_host_itself_refuses_needs_no_patience():
    assert checked(ONE, interface_mtu=1420).servers[0].path_mtu == 1420


def test_losses_do_not_shrink_the_path_mtu():
    world = World()
    world.stun_server("203.0.113.1")
    world.network.blocked = lambda source, destination: world.random.random() < 0.2
    assert world.check(ONE).servers[0].path_mtu == 1500


def test_our_relay_answers_it_all():
    world = World(nat=EI, families=(4, 6))
    world.relay("203.0.113.1", "2001:db8:ffff::1")
    world.relay("203.0.113.2", "2001:db8:ffff::2")
    report = world.check(ONE, SIX, TWO, "[2001:db8:ffff::2]:3478")
    assert [f.mapping for f in report.families] == [Mapping.ENDPOINT_INDEPENDENT] * 2
    assert {s.path_mtu for s in report.servers} == {1500}
    assert report.findings == ()


def test_a_server_that_answers_with_an_error():
    world = World()
    server = world.stun_server("203.0.113.1")

    def refuse(local, source, payload):
        response = stun.decode(payload).error(420)
        server.host.send(Transmit(response.encode(), source, local), local.port)

    server.host.handler = refuse
    report = world.check(ONE)
    assert report.servers[0].error == "answers with errors only"
    assert report.servers[0].answered == 5
    assert report.families[0].reachable


def test_silence_is_told_within_seconds():
    world = World()
    start = world.clock.now
    report = world.check(ONE, TWO)
    assert world.clock.now - start < 3 * SECOND
    assert report.families[0].reachable is False
    assert [s.error for s in report.servers] == ["no answer"] * 2
    assert "no server answered over UDP" in report.findings[0]


def test_a_family_that_the_host_lacks():
    report = checked(ONE, SIX)
    assert report.families[1].reachable is False
    assert report.servers[1].error == "Network is unreachable"
    assert report.families[0].reachable


def test_nothing_to_ask():
    check = Netcheck([Server("nowhere", ())], entropy=bytes, now=0)
    assert check.is_done
    report = check.report()
    assert report.servers[0].error == "the name has no address"
    assert [f.reachable for f in report.families] == [None, None]
    assert not works(report)


def test_too_many_addresses_are_not_asked():
    many = [Server(str(n), (Endpoint.of("203.0.113.1", n),)) for n in range(1, 1000)]
    check = Netcheck(many, entropy=bytes, now=0)
    assert len(check.report().servers) == 32


def test_what_it_means():
    symmetric = list(findings(checked(ONE, TWO, nat=SYM)))
    assert len(symmetric) == 1 and "maps each destination differently" in symmetric[0]
    (one,) = findings(checked(ONE, nat=EI))
    assert "name a second one" in one
    (small,) = findings(checked(ONE, mtu=1300))
    assert "takes packets of 1300 bytes, full ones of the tunnel have 1344" in small
    away = PortalReport("http://p", False, error="Connection refused")
    portal, nobody = findings(NetcheckReport((), (), away))
    assert portal == "the portal cannot be reached: Connection refused"
    assert nobody.startswith("no relay is known yet")
    nowhere = Netcheck([Server("nowhere", ())], entropy=bytes, now=0).report()
    assert nowhere.findings[0].startswith("nowhere has no address")
    well = checked(ONE)
    assert works(well) and not works(replace(well, portal=away))


def test_some_servers_are_silent():
    """Not those that another of their addresses answers for."""
    here, gone = Endpoint.parse(ONE), Endpoint.parse(TWO)
    world = World()
    world.stun_server(str(here.address))
    servers = [
        Server("a", (gone, here)),
        Server("b", (Endpoint(gone.address, 3479),)),
        Server("c", ()),
    ]
    report = world.check(*servers)
    assert report.findings[0] == "c has no address: is it spelt right, does this host's DNS work?"
    assert report.findings[1] == "1 of 2 servers did not answer: b"
    assert works(report)


@pytest.mark.parametrize(
    ("reachable", "told"),
    [
        (None, "a firewall blocks it, or the servers are down"),
        (True, f"but {ONE} answers over TCP"),
        (False, "nor over TCP or TLS"),
    ],
)
def test_what_is_left_without_udp(reachable, told):
    report = World().check(ONE)
    streams = () if reachable is None else (StreamReport(ONE, reachable),)
    (found,) = findings(replace(report, streams=streams))
    assert told in found
    assert not works(report)


def test_the_report_is_json_and_comes_back_equal():
    report = checked(ONE, TWO, SIX, nat=SYM, families=(4, 6))
    assert msgspec.json.decode(msgspec.json.encode(report), type=NetcheckReport) == report


def start(seed=1):
    world = World(seed=seed)
    server = Server(ONE, (Endpoint.parse(ONE),))
    check = Netcheck([server], entropy=world.random.randbytes, now=0)
    return check, check.poll_transmit()


LOCAL, FROM = Endpoint.parse("10.0.0.2:40000"), Endpoint.parse(ONE)


def answer_to(probe, mapped=LOCAL):
    return stun.decode(probe.payload).success().with_(stun.XOR_MAPPED_ADDRESS, mapped).encode()


@pytest.mark.parametrize(
    ("socket", "source"),
    [(MAIN, Endpoint.parse(TWO)), (SECOND_SOCKET, FROM), (MAIN, Endpoint.parse(ONE_OTHER_PORT))],
)
def test_answers_from_elsewhere_do_not_count(socket, source):
    check, probe = start()
    check.handle_datagram(socket, LOCAL, source, answer_to(probe), MILLISECOND)
    assert check.counters["unexpected response"] == 1
    assert check.report().servers[0].answered == 0
    check.handle_datagram(MAIN, LOCAL, FROM, answer_to(probe), MILLISECOND)
    assert check.report().servers[0].answered == 1
    check.handle_datagram(MAIN, LOCAL, FROM, answer_to(probe), MILLISECOND)
    assert check.report().servers[0].answered == 1


def test_requests_of_strangers_and_our_own_at_the_same_socket_mean_nothing():
    check, probe = start()
    stranger = stun.Message.request(stun.Method.BINDING, bytes).encode()
    check.handle_datagram(MAIN, LOCAL, FROM, stranger, 1)
    check.handle_datagram(MAIN, LOCAL, FROM, probe.payload, 1)
    assert check.counters["request of a stranger"] == 2
    allocate = stun.Message.request(stun.Method.ALLOCATE, bytes).encode()
    check.handle_datagram(MAIN, LOCAL, FROM, allocate, 1)
    assert check.counters["another method"] == 1


def test_every_truncation_is_dropped():
    check, probe = start()
    whole = answer_to(probe)
    for length in range(len(whole)):
        check.handle_datagram(MAIN, LOCAL, FROM, whole[:length], 1)
    assert check.report().servers[0].answered == 0
    assert sum(check.counters.values()) == len(whole)


@given(st.binary(max_size=100), st.integers(0, 200), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_random_and_mutated_answers_never_raise(noise, position, value):
    check, probe = start()
    check.handle_datagram(MAIN, LOCAL, FROM, noise, 1)
    mutated = bytearray(answer_to(probe))
    mutated[position % len(mutated)] = value
    check.handle_datagram(MAIN, LOCAL, FROM, bytes(mutated), 2)
    check.handle_timeout(SECOND)
    check.report()
