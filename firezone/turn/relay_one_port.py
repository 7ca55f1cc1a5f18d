"""The relay with one port: whom a peer's datagram is for, where all allocations have one address.

Every relayed address is then the public one with the listening port. Inside the relay an allocation
keeps a number of its own where it otherwise has a port. A datagram that a peer sends there goes

1. to the channel to that peer whose client has the name that the datagram bears (`relay_clues.py`);
2. if nobody has that name and it is WireGuard's: to the only channel to that peer whose client has
   named no index, as when its session was made on another path;
3. to the only channel to that peer, if there is just one: so any protocol works for who shares no
   peer with others;
4. without any channel, to the only client that has a permission for the peer's address and takes
   Data indications;
5. to nobody: it is dropped.

Names are learnt from what clients send. Who first has a name keeps it, until its channel ends, or
it has named so many others since that this one is forgotten; but what a peer itself says to the
owner of an index of which tunnel is this client's holds from then on.

What a client sends to the relay's own address is for another client. It is handed over here and
never goes out, in compiled code to a socket of this host's loopback; so nothing that comes from
our own address is ever a client's message. There a first initiation of WireGuard says nothing, not
even by its destination; it goes to each of the few whom its sender's checks were for, and who is
not meant drops it by its MAC.

A client may be the peer of another one under its own address, too. What is sent to it there comes
from where its own messages from us do, so it must not be able to pass for one of them: ChannelData,
or a Data indication, that no permission of that client stands for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

from firezone.model import Endpoint, IPAddress, Transmit
from firezone.turn.channel_data import encode_channel_data
from firezone.turn.relay_clues import (
    Clue,
    ClueKind,
    binding_type,
    clue_of,
    is_check,
    is_turn,
    is_wireguard,
    names_in,
    tunnel_in,
)
from firezone.turn.relay_commands import (
    BindChannel,
    FiveTuple,
    Forbid,
    Permit,
    RelayCommand,
    SendToPeer,
    Steer,
    UnbindChannel,
    Unsteer,
)

T = TypeVar("T")

NAMES: Final = {
    ClueKind.INDEX: 4,
    ClueKind.TUNNEL: 4,
    ClueKind.UFRAG: 2,
    ClueKind.TRANSACTION: 16,
}
"""What is remembered of each channel."""
NAMES_AT_HOME: Final = 256
"""Of each kind, of a channel to our own address: behind it are all clients of the relay."""
CALLED: Final = 4
"""Clients that a first handshake between two clients of ours may be for."""
NUMBERS: Final = range(1, 0x10000)
"""Instead of ports, so this many allocations."""


@dataclass(slots=True, eq=False)
class _Way:
    """A bound channel."""

    five_tuple: FiveTuple
    number: int
    port: int
    """Its allocation's number."""
    names: dict[ClueKind, dict[Clue, None]] = field(
        default_factory=lambda: {kind: {} for kind in ClueKind}
    )
    """The oldest first."""
    called: dict[Clue, None] = field(default_factory=dict)
    """Whom its client has checked paths to at our own address, the oldest first."""


@dataclass(slots=True, eq=False)
class _Peer:
    """A peer's address and all channels to it. The last three say what the shell was told."""

    ways: dict[int, _Way] = field(default_factory=dict)
    """By their allocation."""
    silent: dict[_Way, None] = field(default_factory=dict)
    """Those whose client has named no index."""
    names: dict[Clue, _Way] = field(default_factory=dict)
    is_told: bool = False
    only: _Way | None = None
    only_silent: _Way | None = None


class OnePort:
    """Stands between what the relay wants and what its shell is told.

    `own` are the public addresses with the listening port. `count` counts by reason;
    `indicate(port, peer, payload)` hands a Data indication to the client of that allocation.
    """

    def __init__(
        self,
        own: frozenset[Endpoint],
        count: Callable[[str], None],
        indicate: Callable[[int, Endpoint, bytes], None],
    ) -> None:
        self._own = own
        self._count = count
        self._indicate = indicate
        self._peers: dict[Endpoint, _Peer] = {}
        self._permitted: dict[IPAddress, dict[int, Endpoint]] = {}
        """Who takes Data indications from an address: allocations, and where their clients are."""
        self._clients: Counter[Endpoint] = Counter()
        """Where clients are, and how many channels and such permissions each has."""

    @property
    def name_count(self) -> int:
        """Names that are remembered."""
        return sum(len(peer.names) for peer in self._peers.values())

    def is_peers(self, source: Endpoint, datagram: bytes) -> bool:
        """Whether a datagram to the one port is for a client, and not from one, given that it is
        not on a bound channel of that source."""
        if source in self._own:
            return True
        if source not in self._peers and source.address not in self._permitted:
            return False
        if datagram[0] < 4 and not is_wireguard(datagram):
            kind = binding_type(datagram)
            return kind in (0x0101, 0x0111) or (kind == 0x0001 and is_check(datagram))
        return True

    def handle_peer_datagram(self, peer: Endpoint, datagram: bytes) -> Iterator[RelayCommand]:
        """What a peer sent to the one port."""
        yield from self._deliver(peer, datagram, sender=None)

    def translate(self, command: RelayCommand) -> Iterator[RelayCommand]:
        """What the shell has to do instead."""
        match command:
            case BindChannel():
                yield command
                yield from self._on_bound(command)
            case UnbindChannel():
                yield from self._on_unbound(command)
                yield command
            case SendToPeer(port, peer, payload, dont_fragment):
                if dont_fragment:  # on a socket that others send from, too
                    self._count("indication_not_understood")
                    return
                payload = bytes(payload)
                if peer in self._clients and is_turn(payload):
                    self._count("disguised")
                    return
                yield from self._learn(port, peer, payload)
                if peer in self._own:
                    yield from self._deliver(peer, payload, sender=port)
                else:
                    yield command
            case Permit():
                at_address = self._permitted.setdefault(command.address, {})
                if not at_address:
                    yield Steer(Endpoint(command.address, 0), Steer.ADDRESS, None, 0)
                if command.port not in at_address:
                    yield from self._meet(command.five_tuple.client)
                at_address[command.port] = command.five_tuple.client
            case Forbid():
                yield from self._part(self._permitted[command.address].pop(command.port))
                if not self._permitted[command.address]:
                    del self._permitted[command.address]
                    yield Unsteer(Endpoint(command.address, 0), Steer.ADDRESS)
            case _:
                yield command

    # Clients

    def _meet(self, client: Endpoint) -> Iterator[RelayCommand]:
        self._clients[client] += 1
        if self._clients[client] == 1:
            yield Steer(client, Steer.CLIENT, None, 0)

    def _part(self, client: Endpoint) -> Iterator[RelayCommand]:
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]
            yield Unsteer(client, Steer.CLIENT)

    # Channels

    def _on_bound(self, command: BindChannel) -> Iterator[RelayCommand]:
        peer = self._peers.setdefault(command.peer, _Peer())
        present = peer.ways.get(command.port)
        if present is None:
            way = _Way(command.five_tuple, command.number, command.port)
            peer.ways[command.port] = way
            peer.silent[way] = None
            yield from self._tell(command.peer, peer)
            yield from self._meet(command.five_tuple.client)

    def _on_unbound(self, command: UnbindChannel) -> Iterator[RelayCommand]:
        peer = self._peers[command.peer]
        way = peer.ways.pop(command.port)
        for names in way.names.values():
            for name in [*names]:
                yield from self._forget(command.peer, peer, way, name)
        peer.silent.pop(way, None)
        yield from self._tell(command.peer, peer)
        if not peer.ways:
            del self._peers[command.peer]
        yield from self._part(command.five_tuple.client)

    def _tell(self, address: Endpoint, peer: _Peer) -> Iterator[RelayCommand]:
        """Let the shell know what has changed of who gets what bears no known name."""
        at_home = address in self._own
        only = _only(peer.ways.values()) if not at_home else None
        if not peer.ways:
            yield Unsteer(address, Steer.ANY)
        elif not peer.is_told or only is not peer.only:
            yield _steer(address, Steer.ANY, only)
        peer.is_told, peer.only = True, only
        silent = _only(peer.silent) if only is None and not at_home else None
        if silent is not peer.only_silent:
            if silent is None:
                yield Unsteer(address, Steer.UNKNOWN_INDEX)
            else:
                yield _steer(address, Steer.UNKNOWN_INDEX, silent)
        peer.only_silent = silent

    # Names

    def _learn(self, port: int, address: Endpoint, payload: bytes) -> Iterator[RelayCommand]:
        """A client has sent this."""
        peer = self._peers.get(address)
        way = None if peer is None else peer.ways.get(port)
        if peer is not None and way is not None:
            if address in self._own:
                _note_called(way, payload)
            for name in names_in(payload):
                owner = peer.names.get(name)
                if owner is None:
                    yield from self._note(address, peer, way, name)
                elif owner is not way:
                    self._count("name_taken")

    def _note(
        self, address: Endpoint, peer: _Peer, way: _Way, name: Clue
    ) -> Iterator[RelayCommand]:
        names = way.names[name.kind]
        limit = NAMES_AT_HOME if address in self._own else NAMES[name.kind]
        if len(names) >= limit:
            yield from self._forget(address, peer, way, next(iter(names)))
        names[name] = None
        peer.names[name] = way
        if name.kind is ClueKind.INDEX:
            assert isinstance(name.value, int)
            yield _steer(address, name.value, way)
            peer.silent.pop(way, None)
            yield from self._tell(address, peer)

    def _forget(
        self, address: Endpoint, peer: _Peer, way: _Way, name: Clue
    ) -> Iterator[RelayCommand]:
        del way.names[name.kind][name]
        del peer.names[name]
        if name.kind is ClueKind.INDEX:
            assert isinstance(name.value, int)
            yield Unsteer(address, name.value)

    # Datagrams

    def _deliver(
        self, address: Endpoint, datagram: bytes, sender: int | None
    ) -> Iterator[RelayCommand]:
        """Hand it to its addressee. `sender` is the allocation of a client of ours that sent it."""
        peer = self._peers.get(address)
        if peer is None:
            self._deliver_unbound(address, datagram, sender)
            return
        clue = clue_of(datagram)
        way = self._addressee(peer, clue, datagram)
        if way is not None and way.port == sender:
            way = None
        ways = [] if way is None else [way]
        if way is None and sender is not None and clue is not None:
            ways = _called(peer, sender, clue)
        if not ways:
            self._count("ambiguous_peer")
            return
        if way is not None and clue is not None and peer.names.get(clue) is way:
            yield from self._learn_tunnel(address, peer, way, datagram)
        for way in ways:
            client, local = way.five_tuple
            yield Transmit(encode_channel_data(way.number, datagram), client, local)

    def _addressee(self, peer: _Peer, clue: Clue | None, datagram: bytes) -> _Way | None:
        way = None if clue is None else peer.names.get(clue)
        if way is None and is_wireguard(datagram):
            way = peer.only_silent
        return way or peer.only

    def _learn_tunnel(
        self, address: Endpoint, peer: _Peer, way: _Way, datagram: bytes
    ) -> Iterator[RelayCommand]:
        """The peer answers this client: with that index it may initiate, too."""
        name = tunnel_in(datagram)
        if name is None:
            return
        owner = peer.names.get(name)
        if owner is way:
            return
        if owner is not None:
            yield from self._forget(address, peer, owner, name)
        yield from self._note(address, peer, way, name)

    def _deliver_unbound(self, address: Endpoint, datagram: bytes, sender: int | None) -> None:
        takers = self._permitted.get(address.address, {})
        only = _only(takers)
        if only is not None and only != sender:
            self._indicate(only, address, datagram)
        else:
            self._count("ambiguous_peer" if takers else "unbound_peer")


def _note_called(way: _Way, payload: bytes) -> None:
    clue = clue_of(payload)
    if clue is not None and clue.kind is ClueKind.UFRAG:
        way.called.pop(clue, None)
        way.called[clue] = None
        if len(way.called) > CALLED:
            del way.called[next(iter(way.called))]


def _called(home: _Peer, sender: int, clue: Clue) -> list[_Way]:
    """Whom a first initiation at our own address may be for."""
    way = home.ways.get(sender)
    if way is None or clue.kind is not ClueKind.TUNNEL:
        return []
    found = {id(other): other for name in way.called if (other := home.names.get(name))}
    return [other for other in found.values() if other is not way]


def _only(found: Iterable[T]) -> T | None:
    """The first one, if there is no second."""
    few = [*islice(found, 2)]
    return few[0] if len(few) == 1 else None


def _steer(peer: Endpoint, index: int, way: _Way | None) -> Steer:
    if way is None:
        return Steer(peer, index, None, 0)
    return Steer(peer, index, way.five_tuple, way.number)
