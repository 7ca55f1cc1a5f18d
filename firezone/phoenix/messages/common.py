"""What the messages of all topics share: relays, keys, candidates, and how payloads are read.

Everything here follows from one rule: a payload either fits and becomes a frozen value, or
`MalformedMessage` is raised and the channel drops the message. Unknown object keys are ignored,
so that a newer portal can say more than we understand.

Each message has a *field struct*, the shape on the wire, whose `value()` gives the public one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

import msgspec

from firezone.errors import LocalError, RemoteError
from firezone.model import (
    ClientId,
    Endpoint,
    GatewayId,
    IceCredentials,
    Interface,
    RelayId,
    ResourceId,
    SiteId,
)

IPNetwork = IPv4Network | IPv6Network


class MalformedMessage(RemoteError):
    """A payload does not fit its event. Its text quotes no value of the payload."""


class UnknownEvent(RemoteError):
    """An event that the topic does not have."""


class Outgoing(NamedTuple):
    """A message to the portal, for `channel.send(*outgoing, now)`."""

    event: str
    payload: object


@dataclass(frozen=True, slots=True)
class Relay:
    """One address of a TURN server. `expires_at` is Unix seconds; the realm is `firezone`.

    A relay with an IPv4 and an IPv6 address comes as two of these with the same id.
    """

    id: RelayId
    addr: Endpoint
    username: str
    password: str = field(repr=False)
    expires_at: int


@dataclass(frozen=True, slots=True)
class RelaysPresence:
    """Relays that went away, then relays to use from now on; an id in both has a new secret."""

    disconnected_ids: tuple[RelayId, ...]
    connected: tuple[Relay, ...]


def broadcast(event: str, key: str, ids: Iterable[str], candidates: Iterable[str]) -> Outgoing:
    """SDP candidates for the peers `ids`, the most preferred candidate first.

    Candidates of equal priority are all sent; only exact repetitions collapse.
    """
    ordered = sorted(dict.fromkeys(candidates), key=_priority, reverse=True)
    return Outgoing(event, {key: list(ids), "candidates": ordered})


def _priority(candidate: str) -> int:
    fields = candidate.split()
    return int(fields[3]) if len(fields) > 3 and fields[3].isdecimal() else 0


# How payloads are read.

_UUID = msgspec.Meta(pattern=r"^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\Z")
ClientIdField = Annotated[ClientId, _UUID]
GatewayIdField = Annotated[GatewayId, _UUID]
RelayIdField = Annotated[RelayId, _UUID]
ResourceIdField = Annotated[ResourceId, _UUID]
SiteIdField = Annotated[SiteId, _UUID]

KeyField = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
"""A WireGuard key or preshared key: 32 bytes; padded standard base64 on the wire."""

UnixSecondsField = Annotated[int, msgspec.Meta(ge=0)]

Value_co = TypeVar("Value_co", covariant=True)


class FieldStruct(Protocol[Value_co]):
    """The shape of a payload, and the value it stands for. `value()` may raise ValueError."""

    def value(self) -> Value_co: ...


Value = TypeVar("Value")


def read(payload: object, shape: type[FieldStruct[Value]]) -> Value:
    """The value that `payload` (decoded JSON) stands for. Raises MalformedMessage."""
    try:
        struct: FieldStruct[Value] = msgspec.convert(payload, shape, dec_hook=_decode_address)
        return struct.value()
    except (ValueError, LocalError, RecursionError) as error:
        raise MalformedMessage(str(error)) from None


def _decode_address(kind: type, text: object) -> object:
    if kind not in (IPv4Address, IPv6Address) or not isinstance(text, str):
        raise ValueError("an IP address was expected")
    try:
        return kind(text)
    except ValueError:
        raise ValueError("not an IP address") from None


class DnsServerField(msgspec.Struct, tag_field="protocol", tag="ip_port"):
    address: str


class InterfaceField(msgspec.Struct):
    ipv4: IPv4Address
    ipv6: IPv6Address
    upstream_dns: list[DnsServerField] = []
    search_domain: str | None = None

    def value(self) -> Interface:
        servers = tuple(Endpoint.parse(server.address) for server in self.upstream_dns)
        return Interface(self.ipv4, self.ipv6, servers, self.search_domain)


class TurnField(msgspec.Struct, tag_field="type", tag="turn"):
    id: RelayIdField
    addr: str
    username: str
    password: str
    expires_at: UnixSecondsField


class StunField(msgspec.Struct, tag_field="type", tag="stun"):
    id: RelayIdField
    addr: str


RelayField = TurnField | StunField


def relays(fields: Iterable[RelayField]) -> tuple[Relay, ...]:
    """The TURN servers among them: a plain STUN server tells nothing that a relay does not."""
    addresses = [(entry, Endpoint.parse(entry.addr)) for entry in fields]
    return tuple(
        Relay(entry.id, address, entry.username, entry.password, entry.expires_at)
        for entry, address in addresses
        if isinstance(entry, TurnField)
    )


class RelaysPresenceField(msgspec.Struct):
    disconnected_ids: list[RelayIdField]
    connected: list[RelayField]

    def value(self) -> RelaysPresence:
        return RelaysPresence(tuple(self.disconnected_ids), relays(self.connected))


class IceCredentialsField(msgspec.Struct):
    username: str
    password: str

    def value(self) -> IceCredentials:
        return IceCredentials(self.username, self.password)


def candidates(field: Iterable[Any]) -> tuple[str, ...]:
    """The candidate strings of an array; what is no string is skipped, as what no agent parses."""
    return tuple(entry for entry in field if isinstance(entry, str))
