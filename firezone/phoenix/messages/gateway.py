"""Topic `gateway`: what the portal says to a gateway, and what a gateway says back.

Strict throughout: a resource or filter that does not fit rejects its message, for a gateway that
guessed at a filter might let through what the policy forbids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Annotated, Any

import msgspec

from firezone.model import ClientId, IceCredentials, Interface, ResourceId
from firezone.phoenix.messages import common
from firezone.phoenix.messages.common import (
    ClientIdField,
    IceCredentialsField,
    InterfaceField,
    IPNetwork,
    KeyField,
    Outgoing,
    Relay,
    RelayField,
    RelaysPresence,
    RelaysPresenceField,
    ResourceIdField,
    UnixSecondsField,
    UnknownEvent,
    read,
)

TOPIC = "gateway"


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"


@dataclass(frozen=True, slots=True)
class Filter:
    """Allows a protocol, to destination ports from start to end inclusive. ICMP has no ports.

    A range whose start lies above its end allows nothing.
    """

    protocol: Protocol
    port_start: int = 0
    port_end: int = 65535


@dataclass(frozen=True, slots=True)
class CidrResource:
    """Without filters everything is allowed."""

    id: ResourceId
    name: str
    address: IPNetwork
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class DnsResource:
    """`address` is a pattern: labels with `*`, `**` and `?`. Without filters all is allowed."""

    id: ResourceId
    name: str
    address: str
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class InternetResource:
    id: ResourceId


Resource = CidrResource | DnsResource | InternetResource


@dataclass(frozen=True, slots=True)
class Config:
    """Sent by the portal, and without effect: masquerading is the gateway host's affair."""

    ipv4_masquerade_enabled: bool
    ipv6_masquerade_enabled: bool


@dataclass(frozen=True, slots=True)
class Authorization:
    """A client may use a resource until `expires_at` (Unix seconds)."""

    client_id: ClientId
    resource_id: ResourceId
    expires_at: int


@dataclass(frozen=True, slots=True)
class Init:
    """The whole state: sent once after each join.

    `authorizations` are the earliest expiry per pair. Of the clients named there, resources not
    listed are revoked; a client that is not named at all keeps what it has.
    """

    interface: Interface
    config: Config
    account_slug: str | None = None
    relays: tuple[Relay, ...] = ()
    authorizations: tuple[Authorization, ...] = ()


@dataclass(frozen=True, slots=True)
class Client:
    """The peer of a flow. Keys are 32 bytes."""

    id: ClientId
    public_key: bytes
    preshared_key: bytes = field(repr=False)
    ipv4: IPv4Address
    ipv6: IPv6Address


@dataclass(frozen=True, slots=True)
class AuthorizeFlow:
    """Expect this client. Answer with `flow_authorized(ref)`. `expires_at` is Unix seconds."""

    ref: str
    resource: Resource
    client: Client
    client_ice: IceCredentials
    gateway_ice: IceCredentials
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class ResourceUpdated:
    resource: Resource


@dataclass(frozen=True, slots=True)
class RejectAccess:
    """Revoke at once."""

    client_id: ClientId
    resource_id: ResourceId


@dataclass(frozen=True, slots=True)
class AccessAuthorizationExpiryUpdated:
    """The pair is authorized until `expires_at` (Unix seconds) instead."""

    client_id: ClientId
    resource_id: ResourceId
    expires_at: int


@dataclass(frozen=True, slots=True)
class IceCandidates:
    """SDP candidate strings of a client; some may not parse."""

    client_id: ClientId
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InvalidateIceCandidates:
    client_id: ClientId
    candidates: tuple[str, ...]


Message = (
    Init
    | AuthorizeFlow
    | ResourceUpdated
    | RejectAccess
    | AccessAuthorizationExpiryUpdated
    | RelaysPresence
    | IceCandidates
    | InvalidateIceCandidates
)


def decode(event: str, payload: object) -> Message:
    """A message of the portal. Raises UnknownEvent or MalformedMessage."""
    reader = _READERS.get(event)
    if reader is None:
        raise UnknownEvent(event)
    return reader(payload)


def flow_authorized(ref: str) -> Outgoing:
    """The answer to AuthorizeFlow, once the client's handshake can be met."""
    return Outgoing("flow_authorized", {"ref": ref})


def broadcast_ice_candidates(client_ids: Iterable[ClientId], candidates: Iterable[str]) -> Outgoing:
    return common.broadcast("broadcast_ice_candidates", "client_ids", client_ids, candidates)


def broadcast_invalidated_ice_candidates(
    client_ids: Iterable[ClientId], candidates: Iterable[str]
) -> Outgoing:
    return common.broadcast(
        "broadcast_invalidated_ice_candidates", "client_ids", client_ids, candidates
    )


# The shapes on the wire.

_Port = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]


class _PortsField(msgspec.Struct):
    port_range_start: _Port = 0
    port_range_end: _Port = 0xFFFF


class _TcpField(_PortsField, tag_field="protocol", tag="tcp"):
    def value(self) -> Filter:
        return Filter(Protocol.TCP, self.port_range_start, self.port_range_end)


class _UdpField(_PortsField, tag_field="protocol", tag="udp"):
    def value(self) -> Filter:
        return Filter(Protocol.UDP, self.port_range_start, self.port_range_end)


class _IcmpField(msgspec.Struct, tag_field="protocol", tag="icmp"):
    def value(self) -> Filter:
        return Filter(Protocol.ICMP)


_FilterField = _TcpField | _UdpField | _IcmpField


class _CidrField(msgspec.Struct, tag_field="type", tag="cidr"):
    id: ResourceIdField
    name: str
    address: str
    filters: list[_FilterField]

    def value(self) -> CidrResource:
        filters = tuple(entry.value() for entry in self.filters)
        return CidrResource(self.id, self.name, ip_network(self.address), filters)


class _DnsField(msgspec.Struct, tag_field="type", tag="dns"):
    id: ResourceIdField
    name: str
    address: str
    filters: list[_FilterField]

    def value(self) -> DnsResource:
        filters = tuple(entry.value() for entry in self.filters)
        return DnsResource(self.id, self.name, self.address, filters)


class _InternetField(msgspec.Struct, tag_field="type", tag="internet"):
    id: ResourceIdField

    def value(self) -> InternetResource:
        return InternetResource(self.id)


_ResourceField = _CidrField | _DnsField | _InternetField


class _ConfigField(msgspec.Struct):
    ipv4_masquerade_enabled: bool
    ipv6_masquerade_enabled: bool


class _AuthorizationField(msgspec.Struct):
    client_id: ClientIdField
    resource_id: ResourceIdField
    expires_at: UnixSecondsField


class _InitField(msgspec.Struct):
    interface: InterfaceField
    config: _ConfigField
    account_slug: str | None = None
    relays: list[RelayField] = []
    authorizations: list[_AuthorizationField] = []

    def value(self) -> Init:
        config = self.config
        return Init(
            interface=self.interface.value(),
            config=Config(config.ipv4_masquerade_enabled, config.ipv6_masquerade_enabled),
            account_slug=self.account_slug,
            relays=common.relays(self.relays),
            authorizations=tuple(
                Authorization(entry.client_id, entry.resource_id, entry.expires_at)
                for entry in self.authorizations
            ),
        )


class _ClientField(msgspec.Struct):
    id: ClientIdField
    public_key: KeyField
    preshared_key: KeyField
    ipv4: IPv4Address
    ipv6: IPv6Address

    def value(self) -> Client:
        return Client(self.id, self.public_key, self.preshared_key, self.ipv4, self.ipv6)


class _AuthorizeFlowField(msgspec.Struct):
    ref: str
    resource: _ResourceField
    client: _ClientField
    client_ice_credentials: IceCredentialsField
    gateway_ice_credentials: IceCredentialsField
    expires_at: UnixSecondsField | None

    def value(self) -> AuthorizeFlow:
        return AuthorizeFlow(
            ref=self.ref,
            resource=self.resource.value(),
            client=self.client.value(),
            client_ice=self.client_ice_credentials.value(),
            gateway_ice=self.gateway_ice_credentials.value(),
            expires_at=self.expires_at,
        )


class _ResourceUpdatedField(msgspec.Struct):
    resource: _ResourceField

    def value(self) -> ResourceUpdated:
        return ResourceUpdated(self.resource.value())


class _RejectAccessField(msgspec.Struct):
    client_id: ClientIdField
    resource_id: ResourceIdField

    def value(self) -> RejectAccess:
        return RejectAccess(self.client_id, self.resource_id)


class _ExpiryUpdatedField(msgspec.Struct):
    client_id: ClientIdField
    resource_id: ResourceIdField
    expires_at: UnixSecondsField

    def value(self) -> AccessAuthorizationExpiryUpdated:
        return AccessAuthorizationExpiryUpdated(self.client_id, self.resource_id, self.expires_at)


class _CandidatesField(msgspec.Struct):
    client_id: ClientIdField
    candidates: list[Any]


class _IceCandidatesField(_CandidatesField):
    def value(self) -> IceCandidates:
        return IceCandidates(self.client_id, common.candidates(self.candidates))


class _InvalidateIceCandidatesField(_CandidatesField):
    def value(self) -> InvalidateIceCandidates:
        return InvalidateIceCandidates(self.client_id, common.candidates(self.candidates))


_READERS: dict[str, Callable[[object], Message]] = {
    "init": lambda payload: read(payload, _InitField),
    "authorize_flow": lambda payload: read(payload, _AuthorizeFlowField),
    "resource_updated": lambda payload: read({"resource": payload}, _ResourceUpdatedField),
    "reject_access": lambda payload: read(payload, _RejectAccessField),
    "access_authorization_expiry_updated": lambda payload: read(payload, _ExpiryUpdatedField),
    "relays_presence": lambda payload: read(payload, RelaysPresenceField),
    "ice_candidates": lambda payload: read(payload, _IceCandidatesField),
    "invalidate_ice_candidates": lambda payload: read(payload, _InvalidateIceCandidatesField),
}
