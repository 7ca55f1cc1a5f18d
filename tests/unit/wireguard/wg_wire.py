"""Interfaces without I/O on one wire with latency, their real kernels, and a clock that jumps."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from itertools import count

from packets import udp

from firezone import commands
from firezone.dataplane import SingleThreaded
from firezone.durations import MILLISECOND, SECOND
from firezone.model import Endpoint, Transmit
from firezone.noise import MessageType, StaticKeypair, message_type
from firezone.wireguard import AllowedIP, Device, DeviceChange, PeerChange

START = 1000 * SECOND
UNIX_START = 1_754_266_828 * SECOND
LATENCY = 10 * MILLISECOND

INITIATION = MessageType.HANDSHAKE_INITIATION
RESPONSE = MessageType.HANDSHAKE_RESPONSE
DATA = MessageType.TRANSPORT_DATA


class Side:
    """One host: an interface at `endpoint`, its inner address being 10.0.0.`number`."""

    def __init__(self, number: int, entropy: Callable[[int], bytes]) -> None:
        self.number = number
        self.private = entropy(32)
        self.public = StaticKeypair.from_private(self.private).public
        self.endpoint = Endpoint.parse(f"192.0.2.{number}:51820")
        self.received: list[bytes] = []
        self.out: list[Transmit] = []
        self.device = Device(
            entropy=entropy,
            activity=lambda slot: self.plane.activity(slot),
            traffic=lambda slot: self.plane.traffic(slot),
            unix_now=UNIX_START,
            now=START,
        )
        self._entropy = entropy
        self.renew_plane(self.public)
        self.device.configure(DeviceChange(private_key=self.private, listen_port=51820), START)

    def renew_plane(self, public_key: bytes) -> None:
        self.plane = SingleThreaded(
            own_public_key=public_key,
            entropy=self._entropy,
            mtu=1500,
            pass_fragments=True,
            takes_stun=False,
        )

    def configure(self, now: int, *peers: PeerChange, **settings: object) -> None:
        self.device.configure(DeviceChange(peers=peers, **settings), now)  # type: ignore[arg-type]
        self.drain(now)

    def send(self, packet: bytes, now: int) -> None:
        """From an application of this host."""
        self.plane.feed_up(packet, now)
        self.drain(now)

    def receive(self, transmit: Transmit, source: Endpoint, now: int) -> None:
        self.plane.feed_down(transmit.payload, transmit.destination, source, now)
        self.drain(now)

    def handle_timeout(self, now: int) -> None:
        self.note_moves(now)
        self.device.handle_timeout(now)
        self.drain(now)

    def note_moves(self, now: int) -> None:
        for move in self.plane.moved():
            self.device.handle_roamed(move.slot, move.local, move.remote, now)

    def drain(self, now: int) -> None:
        self.note_moves(now)
        self._carry_out(now)
        while (event := self.plane.poll_event()) is not None:
            self._handle(event, now)
            self._carry_out(now)
        while (packet := self.plane.take_tun()) is not None:
            self.received.append(packet)
        while (transmit := self.plane.take_udp()) is not None:
            self.out.append(transmit)

    def _handle(self, event: commands.DataplaneEvent, now: int) -> None:
        match event:
            case commands.DatagramReceived(local, source, payload):
                self.device.handle_datagram(local, source, payload, now)
            case commands.FlowMissed(direction, slot, packet):
                self.device.handle_flow_missed(direction, slot, packet, now)
            case commands.PacketUnroutable(slot, packet):
                self.device.handle_unroutable(slot, packet, now)
            case commands.SessionConfirmed(slot, local_index):
                self.device.handle_session_confirmed(slot, local_index, now)

    def _carry_out(self, now: int) -> None:
        while (command := self.device.poll_command()) is not None:
            self.plane.apply(command, now)
        while (transmit := self.device.poll_transmit()) is not None:
            self.out.append(transmit)

    @property
    def peer_status(self):
        (status,) = self.device.status().peers
        return status


class Wire:
    """Hosts 1 to `hosts`. `lost` decides which datagrams vanish; `log` has what was sent."""

    def __init__(self, hosts: int = 2, seed: int = 1) -> None:
        self.now = START
        entropy = random.Random(seed).randbytes
        self.sides = [Side(number, entropy) for number in range(1, hosts + 1)]
        self.lost: Callable[[Side, bytes], bool] = lambda sender, payload: False
        self.log: list[tuple[int, int, bytes]] = []
        self.sources: list[Endpoint | None] = []
        """Of what stands in `log`: the local address that it was to be sent from."""
        self._flying: list[tuple[int, int, Endpoint, Transmit]] = []
        self._order = count()

    def peer(self, of: Side, *allowed: str, endpoint: bool = True, **settings) -> PeerChange:
        """`of` as a peer of somebody; by default it may use its own address."""
        networks = allowed or (f"10.0.0.{of.number}/32",)
        return PeerChange(
            of.public,
            endpoint=of.endpoint if endpoint else None,
            replace_allowed_ips=True,
            allowed_ips=tuple(AllowedIP(ip_network(text)) for text in networks),
            **settings,
        )

    def configure(self, side: Side, *peers: PeerChange, **settings: object) -> None:
        side.configure(self.now, *peers, **settings)
        self.flush()

    def introduce(self) -> None:
        """Everybody knows everybody."""
        for side in self.sides:
            peers = [self.peer(other) for other in self.sides if other is not side]
            self.configure(side, *peers)

    def send(self, source: Side, destination: Side | str, payload: bytes = b"data") -> bytes:
        to = destination if isinstance(destination, str) else f"10.0.0.{destination.number}"
        packet = udp(f"10.0.0.{source.number}", to, 1000, 2000, payload)
        source.send(packet, self.now)
        self.flush()
        return packet

    def flush(self) -> None:
        for side in self.sides:
            for transmit in side.out:
                self.log.append((self.now - START, side.number, transmit.payload))
                self.sources.append(transmit.source)
                if not self.lost(side, transmit.payload):
                    transmit = replace(transmit, source=side.endpoint)
                    arrival = (self.now + LATENCY, next(self._order), side.endpoint, transmit)
                    heapq.heappush(self._flying, arrival)
            side.out.clear()

    def run(self, duration: int = SECOND) -> None:
        """Let time pass, jumping from one thing due to the next."""
        until = self.now + duration
        self.flush()
        for _ in range(20_000):
            due = [t.deadline for side in self.sides if (t := side.device.poll_timeout())]
            if self._flying:
                due.append(self._flying[0][0])
            self.now = max(self.now, min(due, default=until))
            if self.now >= until:
                self.now = until
                return
            self._step()
            self.flush()
        raise AssertionError("a timer spins")

    def _step(self) -> None:
        while self._flying and self._flying[0][0] <= self.now:
            _, _, source, transmit = heapq.heappop(self._flying)
            for side in self.sides:
                if side.endpoint == transmit.destination:
                    side.receive(transmit, source, self.now)
        for side in self.sides:
            timeout = side.device.poll_timeout()
            if timeout is not None and timeout.deadline <= self.now:
                side.handle_timeout(self.now)

    def sent(self, kind: MessageType, by: Side | None = None) -> list[int]:
        """When messages of a type were sent, since the start."""
        return [
            at
            for at, number, payload in self.log
            if message_type(payload) is kind and (by is None or by.number == number)
        ]
