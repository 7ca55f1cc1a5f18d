"""The programs of the simulation: a client or gateway with its data plane, and a relay."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from firezone import commands
from firezone.dataplane import SingleThreaded
from firezone.model import Endpoint, Entropy, IPAddress, RelayId, Transmit
from firezone.node import StreamKind, StreamUnwanted, StreamWanted
from firezone.roles import ConfigureTun, Progress, Rebind, ReconnectPortal, Role, TellPortal
from firezone.sim.clock import Clock
from firezone.sim.network import Host
from firezone.turn.relay import Relay
from firezone.turn.relay_commands import CloseSocket, OpenSocket, SendToPeer

PORT = 52625
RELAY_PORT = 3478


class Peer:
    """A role and its data plane on a host. `tun` collects what the TUN device would get."""

    def __init__(self, clock: Clock, host: Host, role: type[Role], entropy: Entropy) -> None:
        self.clock = clock
        self.host = host
        self.port = PORT
        self.tun: list[bytes] = []
        self.interface: ConfigureTun | None = None
        self.progress: list[Progress] = []
        self.tell_portal: Callable[[str, Any], None] = lambda event, payload: None
        self.reconnect_portal: Callable[[], None] = lambda: None
        self.streams = False
        """Whether relays can be reached by TCP."""
        self._streams: dict[RelayId, Endpoint] = {}
        self._entropy = entropy
        self._armed: int | None = None
        self._is_dead = False
        host.handler = self._handle_datagram
        self.role = role(
            entropy=entropy,
            activity=lambda slot: self.dataplane.activity(slot),
            channel_received_at=lambda relay, n: self.dataplane.channel_received_at(relay, n),
            unix_now=clock.unix_now,
            now=clock.now,
        )
        self.dataplane = self._make_dataplane()

    def send_packet(self, packet: bytes) -> None:
        """A packet from the TUN device."""
        self.dataplane.feed_up(packet, self.clock.now)
        self.pump()

    def handle_message(self, message: Any) -> None:
        """A message of the portal."""
        self.role.handle_message(message, self.clock.now)
        self.pump()

    def find_host_addresses(self) -> None:
        """Look at the interfaces, as the programs do from the start and after each change."""
        self._tell_host_addresses()
        self.pump()

    def kill(self) -> None:
        """End without a word: nothing is sent any more, nor taken in."""
        self._is_dead, self._armed = True, None
        self.host.handler = None

    def events(self, name: str) -> list[Progress]:
        """What the role reported under that name."""
        return [p for p in self.progress if p.event == name]

    def pump(self) -> None:
        """Carry out all that role and data plane want, then wait for the next deadline."""
        busy = not self._is_dead
        while busy:
            busy = self._pump_dataplane() | self._pump_role()
        timeout = None if self._is_dead else self.role.poll_timeout()
        if timeout is not None and timeout.deadline != self._armed:
            self._armed = timeout.deadline
            self.clock.at(timeout.deadline, lambda: self._handle_timeout(timeout.deadline))

    def _handle_timeout(self, deadline: int) -> None:
        if self._armed != deadline:
            return
        self._armed = None
        self.role.handle_timeout(self.clock.now)
        self.pump()

    def _handle_datagram(self, local: Endpoint, source: Endpoint, payload: bytes) -> None:
        self.dataplane.feed_down(payload, local, source, self.clock.now)
        self.pump()

    def _pump_dataplane(self) -> bool:
        busy, now = False, self.clock.now
        while (event := self.dataplane.poll_event()) is not None:
            busy = True
            match event:
                case commands.DatagramReceived(local, source, payload):
                    self.role.handle_datagram(local, source, payload, now)
                case commands.FlowMissed(direction, slot, packet):
                    self.role.handle_flow_missed(direction, slot, packet, now)
                case commands.PacketUnroutable(slot, packet):
                    self.role.handle_unroutable(slot, packet, now)
                case commands.SessionConfirmed(slot, index):
                    self.role.handle_session_confirmed(slot, index, now)
        while (transmit := self.dataplane.take_udp()) is not None:
            self.host.send(transmit, self.port)
        while (delivered := self.dataplane.take_tun()) is not None:
            self.tun.append(delivered)
        return busy

    def _pump_role(self) -> bool:
        busy = False
        while (command := self.role.poll_command()) is not None:
            busy = True
            self.dataplane.apply(command, self.clock.now)
        while (transmit := self.role.poll_transmit()) is not None:
            busy = True
            self.host.send(transmit, self.port)
        while (event := self.role.poll_event()) is not None:
            busy = True
            self._handle_event(event)
        return busy

    def _handle_event(self, event: object) -> None:
        match event:
            case TellPortal(name, payload):
                self.tell_portal(name, payload)
            case ConfigureTun():
                self.interface = event
            case Progress():
                self.progress.append(event)
            case ReconnectPortal():
                self.reconnect_portal()
            case Rebind():
                self.port += 1
                self.dataplane = self._make_dataplane()
                self._tell_host_addresses()
            case StreamWanted():
                self.clock.at(self.clock.now + 2 * self.host.network.latency, self._answer(event))
            case StreamUnwanted(relay):
                self.cut_stream(relay)

    def _tell_host_addresses(self) -> None:
        found = [Endpoint(a, self.port) for a in (*self.host.addresses.values(), *self.host.more)]
        self.role.set_host_addresses(found, self.clock.now)

    def cut_stream(self, relay: RelayId) -> bool:
        """Whether there was one."""
        near = self._streams.pop(relay, None)
        if near is not None:
            self.host.network.close_stream(near)
        return near is not None

    def _answer(self, wanted: StreamWanted) -> Callable[[], None]:
        def answer() -> None:
            if self.streams and wanted.kind is StreamKind.TCP:
                near = self.host.network.open_stream(self.host, wanted.servers[0])
                self._streams[wanted.relay] = near
                self.role.handle_stream_opened(wanted.relay, near, self.clock.now)
            else:
                self.role.handle_stream_closed(wanted.relay, self.clock.now)
            self.pump()

        return answer

    def _make_dataplane(self) -> SingleThreaded:
        node = self.role.node
        return SingleThreaded(
            own_public_key=node.public_key,
            cookie_secret=node.cookie_secret,
            entropy=self._entropy,
        )


class RelayHost:
    """A relay on a host with public addresses."""

    def __init__(self, clock: Clock, host: Host, relay_id: RelayId, entropy: Entropy) -> None:
        self.clock = clock
        self.host = host
        self.id = relay_id
        self._entropy = entropy
        self._armed: int | None = None
        self.restart()
        host.handler = self._handle_datagram

    def restart(self) -> None:
        """Lose everything: allocations, and the secret that credentials are made with."""
        v4, v6 = self.host.addresses.get(4), self.host.addresses.get(6)
        assert v4 is None or isinstance(v4, IPv4Address)
        assert v6 is None or isinstance(v6, IPv6Address)
        self.secret = self._entropy(32).hex()
        self.machine = Relay(
            public_ipv4=v4,
            public_ipv6=v6,
            auth_secret=self.secret,
            entropy=self._entropy,
            unix_now=self.clock.unix_now,
            now=self.clock.now,
        )

    def address(self, family: int) -> IPAddress | None:
        return self.host.addresses.get(family)

    def _handle_datagram(self, local: Endpoint, source: Endpoint, payload: bytes) -> None:
        if local.port == RELAY_PORT:
            self.machine.handle_client_datagram(local, source, payload, self.clock.now)
        else:
            self.machine.handle_peer_datagram(local.port, source, payload, self.clock.now)
        self._pump()

    def _pump(self) -> None:
        while (command := self.machine.poll_command()) is not None:
            match command:
                case Transmit():
                    self.host.send(command, RELAY_PORT)
                case SendToPeer(port, peer, payload):
                    self.host.send(Transmit(bytes(payload), peer), port)
                case OpenSocket(port, family):
                    self.machine.handle_socket_opened(port, family, True, self.clock.now)
                case CloseSocket():
                    pass
        timeout = self.machine.poll_timeout()
        if timeout is not None and timeout.deadline != self._armed:
            self._armed = timeout.deadline
            self.clock.at(timeout.deadline, lambda: self._handle_timeout(timeout.deadline))

    def _handle_timeout(self, deadline: int) -> None:
        if self._armed == deadline:
            self._armed = None
            self.machine.handle_timeout(self.clock.now)
            self._pump()
