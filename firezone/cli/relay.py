"""`firezone relay`: a STUN and TURN server for the peers of a portal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
)
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from firezone.cli.options import (
    RELAY_SOCKET,
    Logs,
    check_option,
    health_address,
    log_options,
    server_tls_context,
    status_address,
    tell_ok,
)
from firezone.cli.relay_options import (
    DEFAULT_REALM,
    Addresses,
    Forwarding,
    Operation,
    Peers,
    Portal,
    Streams,
    Users,
    addresses_options,
    forwarding_options,
    operation_options,
    peers_options,
    portal_options,
    streams_options,
    users_options,
)
from firezone.errors import ConfigurationError, LocalError
from firezone.model import Endpoint

if TYPE_CHECKING:
    from firezone.phoenix import LoginUrl
    from firezone.shell.relay_program import RelaySettings
    from firezone.shell.xdp import XdpSettings
    from firezone.turn.relay_allocate import Quotas
    from firezone.turn.relay_peers import PeerPolicy

T = TypeVar("T")
_SHORTEST_SECRET = 16


@click.command()
@addresses_options
@portal_options
@users_options
@operation_options
@peers_options
@streams_options
@forwarding_options
@click.option("--rng-seed", envvar="RNG_SEED", type=int, help="Be predictable: for tests only.")
@check_option
@log_options
def relay(
    addresses: Addresses,
    portal: Portal,
    users: Users,
    operation: Operation,
    peers: Peers,
    streams: Streams,
    forwarding: Forwarding,
    rng_seed: int | None,
    check: bool,
    log: Logs,
) -> int:
    """Relay traffic between peers that cannot reach each other.

    SIGTERM makes it leave the portal and refuse new allocations, serve the present ones until none
    is left, and exit; a second SIGTERM, or SIGINT, ends it at once. SIGHUP makes it read the files
    of users and peers again, if there are any, and ends nothing, so that it outlives the terminal
    it was started from.
    """
    from firezone.shell.relay_peers_file import read_peers
    from firezone.shell.relay_program import run_relay

    log.set_up()
    settings = replace(
        _settings(addresses, portal, users, peers, streams, forwarding),
        alternates=_alternates(operation.alternates),
        health=health_address(operation.health_check_addr),
        status=status_address(operation.status_socket, RELAY_SOCKET),
        seed=rng_seed,
    )
    if check:
        if settings.peers_file is not None:
            read_peers(settings.peers_file, "--peers-file", settings.peers)
        tell_ok()
        return 0
    return run_relay(settings)


def _settings(
    addresses: Addresses,
    portal: Portal,
    users: Users,
    peers: Peers,
    streams: Streams,
    forwarding: Forwarding,
) -> RelaySettings:
    from firezone.shell.relay_program import RelaySettings, default_workers
    from firezone.shell.relay_users import read_users
    from firezone.shell.websocket import tls_context

    ipv4, ipv6 = _public_addresses(addresses)
    ports = _ports(addresses)
    _check_users(portal, users)
    url = _login_url(portal, ipv4, ipv6, addresses.listen_port)
    return RelaySettings(
        public_ipv4=ipv4,
        public_ipv6=ipv6,
        listen_port=addresses.listen_port,
        ports=ports,
        one_port=addresses.one_port,
        peers=_policy(peers, ipv4, ipv6),
        peers_file=peers.peers_file,
        quotas=_quotas(users),
        url=url,
        ssl_context=tls_context(portal.ca) if portal.ca is not None else None,
        auth_secret=None if users.auth_secret_path is None else _secret(users.auth_secret_path),
        users={} if users.users_file is None else read_users(users.users_file, "--users-file"),
        users_file=users.users_file,
        realm=_realm(users.realm, has_portal=url is not None),
        streams=streams.streams,
        tls=server_tls_context(streams.tls_cert, streams.tls_key),
        tls_port=streams.tls_port,
        workers=forwarding.workers or default_workers(),
        gso=forwarding.gso,
        gro=forwarding.gro,
        xdp=_xdp(forwarding, addresses),
    )


def _public_addresses(given: Addresses) -> tuple[IPv4Address | None, IPv6Address | None]:
    found = (
        _address(IPv4Address, given.public_ip4_addr, "4"),
        _address(IPv6Address, given.public_ip6_addr, "6"),
    )
    if found == (None, None):
        raise ConfigurationError(
            "public address",
            "--public-ip4-addr, --public-ip6-addr",
            "neither is set",
            "give the addresses under which clients reach this host",
        )
    return found


def _address(kind: Callable[[str], T], text: str | None, version: str) -> T | None:
    if not text:
        return None
    try:
        return kind(text)
    except AddressValueError:
        raise ConfigurationError(
            f"public IPv{version} address",
            f"--public-ip{version}-addr or PUBLIC_IP{version}_ADDR",
            f"{text!r} is none",
            "write an address, without a port",
        ) from None


def _ports(given: Addresses) -> range:
    lowest, highest, listen_port = given.lowest_port, given.highest_port, given.listen_port
    ports = range(lowest, highest + 1)
    source = "--lowest-port, --highest-port"
    if not ports:
        problem = f"{lowest} is above {highest}"
        raise ConfigurationError("allocation ports", source, problem, "exchange them")
    if listen_port in ports and not given.one_port:
        problem = f"{lowest}-{highest} holds the listen port {listen_port}"
        raise ConfigurationError("allocation ports", source, problem, "choose ports without it")
    return ports


def _policy(given: Peers, ipv4: IPv4Address | None, ipv6: IPv6Address | None) -> PeerPolicy:
    from firezone.addresses import is_private
    from firezone.turn.relay_peers import PeerPolicy

    allow_private = given.allow_private_peers
    if allow_private is None:
        allow_private = any(is_private(a) for a in (ipv4, ipv6) if a is not None)
    return PeerPolicy(
        allow_loopback=given.allow_loopback_peers,
        allow_private=allow_private,
        allow=_networks(given.allow_peers, "--allow-peer or FIREZONE_ALLOW_PEERS"),
        deny=_networks(given.deny_peers, "--deny-peer or FIREZONE_DENY_PEERS"),
    )


def _quotas(given: Users) -> Quotas:
    from firezone.turn.relay_allocate import Quotas

    return Quotas(
        per_user=given.user_quota or None,
        total=given.total_quota or None,
        peers_per_user=given.user_peer_quota or None,
    )


def _xdp(given: Forwarding, addresses: Addresses) -> XdpSettings | None:
    from firezone.shell.xdp import XdpSettings

    if not given.xdp:
        return None
    if addresses.one_port:
        raise ConfigurationError(
            "XDP",
            "--xdp or EBPF_OFFLOADING",
            "does not go with --one-port: the kernel's program tells allocations by their ports",
            "leave one of them out",
        )
    return XdpSettings(given.xdp, None if given.xdp_mode == "auto" else given.xdp_mode)


def _networks(texts: tuple[str, ...], source: str) -> tuple[IPv4Network | IPv6Network, ...]:
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text))
        except ValueError as error:
            raise ConfigurationError("peers", source, str(error), "write 192.0.2.0/24") from None
    return tuple(networks)


def _alternates(texts: tuple[str, ...]) -> dict[int, Endpoint]:
    source, found = "--alternate-server or FIREZONE_RELAY_ALTERNATES", dict[int, Endpoint]()
    for text in texts:
        try:
            alternate = Endpoint.parse(text)
        except LocalError as error:
            raise ConfigurationError(
                "other relay", source, str(error), "write 192.0.2.1:3478 or [2001:db8::1]:3478"
            ) from None
        if alternate.family in found:
            problem = f"two over IPv{alternate.family}"
            raise ConfigurationError("other relay", source, problem, "choose one")
        found[alternate.family] = alternate
    return found


def _realm(realm: str, has_portal: bool) -> str:
    source = "--realm or FIREZONE_RELAY_REALM"
    if has_portal and realm != DEFAULT_REALM:
        raise ConfigurationError(
            "realm", source, f"clients of a portal insist on {DEFAULT_REALM!r}", "leave it out"
        )
    if not 1 <= len(realm) < 128 or not realm.isprintable() or '"' in realm:
        raise ConfigurationError("realm", source, f"{realm!r} is none", "use a domain name")
    return realm


def _check_users(portal: Portal, users: Users) -> None:
    """Somebody must have credentials. The portal wants a secret that is new at every start."""
    secret_path = users.auth_secret_path
    if portal.api_url is not None and secret_path is not None:
        problem = "does not go with --auth-secret-path"
    elif portal.api_url is None and secret_path is None and users.users_file is None:
        problem = "missing"
    else:
        return
    raise ConfigurationError(
        "api-url",
        "--api-url or FIREZONE_API_URL",
        problem,
        "give either the portal's URL, or --auth-secret-path or --users-file to serve without one",
    )


def _login_url(
    portal: Portal, ipv4: IPv4Address | None, ipv6: IPv6Address | None, port: int
) -> LoginUrl | None:
    from firezone.phoenix import LoginUrl
    from firezone.shell.credentials import read_token

    if portal.api_url is None:
        return None
    token = read_token(portal.token_path, "--token-path")
    return LoginUrl.relay(portal.api_url, token, name=portal.name, ipv4=ipv4, ipv6=ipv6, port=port)


def _secret(path: Path) -> str:
    from firezone.shell.private_file import read_private

    try:
        secret = read_private(path, "auth secret").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            "auth secret", f"--auth-secret-path {path}", f"cannot be read: {error}", "create it"
        ) from None
    if len(secret) < _SHORTEST_SECRET:
        raise ConfigurationError(
            "auth secret",
            str(path),
            f"has less than {_SHORTEST_SECRET} characters",
            f"use 64 random hex digits: (umask 077; openssl rand -hex 32 > {path})",
        )
    return secret
