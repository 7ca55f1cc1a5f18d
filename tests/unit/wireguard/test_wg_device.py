"""Interfaces that talk to each other on a made-up wire."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import udp
from wg_wire import DATA, INITIATION, LATENCY, RESPONSE, START, UNIX_START, Side, Wire

from firezone.commands import Direction
from firezone.durations import SECOND
from firezone.model import Endpoint, Transmit
from firezone.noise import StaticKeypair
from firezone.wireguard import DeviceChange, PeerChange, SettingsError
from firezone.wireguard.peer import STAGED_PACKETS
from firezone.wireguard.settings import NO_KEY


@pytest.fixture
def wire() -> Wire:
    made = Wire()
    made.introduce()
    return made


def test_the_first_packet_waits_for_the_handshake(wire: Wire):
    one, two = wire.sides
    packet = wire.send(one, two)
    wire.run()
    assert two.received == [packet]
    assert (wire.sent(INITIATION), wire.sent(RESPONSE)) == ([0], [LATENCY])
    answer = wire.send(two, one, b"answer")
    wire.run()
    assert one.received == [answer]
    assert len(wire.sent(INITIATION)) == 1


def test_later_packets_do_not_come_up(wire: Wire):
    one, two = wire.sides
    sent = [wire.send(one, two)]
    wire.run()
    for n in range(20):
        sent.append(wire.send(one, two, b"%d" % n))
    wire.run()
    assert two.received == sent
    assert not one.device.counters and not two.device.counters


def test_a_peer_without_endpoint_learns_it():
    wire = Wire(seed=2)
    one, two = wire.sides
    wire.configure(one, wire.peer(two, endpoint=False))
    wire.configure(two, wire.peer(one))
    wire.send(one, two)
    assert not wire.log and one.device.counters["packet for a peer without endpoint"] == 1
    (refusal,) = one.received
    assert refusal[9] == 1 and refusal[20:22] == b"\x03\x0d"
    wire.send(two, one)
    wire.run()
    assert one.peer_status.endpoint == two.endpoint
    packet = wire.send(one, two)
    wire.run()
    assert two.received[-1] == packet


def test_the_source_must_be_the_peers(wire: Wire):
    one, two = wire.sides
    wire.send(one, two)
    wire.run()
    forged = udp("10.0.0.77", "10.0.0.2", 1, 2, b"forged")
    one.send(forged, wire.now)
    wire.run(SECOND // 2)
    assert forged not in two.received
    assert two.device.counters["packet with a foreign source"] == 1
    one.send(forged, wire.now)
    wire.run(SECOND // 4)
    assert two.device.counters["packet with a foreign source"] == 1, "it stands in the table"


@pytest.mark.parametrize("offset", [0x2000, 0x2001, 0x0001], ids=["first", "middle", "last"])
def test_fragments_pass_by_their_addresses(wire: Wire, offset: int):
    one, two = wire.sides
    good = fragment("10.0.0.1", "10.0.0.2", offset)
    forged = fragment("10.0.0.77", "10.0.0.2", offset)
    for packet in (good, forged, good):
        one.send(packet, wire.now)
        wire.run(SECOND // 4)
    assert two.received == [good, good]
    assert two.device.counters["packet with a foreign source"] == 1


def fragment(source: str, destination: str, offset: int) -> bytes:
    packet = bytearray(udp(source, destination, 1, 2, b"part of something"))
    packet[6:8] = offset.to_bytes(2, "big")
    return bytes(packet)


def test_nobodys_destination_is_refused_to_the_sender(wire: Wire):
    one, _ = wire.sides
    for _ in range(3):
        wire.send(one, "10.9.9.9")
    assert len(one.received) == 1 and one.received[0][9] == 1
    one.send(udp("10.0.0.1", "224.0.0.251", 5353, 5353, b"x"), wire.now)
    assert len(one.received) == 1, "multicast is not answered"
    assert not wire.log


def test_a_network_moves_to_another_peer_at_once():
    wire = Wire(hosts=3)
    one, two, three = wire.sides
    wire.configure(one, wire.peer(two, "10.0.0.0/8"), wire.peer(three))
    for side in (two, three):
        wire.configure(side, wire.peer(one))
    packet = wire.send(one, "10.7.7.7")
    wire.run()
    assert (two.received, three.received) == ([packet], [])
    wire.configure(one, wire.peer(three, "10.7.0.0/16"))
    packet = wire.send(one, "10.7.7.7")
    wire.run()
    assert three.received == [packet]
    wire.configure(one, PeerChange(three.public, remove=True))
    packet = wire.send(one, "10.7.7.7")
    wire.run()
    assert two.received[-1] == packet
    status = one.device.status()
    assert [peer.public_key for peer in status.peers] == [two.public]


def test_an_incoming_flow_ends_when_its_network_goes(wire: Wire):
    one, two = wire.sides
    wire.send(one, two)
    wire.run()
    wire.configure(two, wire.peer(one, "10.0.0.9/32"))
    before = len(two.received)
    wire.send(one, two)
    wire.run()
    assert len(two.received) == before
    wire.configure(two, wire.peer(one))
    wire.send(one, two)
    wire.run()
    assert len(two.received) == before + 1


def test_a_handshake_moves_the_endpoint(wire: Wire):
    one, two = wire.sides
    wire.send(one, two)
    wire.run()
    one.endpoint = Endpoint.parse("198.51.100.7:4000")
    wire.run(130 * SECOND)
    wire.send(one, two)
    wire.run()
    assert two.peer_status.endpoint == one.endpoint
    packet = wire.send(two, one)
    wire.run()
    assert one.received == [packet]


def test_data_moves_the_endpoint(wire: Wire):
    one, two = wire.sides
    wire.send(one, two)
    wire.run()
    one.endpoint = Endpoint.parse("198.51.100.7:4000")
    wire.send(one, two)
    wire.run(2 * LATENCY)
    assert two.peer_status.endpoint == one.endpoint
    packet = wire.send(two, one)
    wire.run()
    assert one.received == [packet]
    assert len(wire.sent(INITIATION)) == 1


def test_nothing_unauthentic_moves_the_endpoint(wire: Wire):
    one, two = wire.sides
    wire.send(one, two)
    wire.run()
    known = two.peer_status.endpoint
    thief = Endpoint.parse("203.0.113.66:666")
    for _, _, payload in list(wire.log):
        two.device.handle_datagram(two.endpoint, thief, payload, wire.now)
        two.plane.feed_down(payload, two.endpoint, thief, wire.now)
        two.drain(wire.now)
        forged = payload[:-1] + bytes([payload[-1] ^ 1])
        two.device.handle_datagram(two.endpoint, thief, forged, wire.now)
        two.drain(wire.now)
    assert two.peer_status.endpoint == known


def test_unanswered_handshakes_are_repeated_for_ninety_seconds(wire: Wire):
    one, two = wire.sides
    wire.lost = lambda sender, payload: True
    wire.send(one, two)
    wire.run(200 * SECOND)
    times = wire.sent(INITIATION)
    assert 16 <= len(times) <= 18
    assert 80 * SECOND < times[-1] < 90 * SECOND
    wire.lost = lambda sender, payload: False
    packet = wire.send(one, two, b"anew")
    wire.run()
    assert two.received == [packet], "what waited before was given up"


def test_the_oldest_waiting_packet_goes_first(wire: Wire):
    one, two = wire.sides
    wire.lost = lambda sender, payload: True
    sent = []
    for n in range(STAGED_PACKETS + 50):
        sent.append(udp("10.0.0.1", "10.0.0.2", 1, 2, b"%d" % n))
        one.device.handle_unroutable(1, sent[-1], wire.now)
    wire.lost = lambda sender, payload: False
    wire.run(10 * SECOND)
    assert len(two.received) <= STAGED_PACKETS
    assert set(two.received) <= set(sent[-STAGED_PACKETS:])


def test_sessions_are_renewed_under_traffic(wire: Wire):
    one, two = wire.sides
    sent = []
    for n in range(400):
        sent.append(wire.send(one, two, b"%d" % n))
        wire.run()
    assert two.received == sent
    assert len(wire.sent(INITIATION)) == 4
    last = one.peer_status.last_handshake - UNIX_START
    assert 360 * SECOND < last < 390 * SECOND


def test_an_idle_interface_is_silent(wire: Wire):
    one, two = wire.sides
    wire.send(one, two)
    wire.run(20 * SECOND)
    wire.log.clear()
    wire.run(3600 * SECOND)
    assert wire.log == []
    packet = wire.send(one, two)
    wire.run()
    assert two.received[-1] == packet


@pytest.mark.parametrize("seconds", [100, 119, 121, 165, 169, 171, 179, 181, 190, 600])
@pytest.mark.parametrize("back", [False, True])
def test_traffic_after_a_pause_always_gets_through(wire: Wire, seconds: int, back: bool):
    one, two = wire.sides
    wire.send(one, two)
    wire.run(seconds * SECOND)
    source, destination = (two, one) if back else (one, two)
    for n in range(30):
        packet = wire.send(source, destination, b"%d" % n)
        wire.run()
        assert destination.received[-1] == packet
    assert len(wire.sent(INITIATION)) <= 2


def test_persistent_keepalive(wire: Wire):
    one, two = wire.sides
    wire.configure(one, wire.peer(two, persistent_keepalive=25))
    wire.run(101 * SECOND)
    assert wire.sent(INITIATION) == [0], "it begins at once"
    assert [at // SECOND for at in wire.sent(DATA, one)] == [0, 25, 50, 75, 100]
    wire.configure(one, wire.peer(two, persistent_keepalive=0))
    count = len(wire.sent(DATA))
    wire.run(60 * SECOND)
    assert len(wire.sent(DATA)) == count


def test_persistent_keepalive_outlives_a_peer_that_is_away(wire: Wire):
    one, two = wire.sides
    wire.lost = lambda sender, payload: True
    wire.configure(one, wire.peer(two, persistent_keepalive=25))
    wire.run(300 * SECOND)
    wire.lost = lambda sender, payload: False
    wire.run(40 * SECOND)
    assert two.peer_status.endpoint == one.endpoint and one.peer_status.last_handshake


def test_a_preshared_key_must_be_the_same():
    wire = Wire()
    one, two = wire.sides
    wire.configure(one, wire.peer(two, preshared_key=b"p" * 32))
    wire.configure(two, wire.peer(one))
    wire.send(one, two)
    wire.run()
    assert two.received == []
    wire.configure(two, PeerChange(one.public, preshared_key=b"p" * 32))
    wire.run(6 * SECOND)
    assert len(two.received) == 1
    assert two.peer_status.preshared_key == b"p" * 32


def test_another_preshared_key_keeps_the_session(wire: Wire):
    one, two = wire.sides
    wire.send(one, two)
    wire.run()
    for side, other in ((one, two), (two, one)):
        wire.configure(side, PeerChange(other.public, preshared_key=b"q" * 32))
    wire.send(one, two)
    wire.run()
    assert len(two.received) == 2 and len(wire.sent(INITIATION)) == 1


def test_another_private_key_ends_the_sessions(wire: Wire):
    one, two = wire.sides
    wire.send(one, two)
    wire.run()
    change = b"\x07" * 32
    wire.configure(one, private_key=change)
    one.renew_plane(StaticKeypair.from_private(change).public)
    one.device.replay(wire.now)
    one.drain(wire.now)
    one.public = StaticKeypair.from_private(change).public
    wire.send(one, two)
    wire.run()
    assert len(two.received) == 1, "it does not know that key"
    assert two.device.counters["handshake of nobody"]
    wire.configure(two, wire.peer(one), replace_peers=True)
    wire.run(6 * SECOND)
    assert len(two.received) == 2


def test_without_a_private_key_nothing_goes(wire: Wire):
    one, two = wire.sides
    wire.configure(one, private_key=NO_KEY)
    assert one.device.public_key is None and one.device.status().private_key is None
    wire.send(one, two)
    wire.send(two, one)
    wire.run()
    assert (one.received, two.received) == ([], [])
    assert one.device.counters["no private key"]


def test_our_own_key_is_no_peer():
    wire = Wire()
    one, two = wire.sides
    wire.configure(one, PeerChange(one.public), wire.peer(two))
    assert one.peer_status.public_key == two.public
    wire.configure(one, private_key=two.private)
    assert one.device.status().peers == ()


def test_update_only_makes_no_peer():
    wire = Wire()
    one, two = wire.sides
    wire.configure(one, PeerChange(two.public, update_only=True, persistent_keepalive=5))
    assert one.device.status().peers == ()


def test_a_bad_key_changes_nothing(wire: Wire):
    one, two = wire.sides
    before = one.device.status()
    change = DeviceChange(
        private_key=b"\x09" * 32,
        replace_peers=True,
        peers=(PeerChange(two.public, persistent_keepalive=9), PeerChange(bytes(32))),
    )
    with pytest.raises(SettingsError):
        one.device.configure(change, wire.now)
    assert one.device.status() == before


def test_more_peers_than_slots_are_refused(wire: Wire, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("firezone.wireguard.device.MAX_PEERS", 3)
    one, _ = wire.sides
    others = [PeerChange(bytes([n]) * 32) for n in range(3, 6)]
    with pytest.raises(SettingsError):
        one.configure(wire.now, *others)
    assert len(one.device.status().peers) == 1
    one.configure(wire.now, *others, replace_peers=True)
    assert len(one.device.status().peers) == 3


def test_slots_are_used_again():
    wire = Wire()
    one, two = wire.sides
    for _ in range(300):
        wire.configure(one, wire.peer(two), replace_peers=True)
    wire.configure(two, wire.peer(one))
    wire.send(one, two)
    wire.run()
    assert len(two.received) == 1


def test_a_flood_is_answered_with_cookies_and_the_peer_gets_through(wire: Wire):
    one, two = wire.sides
    stranger = Side(9, random.Random(9).randbytes)
    stranger.configure(START, PeerChange(two.public, endpoint=two.endpoint))
    flood = []
    for n in range(150):
        stranger.device.handle_unroutable(1, udp("10.0.0.9", "10.0.0.2", 1, n, b""), START)
        stranger.device.configure(DeviceChange(private_key=bytes([n + 1]) * 32), START)
        while (transmit := stranger.device.poll_transmit()) is not None:
            flood.append(transmit.payload)
    assert len(flood) == 150
    source = Endpoint.parse("203.0.113.1:1")
    for message in flood:
        two.device.handle_datagram(two.endpoint, source, message, wire.now)
    assert two.device.counters["under_load"] == 50
    two.drain(wire.now)
    two.out.clear()
    wire.send(one, two)
    wire.run(7 * SECOND)
    assert len(two.received) == 1


def test_the_local_address_is_given_up_when_nobody_answers(wire: Wire):
    one, two = wire.sides
    wire.send(two, one)
    wire.run(200 * SECOND)
    wire.lost = lambda sender, payload: True
    wire.log.clear()
    wire.sources.clear()
    wire.send(one, two)
    wire.run(12 * SECOND)
    assert wire.sources == [one.endpoint, None, None]
    assert one.peer_status.endpoint == two.endpoint


def test_the_local_address_is_given_up_when_the_host_cannot_send(wire: Wire):
    one, two = wire.sides
    wire.send(two, one)
    wire.run()
    one.device.handle_send_failed(Transmit(b"again", two.endpoint, one.endpoint))
    assert one.device.poll_transmit() == Transmit(b"again", two.endpoint, None)
    one.drain(wire.now)
    wire.send(one, two)
    assert wire.sources[-1] is None
    one.device.handle_send_failed(Transmit(b"again", two.endpoint, None))
    assert one.device.poll_transmit() is None


def test_status_shows_what_was_set(wire: Wire):
    one, two = wire.sides
    wire.configure(one, wire.peer(two, persistent_keepalive=25), fwmark=7, listen_port=1234)
    status = one.device.status()
    assert (status.private_key, status.listen_port, status.fwmark) == (one.private, 1234, 7)
    peer = one.peer_status
    assert (peer.persistent_keepalive, peer.endpoint) == (25, two.endpoint)
    wire.run()
    assert one.peer_status.traffic.sent == 32


@given(st.binary(max_size=200))
def test_any_datagram_is_counted_and_dropped(payload):
    wire = Wire()
    side = wire.sides[0]
    side.device.handle_datagram(side.endpoint, side.endpoint, payload, START)
    assert side.device.counters.total() == 1 and not side.out


@settings(max_examples=30)
@given(st.data())
def test_mutated_handshakes_are_dropped(data):
    wire = Wire()
    wire.introduce()
    one, two = wire.sides
    wire.send(one, two)
    wire.run()
    for _, _, payload in wire.log:
        at = data.draw(st.integers(0, len(payload) - 1))
        mutated = bytearray(payload)
        mutated[at] ^= data.draw(st.integers(1, 255))
        for side in wire.sides:
            for message in (bytes(mutated), payload[:at]):
                side.device.handle_datagram(side.endpoint, one.endpoint, message, wire.now)
    wire.run()


@given(packet=st.binary(max_size=60), down=st.booleans(), slot=st.integers(0, 3))
def test_any_packet_is_decided(packet, down, slot):
    wire = Wire()
    wire.introduce()
    side = wire.sides[0]
    side.device.handle_flow_missed(Direction(down), slot, packet, START)
    side.device.handle_unroutable(slot, packet, START)
