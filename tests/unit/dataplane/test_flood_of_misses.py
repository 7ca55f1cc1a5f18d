"""What a flood of packets without a flow leaves to the others, in virtual time."""

from collections import Counter
from ipaddress import ip_address

import pytest
from packets import udp

from firezone.commands import (
    NOBODY,
    Action,
    AddPeer,
    Direction,
    FlowKey,
    FlowMissed,
    InstallFlow,
    InstallKeypair,
    Path,
    Reinject,
    SealPacket,
    SetPath,
)
from firezone.dataplane import SingleThreaded
from firezone.durations import MICROSECOND, MILLISECOND, SECOND
from firezone.model import Endpoint

FOREVER = 1 << 62
HERE = Endpoint.of("192.0.2.1", 1)
DECISION = 100 * MICROSECOND
"""What one costs the control layer, on the slow side."""


class Peer:
    """Seals packets of ever new flows for the gateway."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.address = f"100.64.0.{slot}"
        self.endpoint = Endpoint.of(f"198.51.100.{slot}", 1)
        self.flows = 0
        self._plane = SingleThreaded(own_public_key=bytes(32), entropy=bytes)
        self._plane.apply(AddPeer(1, slot), 0)
        self._plane.apply(keypair(1, slot, initiator=True), 0)
        self._plane.apply(SetPath(1, Path(HERE)), 0)

    def packet_of_a_new_flow(self) -> bytes:
        self.flows += 1
        return udp(self.address, "10.0.0.1", self.flows % 60000 + 1, self.flows // 60000)

    def sealed(self, packet: bytes) -> bytes:
        self._plane.apply(SealPacket(1, packet), 1)
        transmit = self._plane.take_udp()
        assert transmit is not None
        return transmit.payload


class Gateway:
    """A data plane, and a control layer that needs its time for each decision."""

    def __init__(self, peers: int) -> None:
        self.now = 1 * SECOND
        self.decided: Counter[int] = Counter()
        self.delivered: list[bytes] = []
        self.peers = {slot: Peer(slot) for slot in range(1, peers + 1)}
        self._plane = SingleThreaded(own_public_key=bytes(32), entropy=bytes, flow_capacity=1 << 21)
        self._busy_until = 0
        for peer in self.peers.values():
            self._plane.apply(AddPeer(peer.slot, peer.slot), 0)
            self._plane.apply(keypair(peer.slot, peer.slot, initiator=False), 0)
            self._plane.apply(SetPath(peer.slot, Path(peer.endpoint)), 0)

    def receive(self, slot: int, packet: bytes) -> None:
        peer = self.peers[slot]
        self._plane.feed_down(peer.sealed(packet), HERE, peer.endpoint, self.now)
        self._collect()

    def flood(self, slots: range, each: int = 1) -> None:
        for slot in slots:
            for _ in range(each):
                self.receive(slot, self.peers[slot].packet_of_a_new_flow())

    def run_until(self, until: int) -> None:
        """Decide what waits, one after the other."""
        while max(self.now, self._busy_until) + DECISION <= until:
            event = self._plane.poll_event()
            if event is None:
                break
            if isinstance(event, FlowMissed):
                self._busy_until = max(self.now, self._busy_until) + DECISION
                self.decided[event.slot] += 1
                self._decide(event, self._busy_until)
        self.now = until

    def over_budget(self) -> int:
        return self._plane.counters()["over_budget"]

    def _decide(self, event: FlowMissed, now: int) -> None:
        source, port = event.packet[12:16], int.from_bytes(event.packet[20:22], "big")
        destination = ip_address(event.packet[16:20])
        other_port = int.from_bytes(event.packet[22:24], "big")
        key = FlowKey(
            event.direction, event.slot, 17, ip_address(source), destination, port, other_port
        )
        slot = event.slot
        self._plane.apply(InstallFlow(key, Action.FORWARD, slot, slot, 0, 120 * SECOND), now)
        self._plane.apply(Reinject(event.direction, slot, event.packet), now)
        self._collect()

    def _collect(self) -> None:
        while (packet := self._plane.take_tun()) is not None:
            self.delivered.append(packet)


def test_a_flood_of_one_peer_costs_another_nothing() -> None:
    """50,000 new flows a second, five times what the control layer can decide at all."""
    gateway = Gateway(2)
    established, late = gateway.peers[2].packet_of_a_new_flow(), []
    gateway.receive(2, established)
    gateway.run_until(gateway.now + MILLISECOND)
    gateway.delivered.clear()
    for _ in range(200):
        gateway.flood(range(1, 2), each=50)
        gateway.receive(2, established)
        assert gateway.delivered.pop() == established, "what has a flow does not wait"
        new, asked = gateway.peers[2].packet_of_a_new_flow(), gateway.now
        gateway.receive(2, new)
        while new not in gateway.delivered:
            gateway.run_until(gateway.now + DECISION)
        late.append(gateway.now - asked)
        gateway.delivered.clear()
        gateway.run_until(asked + max(MILLISECOND, late[-1]))
    assert max(late) <= (32 + 2) * DECISION
    assert gateway.over_budget() > 0


def test_a_peer_gets_a_burst_and_then_a_rate() -> None:
    gateway = Gateway(1)
    start = gateway.now
    while gateway.now < start + SECOND:
        gateway.flood(range(1, 2), each=5)
        gateway.run_until(gateway.now + MILLISECOND)
    assert gateway.decided[1] == pytest.approx(256 + 2000, rel=0.02)
    assert gateway.over_budget() == gateway.peers[1].flows - gateway.decided[1]
    gateway.run_until(gateway.now + SECOND)
    before = gateway.decided[1]
    for _ in range(20):
        gateway.flood(range(1, 2), each=30)
        gateway.run_until(gateway.now + 4 * MILLISECOND)
    again = gateway.decided[1] - before
    assert again == pytest.approx(256 + 80 * 2, abs=10), "there is a burst again"


def test_the_first_of_a_peer_finds_room_when_many_flood() -> None:
    gateway = Gateway(20)
    for _ in range(20):
        gateway.flood(range(1, 20), each=20)
        new, asked = gateway.peers[20].packet_of_a_new_flow(), gateway.now
        gateway.receive(20, new)
        while new not in gateway.delivered:
            gateway.run_until(gateway.now + MILLISECOND)
        assert gateway.now - asked <= 400 * DECISION
    assert gateway.over_budget() > 0


def test_the_host_itself_has_a_larger_share_with_a_bound() -> None:
    plane = SingleThreaded(own_public_key=bytes(32), entropy=bytes)
    missed = 0
    for step in range(500):
        now = SECOND + step * MILLISECOND
        for port in range(20):
            plane.feed_up(udp("10.0.0.1", "10.0.0.2", port + 1, step + 1), now)
        while (event := plane.poll_event()) is not None:
            assert isinstance(event, FlowMissed) and event.slot == NOBODY
            assert event.direction is Direction.UP
            missed += 1
    assert missed == pytest.approx(256 + 8000 // 2, rel=0.02)


def keypair(slot: int, index: int, initiator: bool) -> InstallKeypair:
    keys = [bytes([role, index]) * 16 for role in (1, 2)]
    send, receive = keys if initiator else reversed(keys)
    return InstallKeypair(
        slot, index << 8, index << 8, send, receive, initiator, 1, FOREVER, FOREVER
    )
