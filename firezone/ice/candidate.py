"""Candidates: the transport addresses at which an agent may be reached (RFC 8445 section 5.1).

A candidate's *base* is the address that we send from to use it: a host candidate is its own base, a
server-reflexive one has the host candidate behind the NAT, and a relayed one is its own base, too,
as the relay sends from there for us. Of a remote candidate we know no base but its address.

Priority = type preference << 24 | local preference << 8 | 255 (RFC 8445 section 5.1.2.1). Within a
type the local preference puts IPv6 before IPv4, earlier before later, and last the relayed
addresses for which a relay has to translate between the families.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from hashlib import blake2s
from ipaddress import IPv4Address

from firezone.errors import RemoteError
from firezone.ice import sdp
from firezone.model import Endpoint, IPAddress

COMPONENT = 1
"""The only component: one data stream, one component."""

_MAX_LOCAL_PREFERENCE = 0xFFFF
_CROSS_FAMILY_PENALTY = 1000


class CandidateKind(Enum):
    """How an address was learned; the value is its SDP name (RFC 8839 section 5.1)."""

    HOST = "host"
    SERVER_REFLEXIVE = "srflx"
    PEER_REFLEXIVE = "prflx"
    RELAYED = "relay"


_TYPE_PREFERENCES = {
    CandidateKind.HOST: 126,
    CandidateKind.PEER_REFLEXIVE: 110,
    CandidateKind.SERVER_REFLEXIVE: 100,
    # Not the RFC's 0: peers compute pair priorities from it, and they use 2.
    CandidateKind.RELAYED: 2,
}

_LOCAL_PREFERENCES = {
    CandidateKind.HOST: 65535,
    CandidateKind.PEER_REFLEXIVE: 49151,
    CandidateKind.SERVER_REFLEXIVE: 32767,
    CandidateKind.RELAYED: 16383,
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address of an agent. Made by the constructors below or by `from_sdp`."""

    kind: CandidateKind
    address: Endpoint
    base: Endpoint
    priority: int
    foundation: str
    component: int = COMPONENT
    ufrag: str | None = None
    """Ties the candidate to one agent's session; absent where the signaller does not care."""
    related: Endpoint | None = None
    """For diagnosis only. Ours is always the unspecified address: the real one is private."""
    socket: Endpoint | None = None
    """Of a local relayed candidate: the address from which we talk to the relay."""
    through_relay: bool = False
    """Of a peer-reflexive candidate: its host is a relay of the peer's. No way leads around it."""

    @classmethod
    def host(cls, address: Endpoint) -> Candidate:
        return _local(CandidateKind.HOST, address, address)

    @classmethod
    def server_reflexive(cls, address: Endpoint, base: Endpoint) -> Candidate:
        """`base` is the host candidate that a server saw as `address`."""
        return _local(CandidateKind.SERVER_REFLEXIVE, address, base)

    @classmethod
    def peer_reflexive(cls, address: Endpoint, base: Endpoint, priority: int) -> Candidate:
        """An address learned from a check, with the priority that its PRIORITY attribute gives."""
        kind = CandidateKind.PEER_REFLEXIVE
        return Candidate(kind, address, base, priority, _foundation(kind, base))

    @classmethod
    def relayed(cls, address: Endpoint, socket: Endpoint | None = None) -> Candidate:
        """`address` is on the relay; `socket` is our address towards the relay, where known."""
        return replace(_local(CandidateKind.RELAYED, address, address), socket=socket)

    @classmethod
    def from_sdp(cls, text: str) -> Candidate:
        """Parse a peer's candidate line. Raises RemoteError unless it is UDP and usable."""
        line = sdp.parse(text, frozenset(kind.value for kind in CandidateKind))
        if not is_usable(line.address):
            raise RemoteError("candidate: not an address of one host")
        return Candidate(
            kind=CandidateKind(line.kind),
            address=line.address,
            base=line.address,
            priority=line.priority,
            foundation=line.foundation,
            component=line.component,
            ufrag=line.ufrag,
            related=line.related,
        )

    def to_sdp(self) -> str:
        """As it is signalled: `candidate:<foundation> 1 udp <priority> <ip> <port> typ …`."""
        return sdp.format_line(
            sdp.Line(
                self.foundation,
                self.component,
                self.priority,
                self.address,
                self.kind.value,
                self.related,
                self.ufrag,
            )
        )

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.address.family

    @property
    def is_direct(self) -> bool:
        """Whether no relay stands behind this address."""
        return self.kind is not CandidateKind.RELAYED and not self.through_relay

    def behind(self, relayed: Candidate) -> Candidate:
        """This peer-reflexive candidate, found to be on the host of a relayed one."""
        return replace(self, priority=relayed.priority, through_relay=True)

    @property
    def has_fitting_base(self) -> bool:
        """Of our own. A NAT64 makes an IPv4 address of an IPv6 base, and nothing the reverse."""
        if self.family == self.base.family:
            return True
        return self.kind is CandidateKind.SERVER_REFLEXIVE and self.base.family == 6

    @property
    def peer_reflexive_priority(self) -> int:
        """The PRIORITY attribute of checks sent from this local candidate (RFC 8445 7.1.1)."""
        return priority_of(CandidateKind.PEER_REFLEXIVE, self.priority >> 8 & _MAX_LOCAL_PREFERENCE)

    def is_same(self, other: Candidate) -> bool:
        """Whether both name one candidate: equal kind, address and base."""
        return (self.kind, self.address, self.base) == (other.kind, other.address, other.base)

    def __str__(self) -> str:
        return f"{self.kind.value} {self.address}"


def priority_of(kind: CandidateKind, local_preference: int) -> int:
    """RFC 8445 section 5.1.2.1, for our one component."""
    return _TYPE_PREFERENCES[kind] << 24 | local_preference << 8 | (256 - COMPONENT)


def local_preference(candidate: Candidate, rank: int) -> int:
    """Preference of a local candidate that has `rank` earlier ones of its kind and family."""
    preference = _LOCAL_PREFERENCES[candidate.kind] - 2 * rank
    if candidate.family == 4:
        preference -= 1
    if candidate.socket is not None and candidate.socket.family != candidate.family:
        preference -= _CROSS_FAMILY_PENALTY
    return max(0, preference)


def is_usable(endpoint: Endpoint) -> bool:
    """Whether checks can be sent to this address. Loopback is: agents may share a host."""
    address = endpoint.address
    if endpoint.port == 0 or address.is_unspecified or address.is_multicast:
        return False
    if isinstance(address, IPv4Address):
        return not address.is_link_local and int(address) != 0xFFFFFFFF
    return True


def _local(kind: CandidateKind, address: Endpoint, base: Endpoint) -> Candidate:
    preference = _MAX_LOCAL_PREFERENCE if address.family == 6 else _MAX_LOCAL_PREFERENCE - 1
    return Candidate(
        kind=kind,
        address=address,
        base=base,
        priority=priority_of(kind, preference),
        foundation=_foundation(kind, base),
        related=None if kind is CandidateKind.HOST else _unspecified(address.address),
    )


def _foundation(kind: CandidateKind, base: Endpoint) -> str:
    """Equal for candidates of one kind and base address (RFC 8445 section 5.1.1.3)."""
    return blake2s(kind.value.encode() + base.address.packed, digest_size=8).hexdigest()


def _unspecified(address: IPAddress) -> Endpoint:
    return Endpoint(type(address)(0), 0)
