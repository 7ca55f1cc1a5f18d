from packets import tcp, udp

from firezone.durations import SECOND
from firezone.model import ResourceId
from firezone.policy import PendingFlows, UniquePackets

A, B = "100.64.0.2", "10.0.0.1"
RESOURCE = ResourceId("r")


def test_an_intent_is_repeated_by_traffic_after_two_seconds():
    flows = PendingFlows()
    assert flows.wait(RESOURCE, b"1", 0)
    assert not flows.wait(RESOURCE, b"2", 2 * SECOND - 1)
    assert flows.wait(RESOURCE, b"3", 2 * SECOND)
    assert not flows.wait(RESOURCE, b"4", 3 * SECOND)
    flow = flows.take(RESOURCE)
    assert flow is not None
    assert list(flow.packets.drain()) == [b"1", b"2", b"3", b"4"]
    assert RESOURCE not in flows


def test_a_full_ring_loses_its_oldest():
    packets = UniquePackets(2)
    for packet in (b"1", b"2", b"3"):
        packets.push(packet)
    assert list(packets.drain()) == [b"2", b"3"]


def test_identical_packets_wait_once():
    packets = UniquePackets()
    packets.push(udp(A, B, 1, 2, b"x"))
    packets.push(udp(A, B, 1, 2, b"x"))
    assert len(packets) == 1


def test_a_retransmitted_syn_replaces_the_one_that_waits():
    packets = UniquePackets()
    old = tcp(A, B, 1, 80, options=bytes([8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1]))
    new = tcp(A, B, 1, 80, options=bytes([8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 1]))
    other = tcp(A, B, 1, 80, sequence=2)
    for packet in (old, other, new):
        packets.push(packet)
    assert list(packets.drain()) == [new, other]


def test_other_segments_of_a_connection_all_wait():
    packets = UniquePackets()
    packets.push(tcp(A, B, 1, 80, flags=0x10, data=b"a"))
    packets.push(tcp(A, B, 1, 80, flags=0x10, data=b"b"))
    assert len(packets) == 2


def test_waiting_packets_can_be_taken_while_the_intent_stays():
    flows = PendingFlows()
    flows.wait(RESOURCE, b"1", 0)
    assert list(flows.waiting(RESOURCE)) == [b"1"]
    assert not flows.wait(RESOURCE, b"2", 1)
    assert list(flows.waiting(ResourceId("unknown"))) == []
