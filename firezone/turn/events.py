"""What a TURN client is given and what it tells: values around `Allocation`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from firezone.model import Endpoint
from firezone.stun import REALM, USERNAME, long_term_key
from firezone.stun.attributes import require_fit

NO_RESPONSE = "no response"
"""Why an allocation whose relay does not answer can be freed."""

CandidateType = Literal["host", "srflx", "relay"]


@dataclass(frozen=True, slots=True)
class RelayServer:
    """Where a relay listens, in one family or in both."""

    ipv4: Endpoint | None = None
    ipv6: Endpoint | None = None
    is_translated: bool = False
    """Whether a NAT64 is on the way, so that we speak IPv6 and the relay sees IPv4."""

    @property
    def sockets(self) -> tuple[Endpoint, ...]:
        """The addresses there are, IPv4 first."""
        return tuple(socket for socket in (self.ipv4, self.ipv6) if socket is not None)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Long-term credentials (RFC 8489 section 9.2). Raises LocalError if STUN cannot bear them."""

    username: str
    password: str = field(repr=False)
    realm: str

    def __post_init__(self) -> None:
        require_fit(USERNAME, self.username)
        require_fit(REALM, self.realm)

    @property
    def key(self) -> bytes:
        """What MESSAGE-INTEGRITY is made with."""
        return long_term_key(self.username, self.realm, self.password)


class AllocationState(StrEnum):
    """How far a client has come with its relay; the value is for people."""

    CONNECTING = "no answer yet"
    ALLOCATING = "asking for an allocation"
    ALLOCATED = "allocated"
    SUSPENDED = "refused an allocation"
    UNAUTHORIZED = "refused our credentials"
    FAILED = "does not understand us"


@dataclass(frozen=True, slots=True)
class Channel:
    """How to send to a peer: ChannelData of this number to this socket of the relay."""

    socket: Endpoint
    number: int


@dataclass(frozen=True, slots=True)
class Decapsulated:
    """A datagram that `peer` sent to our address `relayed`."""

    peer: Endpoint
    relayed: Endpoint
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CandidateAdded:
    """An address of ours (RFC 8445 section 5.1.1). The base of a relayed one is itself."""

    kind: CandidateType
    address: Endpoint
    base: Endpoint


@dataclass(frozen=True, slots=True)
class CandidateInvalidated:
    """An address that is no longer ours."""

    kind: CandidateType
    address: Endpoint
    base: Endpoint


@dataclass(frozen=True, slots=True)
class ChannelConfirmed:
    """The relay bound the channel: data may come in on it from now on."""

    peer: Endpoint
    number: int
    socket: Endpoint


@dataclass(frozen=True, slots=True)
class ChannelLost:
    """The channel, confirmed or still asked for, carries nothing any more."""

    number: int
    socket: Endpoint
    peer: Endpoint


AllocationEvent = CandidateAdded | CandidateInvalidated | ChannelConfirmed | ChannelLost
