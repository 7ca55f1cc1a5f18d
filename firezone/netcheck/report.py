"""What a check of the network found: plain values that stand in JSON as they stand here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from firezone.netcheck.filtering import Filtering
from firezone.netcheck.mapping import Mapping


@dataclass(frozen=True, slots=True)
class ServerReport:
    """One address of one STUN server or relay."""

    name: str
    address: str
    family: int
    """0 for a name without any address."""
    sent: int
    answered: int
    round_trip_min_ms: float | None
    round_trip_median_ms: float | None
    mapped: str | None
    """As whom it sees us."""
    path_mtu: int | None
    """The largest IP packet, of at most 1500 bytes, that reached it unfragmented; None: unknown."""
    error: str | None


@dataclass(frozen=True, slots=True)
class FamilyReport:
    """What is known of IPv4 or IPv6. None is unknown."""

    family: int
    reachable: bool | None
    """Whether any server answered; None if there was none to ask."""
    local: str | None
    mapped: tuple[str, ...]
    """All addresses that servers see us at."""
    mapping: Mapping
    port_preserved: bool | None
    """Whether the NAT keeps our port; None also without NAT."""
    hairpin: bool | None
    """Whether hosts behind the NAT reach each other at their outer addresses (RFC 4787 section 6);
    None also without NAT."""
    filtering: Filtering = Filtering.UNKNOWN
    """By whom our outer address can be reached, once we have sent from it."""
    filtering_note: str | None = None
    """Why no more is known of it."""
    nat64: str | None = None
    """Of IPv4: the prefix by which it is reached, where this host has IPv6 alone."""


@dataclass(frozen=True, slots=True)
class PortalReport:
    """Whether the portal answers `GET /healthz`. `tls` tells of its certificate, None without."""

    url: str
    reachable: bool
    status: int | None = None
    milliseconds: float | None = None
    tls: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StreamReport:
    """Whether a relay answers over TCP, or TLS, where it would if UDP is blocked."""

    address: str
    reachable: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class NetcheckReport:
    """Everything. `findings` says what it means for tunnels. `streams` were tried only where no
    server answered over UDP."""

    families: tuple[FamilyReport, ...]
    servers: tuple[ServerReport, ...]
    portal: PortalReport | None = None
    findings: tuple[str, ...] = field(default=())
    streams: tuple[StreamReport, ...] = ()


_TUNNEL_MTU = 1280
_WIREGUARD_OVERHEAD = 32
_CHANNEL_HEADER = 4
_HEADERS = {4: 28, 6: 48}


def works(report: NetcheckReport) -> bool:
    """Whether the portal answers, if it was asked, and any server over UDP."""
    portal = report.portal
    return (portal is None or portal.reachable) and any(f.reachable for f in report.families)


def findings(report: NetcheckReport) -> Iterator[str]:
    """What the report means for tunnels, the gravest first."""
    yield from _out_of_reach(report)
    for family in report.families:
        if family.reachable is not None:
            yield from _of_nat(family)
    for server in report.servers:
        if server.path_mtu is not None:
            yield from _of_path(server, server.path_mtu)


def _out_of_reach(report: NetcheckReport) -> Iterator[str]:
    portal = report.portal
    if portal is not None and not portal.reachable:
        yield f"the portal cannot be reached: {portal.error}"
    if not report.servers:
        yield "no relay is known yet, nor a STUN server: name some with --stun"
    for server in report.servers:
        if not server.family:
            yield f"{server.name} has no address: is it spelt right, does this host's DNS work?"
    yield from _unanswered(report)


def _unanswered(report: NetcheckReport) -> Iterator[str]:
    """A server counts as answering if any of its addresses does: not every host has IPv6."""
    asked = {server.name for server in report.servers if server.family}
    silent = asked - {server.name for server in report.servers if server.answered}
    if silent and silent == asked:
        yield f"no server answered over UDP: {_without_udp(report.streams)}"
    elif silent:
        yield f"{len(silent)} of {len(asked)} servers did not answer: {', '.join(sorted(silent))}"


def _without_udp(streams: tuple[StreamReport, ...]) -> str:
    reached = [stream.address for stream in streams if stream.reachable]
    if reached:
        return (
            f"but {reached[0]} answers over TCP, so a firewall blocks UDP; traffic goes over a "
            "relay that is reached so, which is slower"
        )
    if streams:
        return "nor over TCP or TLS: a firewall blocks both, or the servers are down"
    return (
        "a firewall blocks it, or the servers are down; without UDP a tunnel needs a relay that "
        "takes TCP or TLS"
    )


def _of_nat(family: FamilyReport) -> Iterator[str]:
    if family.nat64 is not None:
        yield (
            "this network has IPv6 alone, and a NAT64: relays and peers with IPv4 alone are "
            f"reached at {family.nat64}"
        )
    if family.mapping.is_symmetric and family.filtering is Filtering.ENDPOINT_INDEPENDENT:
        yield (
            f"the NAT for IPv{family.family} maps each destination differently, but lets "
            "everybody in: direct paths are possible nevertheless"
        )
    elif family.mapping.is_symmetric:
        yield (
            f"the NAT for IPv{family.family} maps each destination differently: direct paths "
            "only to peers without such a NAT; all others are relayed"
        )
    elif family.mapping is Mapping.UNKNOWN and family.reachable:
        yield (
            f"one server cannot tell how the NAT for IPv{family.family} maps: name a second "
            "one, at another address"
        )


def _of_path(server: ServerReport, path_mtu: int) -> Iterator[str]:
    needed = _TUNNEL_MTU + _WIREGUARD_OVERHEAD + _CHANNEL_HEADER + _HEADERS[server.family]
    if path_mtu < needed:
        yield (
            f"the path to {server.address} takes packets of {path_mtu} bytes, full ones "
            f"of the tunnel have {needed}: they are fragmented or lost"
        )
