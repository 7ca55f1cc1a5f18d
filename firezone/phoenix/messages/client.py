"""Topic `client`: what the portal says to a client, and what a client says back.

Resources are read one by one: a faulty one is skipped, so that a kind of resource we do not know
never costs the others. Everything else is strict, down to a single bad relay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import msgspec

from firezone.model import GatewayId, IceCredentials, Interface, ResourceId, SiteId
from firezone.phoenix.messages import common
from firezone.phoenix.messages.common import (
    IceCredentialsField,
    InterfaceField,
    IPNetwork,
    KeyField,
    MalformedMessage,
    Outgoing,
    Relay,
    RelayField,
    RelaysPresence,
    RelaysPresenceField,
    UnknownEvent,
    read,
)

TOPIC = "client"

_log = logging.getLogger(__name__)


class IpStack(StrEnum):
    """The address families a DNS resource is offered in."""

    DUAL = "dual"
    IPV4_ONLY = "ipv4_only"
    IPV6_ONLY = "ipv6_only"


class FailureReason(StrEnum):
    """Why no flow was created."""

    NOT_FOUND = "not_found"
    OFFLINE = "offline"
    FORBIDDEN = "forbidden"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> FailureReason:
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class Site:
    id: SiteId
    name: str


@dataclass(frozen=True, slots=True)
class CidrResource:
    id: ResourceId
    name: str
    address: IPNetwork
    sites: tuple[Site, ...] = ()
    address_description: str | None = None


@dataclass(frozen=True, slots=True)
class DnsResource:
    """`address` is a pattern: labels with `*`, `**` and `?`."""

    id: ResourceId
    name: str
    address: str
    sites: tuple[Site, ...] = ()
    address_description: str | None = None
    ip_stack: IpStack = IpStack.DUAL


@dataclass(frozen=True, slots=True)
class InternetResource:
    id: ResourceId
    name: str = "Internet Resource"
    sites: tuple[Site, ...] = ()


Resource = CidrResource | DnsResource | InternetResource


@dataclass(frozen=True, slots=True)
class Init:
    """The whole state: sent once after each join."""

    interface: Interface
    resources: tuple[Resource, ...] = ()
    relays: tuple[Relay, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    interface: Interface


@dataclass(frozen=True, slots=True)
class ResourceCreatedOrUpdated:
    resource: Resource


@dataclass(frozen=True, slots=True)
class ResourceDeleted:
    id: ResourceId


@dataclass(frozen=True, slots=True)
class IceCandidates:
    """SDP candidate strings of a gateway; some may not parse."""

    gateway_id: GatewayId
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InvalidateIceCandidates:
    gateway_id: GatewayId
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FlowCreated:
    """The gateway knows us and awaits our handshake. Keys are 32 bytes."""

    resource_id: ResourceId
    gateway_id: GatewayId
    site_id: SiteId
    gateway_public_key: bytes
    gateway_ipv4: IPv4Address
    gateway_ipv6: IPv6Address
    preshared_key: bytes = field(repr=False)
    client_ice: IceCredentials
    gateway_ice: IceCredentials


@dataclass(frozen=True, slots=True)
class FlowCreationFailed:
    """`violated_properties` names the conditions that failed when the reason is FORBIDDEN."""

    resource_id: ResourceId
    reason: FailureReason
    violated_properties: tuple[str, ...] = ()


Message = (
    Init
    | ConfigChanged
    | ResourceCreatedOrUpdated
    | ResourceDeleted
    | RelaysPresence
    | IceCandidates
    | InvalidateIceCandidates
    | FlowCreated
    | FlowCreationFailed
)


def decode(event: str, payload: object) -> Message:
    """A message of the portal. Raises UnknownEvent or MalformedMessage."""
    reader = _READERS.get(event)
    if reader is None:
        raise UnknownEvent(event)
    return reader(payload)


def create_flow(resource_id: ResourceId, connected_gateway_ids: Iterable[GatewayId]) -> Outgoing:
    """Ask for access to a resource, preferably through a gateway we are connected to."""
    ids = sorted(set(connected_gateway_ids))
    return Outgoing("create_flow", {"resource_id": resource_id, "connected_gateway_ids": ids})


def broadcast_ice_candidates(
    gateway_ids: Iterable[GatewayId], candidates: Iterable[str]
) -> Outgoing:
    return common.broadcast("broadcast_ice_candidates", "gateway_ids", gateway_ids, candidates)


def broadcast_invalidated_ice_candidates(
    gateway_ids: Iterable[GatewayId], candidates: Iterable[str]
) -> Outgoing:
    return common.broadcast(
        "broadcast_invalidated_ice_candidates", "gateway_ids", gateway_ids, candidates
    )


# The shapes on the wire.


class _SiteField(msgspec.Struct):
    id: common.SiteIdField
    name: str


class _ResourceField(msgspec.Struct):
    id: common.ResourceIdField
    gateway_groups: list[_SiteField]

    def sites(self) -> tuple[Site, ...]:
        return tuple(Site(site.id, site.name) for site in self.gateway_groups)


class _CidrField(_ResourceField, kw_only=True):
    name: str
    address: str
    address_description: str | None = None

    def value(self) -> CidrResource:
        address = ip_network(self.address)
        return CidrResource(self.id, self.name, address, self.sites(), self.address_description)


class _DnsField(_ResourceField, kw_only=True):
    name: str
    address: str
    address_description: str | None = None
    ip_stack: IpStack | None = None

    def value(self) -> DnsResource:
        stack = self.ip_stack or IpStack.DUAL
        description = self.address_description
        return DnsResource(self.id, self.name, self.address, self.sites(), description, stack)


class _InternetField(_ResourceField, kw_only=True):
    name: str = "Internet Resource"

    def value(self) -> InternetResource:
        return InternetResource(self.id, self.name, self.sites())


def _resource(payload: object) -> Resource:
    match _type_of(payload):
        case "cidr":
            return read(payload, _CidrField)
        case "dns":
            return read(payload, _DnsField)
        case "internet":
            return read(payload, _InternetField)
    raise MalformedMessage("unknown type of resource")


def _type_of(payload: object) -> str:
    """Without a type the whole message fails, unlike with one that we do not know."""
    match payload:
        case {"type": str(name)}:
            return name
    raise MalformedMessage("a resource has no type")


def _resources(payloads: Iterable[object]) -> tuple[Resource, ...]:
    found = []
    for payload in payloads:
        _type_of(payload)
        try:
            found.append(_resource(payload))
        except MalformedMessage as error:
            _log.debug("skipped a resource: %s", error)
    return tuple(found)


class _InitField(msgspec.Struct):
    interface: InterfaceField
    resources: list[Any] = []
    relays: list[RelayField] = []

    def value(self) -> Init:
        resources = _resources(self.resources)
        return Init(self.interface.value(), resources, common.relays(self.relays))


class _ConfigChangedField(msgspec.Struct):
    interface: InterfaceField

    def value(self) -> ConfigChanged:
        return ConfigChanged(self.interface.value())


class _CandidatesField(msgspec.Struct):
    gateway_id: common.GatewayIdField
    candidates: list[Any]


class _IceCandidatesField(_CandidatesField):
    def value(self) -> IceCandidates:
        return IceCandidates(self.gateway_id, common.candidates(self.candidates))


class _InvalidateIceCandidatesField(_CandidatesField):
    def value(self) -> InvalidateIceCandidates:
        return InvalidateIceCandidates(self.gateway_id, common.candidates(self.candidates))


class _FlowCreatedField(msgspec.Struct):
    resource_id: common.ResourceIdField
    gateway_id: common.GatewayIdField
    gateway_group_id: common.SiteIdField
    gateway_public_key: KeyField
    gateway_ipv4: IPv4Address
    gateway_ipv6: IPv6Address
    preshared_key: KeyField
    client_ice_credentials: IceCredentialsField
    gateway_ice_credentials: IceCredentialsField

    def value(self) -> FlowCreated:
        return FlowCreated(
            resource_id=self.resource_id,
            gateway_id=self.gateway_id,
            site_id=self.gateway_group_id,
            gateway_public_key=self.gateway_public_key,
            gateway_ipv4=self.gateway_ipv4,
            gateway_ipv6=self.gateway_ipv6,
            preshared_key=self.preshared_key,
            client_ice=self.client_ice_credentials.value(),
            gateway_ice=self.gateway_ice_credentials.value(),
        )


class _FlowCreationFailedField(msgspec.Struct):
    resource_id: common.ResourceIdField
    reason: str
    violated_properties: list[str] = []

    def value(self) -> FlowCreationFailed:
        reason = FailureReason(self.reason)
        return FlowCreationFailed(self.resource_id, reason, tuple(self.violated_properties))


def _resource_changed(payload: object) -> ResourceCreatedOrUpdated:
    return ResourceCreatedOrUpdated(_resource(payload))


def _resource_deleted(payload: object) -> ResourceDeleted:
    """The payload is the bare id."""
    return read({"id": payload}, _ResourceDeletedField)


class _ResourceDeletedField(msgspec.Struct):
    id: common.ResourceIdField

    def value(self) -> ResourceDeleted:
        return ResourceDeleted(self.id)


_READERS: dict[str, Callable[[object], Message]] = {
    "init": lambda payload: read(payload, _InitField),
    "config_changed": lambda payload: read(payload, _ConfigChangedField),
    "resource_created_or_updated": _resource_changed,
    "resource_deleted": _resource_deleted,
    "relays_presence": lambda payload: read(payload, RelaysPresenceField),
    "ice_candidates": lambda payload: read(payload, _IceCandidatesField),
    "invalidate_ice_candidates": lambda payload: read(payload, _InvalidateIceCandidatesField),
    "flow_created": lambda payload: read(payload, _FlowCreatedField),
    "flow_creation_failed": lambda payload: read(payload, _FlowCreationFailedField),
}
