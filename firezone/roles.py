"""What client and gateway have in common.

Both join a node with the portal's messages and a policy. The node's part of that is here; what a
packet without a flow means, and what the portal says, is the role's own.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from itertools import groupby
from typing import Any, ClassVar, NotRequired, TypedDict, Unpack

from firezone.commands import Command, Direction
from firezone.durations import MINUTE, SECOND
from firezone.errors import RemoteError
from firezone.ice import Candidate
from firezone.model import Endpoint, Entropy, Interface, IPAddress, RelayId, Timeout, Transmit
from firezone.nat64 import Prefix
from firezone.node import (
    ActivityOf,
    CandidateGathered,
    CandidateWithdrawn,
    ChannelReceivedAt,
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionEvent,
    ConnectionFailed,
    Node,
    NoRelaysError,
    NoSlotError,
    PathChosen,
    PeerKeys,
    Relay,
    StreamEvent,
    StreamUnwanted,
    StreamWanted,
)
from firezone.phoenix import messages
from firezone.policy import ControlKind, IPNetwork, control_packet
from firezone.turn import RelayServer

RECONNECT_PAUSE = 10 * SECOND
MAX_RECONNECT_PAUSE = 2 * MINUTE
"""Between two new connections to the portal for want of a relay; the pause doubles."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TellPortal:
    """Send this to the portal."""

    event: str
    payload: object = field(repr=False)


@dataclass(frozen=True, slots=True)
class ConfigureTun:
    """The TUN device has these addresses, and these networks lie behind it."""

    ipv4: IPv4Address
    ipv6: IPv6Address
    routes: frozenset[IPNetwork]


@dataclass(frozen=True, slots=True)
class Progress:
    """Something a person who watches the program wants to see."""

    event: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReconnectPortal:
    """Connect to the portal anew: it has to tell us everything again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rebind:
    """Move to fresh sockets: everything that knew the old ports is gone."""


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What a role knows of a peer beyond its connection: tunnel addresses and resources' names."""

    addresses: frozenset[IPAddress] = frozenset()
    resources: tuple[str, ...] = ()


RoleEvent = TellPortal | ConfigureTun | Progress | ReconnectPortal | Rebind | StreamEvent


class RoleArguments(TypedDict):
    """What a role is made with.

    `activity` and `channel_received_at` read the data plane; `workers` is how many that distributes
    peers among. `unix_now` is the wall clock in nanoseconds at `now`; later it is that, advanced by
    `now`, until `handle_wall_clock`.
    """

    entropy: Entropy
    activity: ActivityOf
    channel_received_at: ChannelReceivedAt
    workers: NotRequired[int]
    unix_now: int
    now: int


class Role(ABC):
    """A client or a gateway. Poll all outputs after each input."""

    peer: ClassVar[str]
    """What is at the other end of a connection, as progress names it."""

    def __init__(self, **arguments: Unpack[RoleArguments]) -> None:
        self.node = Node(controlling=self.peer == "gateway", **arguments)
        self.counters: Counter[str] = Counter()
        self._interface: Interface | None = None
        self._tun: ConfigureTun | None = None
        self._commands: deque[Command] = deque()
        self._events: deque[RoleEvent] = deque()
        self._may_reconnect_at: int | None = None
        self._reconnect_pause = RECONNECT_PAUSE

    # For whoever looks on.

    @abstractmethod
    def peer_facts(self, peer: str) -> PeerFacts:
        """Of a peer that is unknown: nothing."""

    @abstractmethod
    def peer_at(self, address: IPAddress) -> str | None:
        """The peer that packets for this address go to now, None if to nobody."""

    @abstractmethod
    def why_nobody(self, address: IPAddress) -> str:
        """Why packets for this address go to nobody now."""

    # Inputs.

    @abstractmethod
    def handle_message(self, message: Any, now: int) -> None:
        """A message of the portal, on the role's topic."""

    @abstractmethod
    def handle_flow_missed(self, direction: Direction, slot: int, packet: bytes, now: int) -> None:
        """A packet whose flow is not decided: from the TUN (UP) or from a peer (DOWN)."""

    def handle_datagram(self, local: Endpoint, source: Endpoint, payload: bytes, now: int) -> None:
        """A datagram that the data plane did not deal with itself."""
        self.node.handle_datagram(local, source, payload, now)
        self._drain_node()

    def handle_unroutable(self, slot: int, packet: bytes, now: int) -> None:
        """A packet for a peer without a usable session or path."""
        self.node.handle_unroutable(slot, packet, now)
        self._drain_node()

    def handle_session_confirmed(self, slot: int, local_index: int, now: int) -> None:
        """The first packet under a keypair of ours as responder came in."""
        self.node.handle_session_confirmed(slot, local_index, now)
        self._drain_node()

    def handle_wall_clock(self, unix_now: int, now: int) -> None:
        """The wall clock was read: people and NTP set it, so it does not just advance by `now`."""
        self.node.handle_wall_clock(unix_now, now)

    def handle_stream_opened(self, relay: RelayId, local: Endpoint, now: int) -> None:
        """A stream that was wanted stands; datagrams for `local` of this host go over it."""
        self.node.handle_stream_opened(relay, local, now)
        self._drain_node()

    def handle_stream_closed(self, relay: RelayId, now: int) -> None:
        """A stream could not be opened, or broke."""
        self.node.handle_stream_closed(relay, now)
        self._drain_node()

    def handle_nat64(self, prefix: Prefix | None, now: int) -> None:
        """This network has IPv6 alone and translates IPv4 at that prefix; None: it does not."""
        self.node.handle_nat64(prefix, now)
        self._drain_node()

    def lose_family(self) -> None:
        """IPv4 or IPv6 is gone from this host, the other is as it was.

        Every session goes on: ICE notices the paths that are dead. Only the way to the portal may
        have gone, and that says nothing.
        """
        self._events.append(ReconnectPortal("an address family is gone"))

    def set_host_addresses(self, addresses: Iterable[Endpoint], now: int) -> None:
        """Where this host can be reached by those around it, the best first. To be told anew after
        `reset`."""
        self.node.set_host_addresses(addresses, now)
        self._drain_node()

    def handle_timeout(self, now: int) -> None:
        self.node.handle_timeout(now)
        self._drain_node()

    def shut_down(self, now: int) -> None:
        """Say goodbye to every peer, so that none waits for us."""
        for c in self.node.connections():
            if c.established:
                self.node.send_packet(c.slot, control_packet(ControlKind.GOODBYE), now)

    # Outputs.

    def poll_timeout(self) -> Timeout | None:
        return self.node.poll_timeout()

    def poll_transmit(self) -> Transmit | None:
        return self.node.poll_transmit()

    def poll_command(self) -> Command | None:
        command = self.node.poll_command()
        if command is not None:
            return command
        return self._commands.popleft() if self._commands else None

    def poll_event(self) -> RoleEvent | None:
        return self._events.popleft() if self._events else None

    # What a role adds.

    @abstractmethod
    def _signal(self, peer: str, candidates: list[str], *, withdrawn: bool) -> None:
        """Tell a peer, through the portal, where we can or can no longer be reached."""

    @abstractmethod
    def _lost(self, peer: str) -> None:
        """A connection is gone."""

    # For the roles.

    def _is_ours(self, address: IPAddress) -> bool:
        interface = self._interface
        return interface is not None and address in (interface.ipv4, interface.ipv6)

    def _configure_tun(self, routes: frozenset[IPNetwork]) -> None:
        """Say how the TUN device is to be, if that changed."""
        if self._interface is None:
            return
        tun = ConfigureTun(self._interface.ipv4, self._interface.ipv6, routes)
        if tun != self._tun:
            self._tun = tun
            self._events.append(tun)

    def _connect(
        self, peer: str, keys: PeerKeys, now: int, *, signalling: int | None = None
    ) -> bool:
        """Ask the node for a connection. False if there can be none now, which may heal.
        `signalling` is how long it takes to tell the peer something (ns), if that is known."""
        try:
            self.node.upsert_connection(peer, keys, now, signalling=signalling)
        except NoRelaysError as error:
            self._want_relays(str(error), now)
            return False
        except NoSlotError as error:
            if not self.counters["no room for a peer"]:
                _log.warning("no room for another peer", extra={"error": str(error)})
            self.counters["no room for a peer"] += 1
            return False
        self._may_reconnect_at = None
        self._reconnect_pause = RECONNECT_PAUSE
        return True

    def _want_relays(self, reason: str, now: int) -> None:
        """A portal that has none to give must not be asked by every peer that wants us."""
        self.counters[reason] += 1
        if self._may_reconnect_at is not None and now < self._may_reconnect_at:
            return
        self._may_reconnect_at = now + self._reconnect_pause
        self._reconnect_pause = min(2 * self._reconnect_pause, MAX_RECONNECT_PAUSE)
        self._events.append(ReconnectPortal(reason))

    def _handle_control(self, slot: int, kind: int, now: int) -> None:
        """A control packet came through the tunnel of this slot."""
        connection = self.node.connection_at(slot)
        if kind == ControlKind.GOODBYE and connection is not None:
            self.node.close_connection(connection, "the peer said goodbye", now)
        else:
            self.counters["control packet of an unknown kind"] += 1

    def _tell(self, outgoing: tuple[str, object]) -> None:
        self._events.append(TellPortal(*outgoing))

    def _progress(self, event: str, **fields: object) -> None:
        self._events.append(Progress(event, fields))

    def _drain_node(self) -> None:
        """Candidates go out in one message per peer, however many were found at once."""
        gathered: dict[str, list[str]] = {}
        withdrawn: dict[str, list[str]] = {}
        while (event := self.node.poll_event()) is not None:
            match event:
                case CandidateGathered(peer, candidate):
                    gathered.setdefault(peer, []).append(candidate.to_sdp())
                case CandidateWithdrawn(peer, candidate):
                    withdrawn.setdefault(peer, []).append(candidate.to_sdp())
                case StreamWanted() | StreamUnwanted():
                    self._events.append(event)
                case _:
                    self._handle_node_event(event)
        for peer, lines in gathered.items():
            self._signal(peer, lines, withdrawn=False)
        for peer, lines in withdrawn.items():
            self._signal(peer, lines, withdrawn=True)

    def _handle_node_event(self, event: ConnectionEvent) -> None:
        who = {self.peer: event.connection}
        match event:
            case PathChosen():
                kind = "direct" if event.direct else "relayed"
                local, remote = str(event.local.address), str(event.remote.address)
                self._progress("path_chosen", **who, kind=kind, local=local, remote=remote)
            case ConnectionEstablished():
                self._progress("handshake_done", **who)
            case ConnectionFailed():
                self._progress("connection_lost", **who, reason=event.reason)
                self._lost(event.connection)
            case ConnectionClosed():
                self._progress("connection_closed", **who)
                self._lost(event.connection)


def relays(entries: Iterable[messages.Relay]) -> Iterator[Relay]:
    """The entries of one relay, one per address family, stand beside each other."""
    for relay_id, group in groupby(entries, key=lambda entry: entry.id):
        addresses = list(group)
        by_family = {entry.addr.family: entry.addr for entry in reversed(addresses)}
        yield Relay(
            id=relay_id,
            server=RelayServer(ipv4=by_family.get(4), ipv6=by_family.get(6)),
            username=addresses[0].username,
            password=addresses[0].password,
        )


def candidates(lines: Iterable[str]) -> Iterator[Candidate]:
    """Those that can be read; the others are another version's and skipped."""
    for line in lines:
        try:
            yield Candidate.from_sdp(line)
        except RemoteError as error:
            _log.debug("skipped a candidate: %s", error)
