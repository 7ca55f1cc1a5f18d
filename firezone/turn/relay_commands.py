"""What the relay asks its shell to do, and the 5-tuple it knows a client by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from firezone.model import Endpoint, IPAddress, Transmit


class FiveTuple(NamedTuple):
    """The client's transport address and the one of ours that it sent to; the protocol is UDP.

    `local` is None where the shell cannot tell it, as on a host with one address.
    """

    client: Endpoint
    local: Endpoint | None


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """Open the relay socket of an allocation, then call `Relay.handle_socket_opened`.

    With `dont_fragment` nothing that leaves it may be fragmented (RFC 8656 section 18.6).
    """

    port: int
    family: int
    dont_fragment: bool = False


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """Close the relay socket of an allocation that is gone."""

    port: int
    family: int


@dataclass(frozen=True, slots=True)
class BindChannel:
    """Relay both ways between the client's channel and the peer, through the socket of `port` and
    the peer's family. A shell may do so by itself, packet by packet; it may also hand every
    datagram to the relay."""

    five_tuple: FiveTuple
    number: int
    port: int
    peer: Endpoint


@dataclass(frozen=True, slots=True)
class UnbindChannel:
    """Stop relaying on the channel. Comes before the `CloseSocket` of its allocation."""

    five_tuple: FiveTuple
    number: int
    port: int
    peer: Endpoint


@dataclass(frozen=True, slots=True)
class Permit:
    """Relay Send and Data between the client and this address, through the socket of `port` and the
    address's family: the client takes Data indications. Without `any_port` a Send may only go to
    ports that are an allocation's, for the address is our own; telling it again sets that anew.

    A shell may do so by itself, packet by packet; it may also hand every datagram to the relay."""

    five_tuple: FiveTuple
    port: int
    address: IPAddress
    any_port: bool = True


@dataclass(frozen=True, slots=True)
class Forbid:
    """Undo a `Permit`. Comes before the `CloseSocket` of its allocation."""

    port: int
    address: IPAddress


@dataclass(frozen=True, slots=True)
class SendToPeer:
    """Send a payload to the peer from the allocation's socket of the peer's family."""

    port: int
    peer: Endpoint
    payload: bytes | memoryview = field(repr=False)
    dont_fragment: bool = False


@dataclass(frozen=True, slots=True)
class Steer:
    """With one port for all allocations: what that peer sends to WireGuard's receiver index `index`
    is for the bound channel `number` of that client; for none, if `five_tuple` is None.

    `ANY` instead of an index is all that no index says more of, and tells that there is such a
    peer; `UNKNOWN_INDEX` is WireGuard's data with an index that was not told, and goes before.
    `ADDRESS` is for a peer with port 0 and no channel: whatever comes from there that no channel
    takes is to be handed over, as somebody may take Data indications from it. `CLIENT` is for a
    peer that is a client of ours itself: what begins as ChannelData is not to be sent to it.
    """

    ANY: ClassVar[int] = -1
    UNKNOWN_INDEX: ClassVar[int] = -2
    ADDRESS: ClassVar[int] = -3
    CLIENT: ClassVar[int] = -4

    peer: Endpoint
    index: int
    five_tuple: FiveTuple | None
    number: int


@dataclass(frozen=True, slots=True)
class Unsteer:
    """Undo a `Steer`. Comes before the `UnbindChannel` of its channel."""

    peer: Endpoint
    index: int


RelayCommand = (
    OpenSocket
    | CloseSocket
    | BindChannel
    | UnbindChannel
    | Permit
    | Forbid
    | SendToPeer
    | Steer
    | Unsteer
    | Transmit
)
"""A `Transmit` goes to a client, from the listening socket and its `source` address."""
