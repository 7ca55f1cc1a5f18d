"""The report on a client and a gateway, on a virtual network."""

from dataclasses import replace
from ipaddress import IPv6Network, ip_network

import msgspec
import pytest
from packets import udp

from firezone.durations import MILLISECOND, SECOND
from firezone.explain import (
    MAX_CONNECTIONS,
    Explanation,
    FlowTableStatus,
    PortalStatus,
    Status,
    Surroundings,
    UnknownPeerError,
    explain,
    status,
)
from firezone.explain.pairs import verdict
from firezone.ice import Candidate, CheckState, PairReport, Tally
from firezone.model import Endpoint, IceCredentials
from firezone.nat64 import Prefix
from firezone.node import PeerKeys
from firezone.noise import StaticKeypair
from firezone.sim import NatKind, World
from firezone.sim.portal import CLIENT_ADDRESSES, GATEWAY_ADDRESSES
from firezone.sim.world import RESOURCE

ME, _ = CLIENT_ADDRESSES
SERVER = "10.9.0.1"
SYM = NatKind.SYMMETRIC
PORTAL = PortalStatus("ws://portal", True, 1.0)


def around(peer):
    data = peer.dataplane
    return Surroundings(
        interface="tun0",
        started_at=0,
        portal=PORTAL,
        activity=data.activity,
        traffic=data.traffic,
        flows=FlowTableStatus(data.flow_count, data.flow_capacity),
        dataplane={**data.counters(), "handed_over": 7},
        workers=data.worker_statuses(),
        counters={"sockets": {"EPERM": 3}},
    )


def connected(world=None, seconds=5):
    world = world or World()
    request = udp(ME, SERVER, 5000, 53, b"q")
    world.client.send_packet(request)
    assert world.clock.run_until(lambda: request in world.gateway.tun, 20 * SECOND)
    world.gateway.send_packet(udp(SERVER, ME, 53, 5000, b"a"))
    world.clock.run_for(seconds * SECOND)
    return world


def status_of(world, peer):
    return status(peer.role, around(peer), world.clock.now)


def explained(world, peer, who):
    return explain(peer.role, who, around(peer), world.clock.now)


def only(peer):
    return next(iter(peer.role.node.connections()))


def test_a_connection_is_reported_from_both_ends():
    world = connected()
    for peer, role in ((world.client, "client"), (world.gateway, "gateway")):
        report = status_of(world, peer)
        assert (report.role, report.interface, report.portal) == (role, "tun0", PORTAL)
        (connection,) = report.connections
        assert connection.state == "connected"
        assert connection.path.kind == "direct"
        assert connection.established_ago_seconds >= 5
        assert connection.received_bytes > 0 < connection.sent_bytes
        assert any(session.sending for session in connection.sessions)
        assert connection.sessions[0].initiator == (role == "client")
        assert 0 < connection.sessions[0].expires_in_seconds <= 180
        assert report.flows.entries >= 1
        assert report.traffic["tun_read_packets"] >= 1
        assert report.drops["sockets: EPERM"] == 3
        no_loss = ("data plane: slow", "data plane: handed over")
        assert not any(reason.startswith(no_loss) for reason in report.drops)
        (worker,) = report.workers
        assert worker.received_packets > 0 < worker.sent_packets


def test_a_report_is_bounded():
    world = World()
    node = world.gateway.role.node
    keys = StaticKeypair.generate(world.entropy)
    for n in range(MAX_CONNECTIONS + 50):
        ice = [IceCredentials(f"{side}{n}", "secret") for side in "ab"]
        node.upsert_connection(
            f"client {n}", PeerKeys(keys.public, bytes(32), *ice), world.clock.now + n
        )
    report = status_of(world, world.gateway)
    assert report.connection_count == MAX_CONNECTIONS + 50
    assert len(report.connections) == MAX_CONNECTIONS
    assert report.connections[0].peer == f"client {MAX_CONNECTIONS + 49}"
    with pytest.raises(UnknownPeerError) as error:
        explained(world, world.gateway, "client")
    assert "more than one client" in str(error.value)
    assert len(str(error.value)) < 500


def test_relays_are_reported_with_state_and_lifetime():
    world = connected()
    relays = status_of(world, world.client).relays
    assert len(relays) == 2
    for relay in relays:
        assert (relay.transport, relay.state) == ("udp", "allocated")
        assert 0 < relay.expires_in_seconds <= 600
        assert relay.active_address in relay.addresses
        assert relay.mapped[0].startswith("192.0.2.1:")
        assert relay.relayed


def test_a_nat64_is_reported_and_the_relay_where_it_is_reached():
    prefix = Prefix(IPv6Network("2001:db8:64::/96"))
    world = connected(World(client_nat64=prefix))
    report = status_of(world, world.client)
    assert report.nat64 == "2001:db8:64::/96"
    for relay in report.relays:
        assert relay.addresses[0].startswith("203.0.113.")
        assert relay.active_address.startswith("[2001:db8:64::cb00:71")
        assert relay.mapped[0].startswith("192.0.2.1:")
    assert status_of(world, world.gateway).nat64 is None


def test_a_relay_that_does_not_answer_is_named():
    world = connected()
    world.network.detach(world.relays[0].host)
    world.clock.run_for(60 * SECOND)
    report = status_of(world, world.client)
    assert [r.id for r in report.lost_relays] == [world.relays[0].id]
    assert report.lost_relays[0].reason == "no response"


def test_a_relay_that_is_away_from_the_start():
    world = World(relays=1)
    world.network.blocked = lambda source, destination: True
    world.client.role.reset(world.clock.now)
    world.client.pump()
    world.portal.join_client(world.client)
    world.client.pump()
    world.clock.run_for(1 * SECOND)
    (relay,) = status_of(world, world.client).relays
    assert (relay.state, relay.active_address) == ("no answer yet", None)


def test_a_relay_that_is_reached_over_a_stream():
    world = World(relays=1)
    world.client.streams = True
    silent = set(world.client.host.nat.addresses)
    world.network.blocked = lambda s, d: s.address in silent or d.address in silent
    world.client.role.reset(world.clock.now)
    world.client.pump()
    seen = set()
    for _ in range(300):
        world.clock.run_for(SECOND // 10)
        for relay in status_of(world, world.client).relays:
            seen.add((relay.transport, relay.state))
            assert relay.addresses == (f"{world.relays[0].host.addresses[4]}:3478",)
            assert relay.active_address is None
    assert ("udp", "no answer yet") in seen
    assert ("tcp", "allocated") in seen


@pytest.mark.parametrize("who", ["id", "prefix", "resource", "tunnel address"])
def test_a_peer_is_found_by(who):
    world = connected()
    peer = only(world.client).id
    given = {
        "id": peer,
        "prefix": peer[:4],
        "resource": SERVER,
        "tunnel address": GATEWAY_ADDRESSES[0],
    }[who]
    assert explained(world, world.client, given).peer == peer


def test_a_gateway_finds_its_client_by_address():
    world = connected()
    report = explained(world, world.gateway, ME)
    assert report.peer == only(world.gateway).id
    assert not report.controlling
    assert RESOURCE.id in report.connection.resources


@pytest.mark.parametrize(
    ("who", "says"),
    [
        ("nobody", "no gateway has an id that begins with 'nobody'; connected: "),
        ("", "no gateway has an id"),
        ("10.200.0.1", "no resource or gateway of ours has the address 10.200.0.1"),
    ],
)
def test_who_is_not_there(who, says):
    world = connected()
    with pytest.raises(UnknownPeerError, match=says):
        explained(world, world.client, who)


def test_a_resource_that_nobody_asked_for_yet():
    world = World()
    with pytest.raises(UnknownPeerError, match="has no gateway now"):
        explained(world, world.client, SERVER)
    away = replace(around(world.client), portal=replace(PORTAL, connected=False))
    with pytest.raises(UnknownPeerError, match=r"now; .*; the portal, .* is not connected"):
        explain(world.client.role, SERVER, away, world.clock.now)


def test_a_silent_peer_is_told():
    world = connected()
    world.network.blocked = lambda *_: True
    world.client.send_packet(udp(ME, SERVER, 5000, 53, b"q"))
    world.clock.run_for(5 * SECOND)
    (one,) = status(world.client.role, around(world.client), world.clock.now).connections
    assert one.state == "connected" and one.unanswered_checks > 3


def test_the_winner_and_why_the_others_lost():
    world = connected(World(client_nat=None, gateway_nat=None), seconds=30)
    report = explained(world, world.client, SERVER)
    (winner,) = [pair for pair in report.pairs if pair.nominated]
    assert winner.verdict == "in use"
    assert winner.local.startswith("host ")
    assert winner.round_trip_ms == pytest.approx(20, abs=1)
    assert winner.answered > 0
    losers = [pair for pair in report.pairs if not pair.nominated]
    assert losers
    assert {pair.verdict for pair in losers} == {"works; lower priority"}
    assert all(pair.priority < winner.priority for pair in losers)


def test_what_a_nat_swallows_is_told_in_checks():
    world = connected(seconds=2)
    verdicts = [p.verdict for p in explained(world, world.client, SERVER).pairs]
    assert any(v.startswith("no answer to ") and v.endswith(" checks yet") for v in verdicts)
    world.clock.run_for(30 * SECOND)
    failed = [p for p in explained(world, world.client, SERVER).pairs if p.state == "failed"]
    assert failed
    for pair in failed:
        assert pair.verdict.startswith("no answer to 12 checks, given up, ")


def test_what_our_relay_does_not_send_is_told_so():
    """Of such a pair no check has reached the peer."""
    world = World()
    for relay in world.relays:
        relay.machine.handle_peer_networks((), (ip_network("198.51.100.0/24"),), world.clock.now)
    connected(world, seconds=30)
    verdicts = {
        (pair.local.split()[0], pair.remote.split()[0]): pair.verdict
        for pair in explained(world, world.client, SERVER).pairs
    }
    assert verdicts["relay", "srflx"] == "our relay does not send there (403), so no check left it"
    assert verdicts["relay", "relay"] == "works; lower priority"


def test_the_controlled_side_waits_for_the_peer():
    world = connected(World(client_nat=None, gateway_nat=None))
    report = explained(world, world.gateway, ME)
    assert {p.verdict for p in report.pairs} == {"in use", "works; lower priority"}


def test_after_a_change_of_path_both_are_remembered():
    world = connected(seconds=10)
    world.block_direct()
    for _ in range(20):  # an idle connection would take its time
        world.client.send_packet(udp(ME, SERVER, 5000, 53, b"again"))
        world.clock.run_for(1 * SECOND)
    report = explained(world, world.client, SERVER)
    assert report.connection.path.kind == "relayed"
    assert [path.kind for path in report.paths][-1] == "relayed"
    assert "direct" in [path.kind for path in report.paths]
    ages = [path.chosen_ago_seconds for path in report.paths]
    assert ages == sorted(ages, reverse=True)
    verdicts = [p.verdict for p in report.pairs if p.state == "failed" and p.answered]
    assert any(v.startswith("failed after ") and "without answer" in v for v in verdicts)
    (relay,) = report.relays
    assert relay.id == report.connection.relay


def test_paths_are_remembered_only_so_far():
    connection = only(connected().client)
    for _ in range(100):
        connection.paths.append(connection.paths[0])
    assert len(connection.paths) == 16


def test_candidates_say_where_they_lead():
    world = connected(World(families=(4, 6), gateway_nat=None))
    report = explained(world, world.client, SERVER)
    local = [c for c in report.candidates if c.side == "local"]
    assert {"host", "srflx", "relay"} <= {c.kind for c in local}
    (reflexive, *_) = [c for c in local if c.kind == "srflx"]
    assert reflexive.note == f"sent from {reflexive.base}"


def test_a_family_that_one_side_lacks_is_named():
    world = connected(World(client_nat=None, gateway_nat=None))
    agent = only(world.client).agent
    six = Candidate.host(Endpoint.parse("[2001:db8::7]:1"))
    agent.add_remote_candidate(six, world.clock.now)
    report = explained(world, world.client, SERVER)
    (note,) = [c.note for c in report.candidates if c.address == "[2001:db8::7]:1"]
    assert note == "in no pair: we have no IPv6 address"


def test_a_lost_peer_is_remembered_with_the_reason():
    world = connected()
    peer = only(world.client).id
    world.network.blocked = lambda source, destination: True
    world.clock.run_for(150 * SECOND)
    assert not list(world.client.role.node.connections())
    report = explained(world, world.client, peer)
    assert report.connection is None
    (lost,) = report.lost
    assert lost.established
    assert lost.reason in ("ICE disconnected", "no handshake")
    assert status_of(world, world.client).lost == (lost,)


def test_a_peer_that_said_goodbye():
    world = connected()
    world.gateway.role.shut_down(world.clock.now)
    world.gateway.pump()
    world.clock.run_for(1 * SECOND)
    (lost,) = status_of(world, world.client).lost
    assert (lost.reason, lost.established) == ("the peer said goodbye", True)


def test_a_handshake_in_progress_is_seen():
    world = World()
    world.client.send_packet(udp(ME, SERVER, 5000, 53, b"q"))
    handshaking = lambda: only(world.client).tunnel.handshake_in_progress  # noqa: E731
    assert world.clock.run_until(
        lambda: bool(list(world.client.role.node.connections())), 5 * SECOND
    )
    assert status_of(world, world.client).connections[0].state == "connecting"
    assert world.clock.run_until(handshaking, 5 * SECOND)
    (connection,) = status_of(world, world.client).connections
    assert connection.state == "handshaking"
    assert connection.handshake_for_seconds == 0
    assert connection.handshake_ago_seconds is None
    assert connection.waiting_packets == 1


def test_reports_are_json_and_come_back_equal():
    world = connected(World(client_nat=SYM))
    report = status_of(world, world.client)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Status) == report
    details = explained(world, world.client, SERVER)
    assert msgspec.json.decode(msgspec.json.encode(details), type=Explanation) == details


def test_no_report_holds_a_secret():
    world = connected()
    for peer in (world.client, world.gateway):
        c = only(peer)
        text = msgspec.json.encode(status_of(world, peer))
        text += msgspec.json.encode(explained(world, peer, c.id))
        for secret in (c.keys.local.password, c.keys.remote.password, c.keys.local.username):
            assert secret.encode() not in text
        for _, allocation in peer.role.node.transport.relays:
            assert allocation.credentials.password.encode() not in text
            assert allocation.credentials.username.encode() not in text


def test_a_path_before_ice_has_chosen_says_so():
    world = World(gateway_nat=SYM)
    world.block_direct()
    world.network.latency = world.portal.latency = 25 * MILLISECOND
    world.client.send_packet(udp(ME, SERVER, 5000, 53, b"q"))
    node = world.client.role.node
    is_preliminary = lambda: any(c.preliminary for c in node.connections())  # noqa: E731
    assert world.clock.run_until(is_preliminary, 5 * SECOND)
    report = status_of(world, world.client)
    (connection,) = report.connections
    assert connection.path is not None and connection.path.preliminary
    assert report.preliminary_paths == 1
    (verdict,) = [
        pair.verdict
        for pair in explained(world, world.client, SERVER).pairs
        if pair.verdict.startswith("in use")
    ]
    assert verdict == "in use since the handshake, until a pair is nominated"
    world.clock.run_for(5 * SECOND)
    (connection,) = status_of(world, world.client).connections
    assert connection.path is not None and not connection.path.preliminary


@pytest.mark.parametrize(
    ("slower_ms", "controlling", "verdict_of_it"),
    [
        (40, True, "works; its round trip is 40 ms longer"),
        (40, False, "works; not nominated by the peer"),
        (1, True, "works; about to be nominated"),
    ],
)
def test_a_pair_that_lost_by_its_round_trip_says_so(slower_ms, controlling, verdict_of_it):
    def report(n, round_trip, nominated):
        local, remote = (Candidate.host(Endpoint.parse(f"10.0.{n}.{m}:1")) for m in (1, 2))
        tally = Tally(sent=9, answered=9)
        trip = round_trip * MILLISECOND
        return PairReport(local, remote, CheckState.SUCCEEDED, n, trip, nominated, tally)

    chosen, other = report(1, 10, True), report(2, 10 + slower_ms, False)
    assert verdict(other, chosen, controlling, 0) == verdict_of_it
