"""What the relay asks its shell to do, and the 5-tuple it knows a client by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from firezone.model import Endpoint, Transmit


class FiveTuple(NamedTuple):
    """The client's transport address and the one of ours that it sent to; the protocol is UDP.

    `local` is None where the shell cannot tell it, as on a host with one address.
    """

    client: Endpoint
    local: Endpoint | None


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """Open the relay socket of an allocation, then call `Relay.handle_socket_opened`."""

    port: int
    family: int


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
class SendToPeer:
    """Send a payload to the peer from the allocation's socket of the peer's family."""

    port: int
    peer: Endpoint
    payload: bytes | memoryview = field(repr=False)


RelayCommand = OpenSocket | CloseSocket | BindChannel | UnbindChannel | SendToPeer | Transmit
"""A `Transmit` goes to a client, from the listening socket and its `source` address."""
